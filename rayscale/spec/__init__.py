"""The sweep file as typed settings (design 4.1): what each key means, its unit, its default and what it may be.

Reading order: `trial` and `energy` (sections of one trial), `study` (what surrounds trials), then `sweep`.
`specfile` turns a YAML file into a `SweepSpec`; `design` turns a `SweepSpec` into trials.
"""

from rayscale.spec.base import TRIAL_SECTIONS, Count, Duration, Level, Positive, Section, Size
from rayscale.spec.energy import EnergySpec, EstimateSpec, SettleSpec
from rayscale.spec.study import (
    TREATMENT,
    AnalysisSpec,
    BudgetSpec,
    DesignSpec,
    ForecastSpec,
    RatioMargin,
    RegionSpec,
    ReportSpec,
    ResourcesSpec,
    StopSpec,
    TrackingSpec,
)
from rayscale.spec.sweep import SweepSpec
from rayscale.spec.teacher import PretrainSpec, TeacherSpec
from rayscale.spec.trial import BpeSpec, DataSpec, EvalSpec, ModelSpec, SyntheticSpec, TrainSpec

__all__ = [
    "TREATMENT",
    "TRIAL_SECTIONS",
    "AnalysisSpec",
    "BpeSpec",
    "BudgetSpec",
    "Count",
    "DataSpec",
    "DesignSpec",
    "Duration",
    "EnergySpec",
    "EstimateSpec",
    "EvalSpec",
    "ForecastSpec",
    "Level",
    "ModelSpec",
    "Positive",
    "PretrainSpec",
    "RatioMargin",
    "RegionSpec",
    "ReportSpec",
    "ResourcesSpec",
    "Section",
    "SettleSpec",
    "Size",
    "StopSpec",
    "SweepSpec",
    "SyntheticSpec",
    "TeacherSpec",
    "TrackingSpec",
    "TrainSpec",
]
