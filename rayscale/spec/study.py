"""The sections around the trials: design, resources, budget, analysis, tracking, report."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rayscale.quantities import parse_count
from rayscale.spec.base import Duration, Level, Positive, Section

TREATMENT = "treatment"
"""Name of the factor that `design.treatments` makes."""


class StopSpec(Section):
    """Group-sequential stopping: looks at whole blocks, no further block once the question is answered."""

    dv: str
    """The measure that is tested; one of `analysis.dv`."""
    effect: str | None = None
    """What is tested: a factor, or an interaction such as `tokens:train.precision`; null: `tokens`."""
    after: list[int] = Field(min_length=1)
    """Numbers of complete blocks at which to look, ascending. The end of the sweep is always the last look."""
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    """How alpha is spread over the looks: little at first, or about evenly."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Type-I error over all looks; null: `analysis.alpha`."""
    target_halfwidth: Positive | None = None
    """Stop, too, when the widest confidence interval of a difference between levels is at most +- this (unit of dv)."""

    @field_validator("after", mode="after")
    @classmethod
    def _ascending(cls, after: list[int]) -> list[int]:
        if after[0] < 2 or any(later <= earlier for earlier, later in itertools.pairwise(after)):
            raise ValueError("expected ascending numbers of complete blocks, the first at least 2")
        return after


class DesignSpec(Section):
    """The experiment: what is varied, how often, in which order."""

    factors: dict[str, list[Level]]
    """`tokens` and any dotted setting of model, data, train, eval or energy, each with its levels."""
    treatments: dict[str, dict[str, Level | None]] = Field(default={})
    """Named bundles of dotted settings, e.g. `lora: {train.lora_rank: 8}`: the levels of the factor `treatment`, all of
    them unless `factors` lists some."""
    repetitions: int = Field(default=5, ge=1)
    """Number of blocks; the trials of one share seed and device."""
    seed: int = Field(default=2601, ge=0)
    """Seed of run order, initial weights and data order."""
    order: Literal["randomized_blocks", "fixed", "latin_square"] = "randomized_blocks"
    """Order of conditions within a block. Only random order keeps drift from looking like an effect."""
    stop: StopSpec | None = None
    """Rule that may end the sweep before all repetitions; null: none."""

    @model_validator(mode="before")
    @classmethod
    def _treatments_are_levels(cls, given: Any) -> Any:
        factors = given.get("factors") if isinstance(given, dict) else None
        if isinstance(factors, dict) and isinstance(given.get("treatments"), dict) and given["treatments"]:
            return given | {"factors": factors | {TREATMENT: factors.get(TREATMENT, list(given["treatments"]))}}
        return given

    @field_validator("treatments", mode="after")
    @classmethod
    def _plain_names(cls, treatments: dict[str, dict[str, Level | None]]) -> dict[str, dict[str, Level | None]]:
        for name in treatments:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.+-]*", name):
                raise ValueError(f"`{name}` names a level; expected letters, digits, spaces or any of `_.+-`")
        return treatments

    @field_validator("factors", mode="after")
    @classmethod
    def _levels(cls, factors: dict[str, list[Level]]) -> dict[str, list[Level]]:
        if "tokens" not in factors:
            raise ValueError("expected the factor `tokens` with at least one level, e.g. tokens: [500K, 1M, 2M]")
        for name, levels in factors.items():
            if not levels:
                raise ValueError(f"factor `{name}` has no levels")
        factors = factors | {"tokens": sorted(parse_count(level) for level in factors["tokens"])}
        for name, levels in factors.items():
            if len({str(level) for level in levels}) < len(levels):
                raise ValueError(f"factor `{name}` names a level twice")
        if factors["tokens"][0] < 1:  # type: ignore[operator]
            raise ValueError("levels of `tokens` are at least 1")
        return factors

    @model_validator(mode="after")
    def _treatments_fit(self) -> DesignSpec:
        for name in self.factors.get(TREATMENT, []):
            if name not in self.treatments:
                known = ", ".join(self.treatments) or "none is defined"
                raise ValueError(f"factors.{TREATMENT}: `{name}` is no key of design.treatments ({known})")
        for name, settings in self.treatments.items():
            both = [path for path in settings if path in self.factors]
            if both:
                raise ValueError(
                    f"treatments.{name}: `{both[0]}` is a factor too; expected only one of the two to set it"
                )
        return self

    @model_validator(mode="after")
    def _stop_fits(self) -> DesignSpec:
        if self.stop is not None and self.stop.after[-1] > self.repetitions:
            raise ValueError(f"stop.after: expected looks at no more than `repetitions` ({self.repetitions}) blocks")
        if self.stop is not None and all(len(levels) < 2 for levels in self.factors.values()):
            raise ValueError("stop: expected a factor with at least two levels; there is nothing to test")
        varied = [name for name, levels in self.factors.items() if len(levels) > 1]
        named = self.stop.effect.split(":") if self.stop is not None and self.stop.effect is not None else []
        if not set(named) <= set(varied) or len(set(named)) < len(named):
            raise ValueError(f"stop.effect: expected one of {', '.join(varied)}, or several joined by `:`")
        if len(named) > 1 and self.stop is not None and self.stop.target_halfwidth is not None:
            raise ValueError("stop.target_halfwidth: expected one factor in stop.effect; an interaction has no levels")
        return self


class ResourcesSpec(Section):
    """What one trial gets, and how failures are treated."""

    gpus: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """GPUs per trial, all of one node; auto: one where the machine has any, else none. With several, one process per
    GPU takes its share of each step (`train.parallel`)."""
    ranks: int = Field(default=1, ge=1)
    """Processes of a trial on the CPU (`gpus: 0`) that share each step, and the CPUs, as those of several GPUs do."""
    cpus: int = Field(default=2, ge=1)
    """CPUs per trial."""
    slots: int | None = Field(default=None, ge=1)
    """Trials at the same time; null: one per GPU, or one on a CPU machine (trials would disturb each other)."""
    max_attempts: int = Field(default=2, ge=1)
    """Attempts per trial in one run."""
    time_limit: Annotated[Duration, Field(gt=0)] = 7200.0
    """Longest attempt; a trial that hangs past it is killed and counts as failed."""
    lost_device: Literal["redo_block", "keep_finished"] = "redo_block"
    """When a block's device is gone in mid-block: all of it again on another one, or its unfinished trials only."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _count_or_auto(cls, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, str) and value != "auto" and not value.isdigit()):
            raise ValueError(f"expected a number of GPUs or `auto`, got {value!r}")
        return value

    @model_validator(mode="after")
    def _ranks_are_on_the_cpu(self) -> ResourcesSpec:
        if self.ranks > 1 and self.gpus not in (0, self.ranks):
            raise ValueError(
                f"`ranks` {self.ranks} is for the CPU (`gpus: 0`), got gpus: {self.gpus}; on GPUs a trial has one rank "
                f"per GPU: gpus: {self.ranks}"
            )
        return self

    @property
    def needs_gpus(self) -> bool:
        """Whether a trial cannot do without a GPU."""
        return isinstance(self.gpus, int) and self.gpus > 0

    @property
    def alone(self) -> ResourcesSpec:
        """The same for one process on one device."""
        gpus = min(self.gpus, 1) if isinstance(self.gpus, int) else self.gpus
        return self.model_copy(update={"ranks": 1, "gpus": gpus})

    @property
    def devices(self) -> int:
        """Devices that a trial occupies: its GPUs, or the one CPU that its ranks share."""
        return self.world if self.needs_gpus else 1

    @property
    def world(self) -> int:
        """Processes that train one trial together: one per GPU, `ranks` on a CPU."""
        return max(self.gpus, self.ranks) if isinstance(self.gpus, int) else 1


class RatioMargin(Section):
    """An equivalence margin as a ratio of two levels."""

    ratio: float = Field(gt=1, allow_inf_nan=False)
    """Two levels count as equal if each is less than this many times the other."""


class AnalysisSpec(Section):
    """What is tested, declared before the runs."""

    dv: list[str] = Field(default=["pee", "joules_per_token", "perplexity"], min_length=1)
    """Dependent variables: columns, built-in metrics or names from `metrics`."""
    correction: Literal["bonferroni", "holm", "hochberg", "hommel", "bh", "by", "none"] = "bonferroni"
    """Adjustment of the pairwise p values that the text leads with."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Significance level; intervals have confidence 1 - alpha."""
    metrics: dict[str, str] = Field(default={})
    """User-defined metrics: name -> arithmetic expression over the columns."""
    exclude: list[Literal["suspect", "invalid"]] = Field(default=["invalid"])
    """Verdicts whose trials the analysis leaves out (it says how many)."""
    scale: Literal["raw", "log"] = "raw"
    """Primary scale, declared before the runs: log compares ratios, raw differences. Both are always computed."""
    equivalence: dict[str, Positive | RatioMargin] = Field(default={})
    """Margin per dependent variable, in its units or as {ratio: 1.05}: pairs of levels are tested for differing by less
    (TOST), the ratio on the log scale."""

    @model_validator(mode="after")
    def _known_margins(self) -> AnalysisSpec:
        unknown = [name for name in self.equivalence if name not in self.dv]
        if unknown:
            raise ValueError(f"equivalence: `{unknown[0]}` is not among analysis.dv ({', '.join(self.dv)})")
        return self


class TrackingSpec(Section):
    """The MLflow mirror."""

    uri: str | None = None
    """Tracking server; null: a sqlite file beside the ledger."""


class RegionSpec(Section):
    """A grid whose carbon intensity the sweep's energy is shown with, beside others."""

    name: str
    """Name of the region, as it is shown."""
    g_per_kwh: float | None = Field(default=None, ge=0)
    """Grid carbon intensity in g CO2e per kWh; null: looked up by `code`."""
    code: str | None = None
    """ISO 3166 country, with a region where known: `DE`, `CAN/quebec`, `USA/west virginia` (needs rayscale[carbon])."""
    source: str | None = None
    """Where the intensity comes from."""
    year: int | None = None
    """Year that it describes."""

    @model_validator(mode="after")
    def _some_intensity(self) -> RegionSpec:
        if (self.g_per_kwh is None) == (self.code is None):
            raise ValueError("expected either `g_per_kwh` (with source and year) or `code` (rayscale[carbon])")
        return self


class BudgetSpec(Section):
    """Hard caps on what the whole sweep may take, failed attempts included; no block starts that would exceed one."""

    gpu_hours: Positive | None = None
    """Device-hours; on a CPU machine hours of the CPU."""
    kwh: Positive | None = None
    """Energy of the devices in kWh, without PUE."""
    money: Positive | None = None
    """Cost by `report.price_per_kwh` (times PUE) and `report.price_per_gpu_hour`, in their currency."""

    @property
    def given(self) -> dict[str, float]:
        """The caps that are set."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class ForecastSpec(Section):
    """The relative-loss forecast (arXiv 2501.02156) that is made wherever the sweep's own fit gives a kappa."""

    years: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """How far ahead. Units: yr."""
    gammas: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(default=[0.0, 0.5, 1.0, 2.0], min_length=1)
    """Efficiency doublings per year; 0: the fleet gets no more efficient."""
    target: float = Field(default=0.5, gt=0, lt=1)
    """Relative loss to reach."""
    front_load: Positive | None = None
    """Years within which a front-loaded fleet of the same energy spends it; null: a tenth of `years`."""

    @model_validator(mode="after")
    def _spent_in_time(self) -> ForecastSpec:
        if self.front_load is not None and self.front_load > self.years:
            raise ValueError(f"front_load: expected at most `years` ({self.years:g})")
        return self


class ReportSpec(Section):
    """Figures that turn energy into carbon and money. What is not given stays null."""

    grid_g_per_kwh: float | None = Field(default=None, ge=0)
    """Grid carbon intensity in g CO2e per kWh."""
    country: str | None = None
    """ISO 3166 code; without `grid_g_per_kwh` the intensity is looked up by it (needs rayscale[carbon])."""
    grid_source: str | None = None
    """Where `grid_g_per_kwh` comes from."""
    grid_year: int | None = None
    """Year that it describes."""
    regions: list[RegionSpec] = Field(default=[])
    """Further grids to show the same energy with, side by side."""
    pue: float = Field(default=1.0, ge=1)
    """Power usage effectiveness of the building."""
    pue_source: str | None = None
    """Where `pue` comes from."""
    pue_year: int | None = None
    """Year that it describes."""
    currency: str | None = None
    """Currency of the prices, e.g. EUR."""
    price_per_kwh: float | None = Field(default=None, ge=0)
    """Price of electricity."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Price of a device hour."""
    forecast: ForecastSpec = ForecastSpec()
    """What the relative-loss forecast shows."""

    @model_validator(mode="after")
    def _grids_have_names_of_their_own(self) -> ReportSpec:
        names = [region.name for region in self.regions] + ([self.country] if self.country else [])
        if len(set(names)) < len(names):
            raise ValueError("regions: expected a different name for each grid, `country` included")
        return self
