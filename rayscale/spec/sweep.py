"""`SweepSpec`: the whole sweep file, and what its sections owe each other."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from pydantic import field_validator, model_validator

from rayscale.spec.base import TRIAL_SECTIONS, Level, Section
from rayscale.spec.energy import EnergySpec
from rayscale.spec.parallel import parallel_problem
from rayscale.spec.study import (
    TREATMENT,
    AnalysisSpec,
    BudgetSpec,
    DesignSpec,
    ReportSpec,
    ResourcesSpec,
    TrackingSpec,
)
from rayscale.spec.trial import DataSpec, EvalSpec, ModelSpec, TrainSpec


class SweepSpec(Section):
    """One designed experiment, as described by one YAML file."""

    name: str
    """Name of the sweep: directory of the ledger and MLflow experiment."""
    design: DesignSpec
    model: ModelSpec
    data: DataSpec
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    energy: EnergySpec = EnergySpec()
    resources: ResourcesSpec = ResourcesSpec()
    budget: BudgetSpec = BudgetSpec()
    analysis: AnalysisSpec = AnalysisSpec()
    tracking: TrackingSpec = TrackingSpec()
    report: ReportSpec = ReportSpec()

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("expected letters, digits, '.', '_' or '-' (it names a directory)")
        return name

    @model_validator(mode="after")
    def _whole(self) -> SweepSpec:
        if self.data.tokenizer is None and self.model.pretrained is None and self.data.synthetic is None:
            raise ValueError(
                "data.tokenizer: expected `bytes`, {bpe: N} or a path, since the model has none of its own"
            )
        if self.design.stop is not None and self.design.stop.dv not in self.analysis.dv:
            raise ValueError(f"design.stop.dv: expected one of analysis.dv ({', '.join(self.analysis.dv)})")
        if self.train.precision == "fp8" and self.resources.gpus == 0:
            raise ValueError("train.precision: fp8 needs a GPU, but resources.gpus is 0; expected bf16 or fp32")
        if self.budget.money and self.report.price_per_kwh is None and self.report.price_per_gpu_hour is None:
            raise ValueError("budget.money: expected report.price_per_kwh or report.price_per_gpu_hour beside it")
        if (problem := parallel_problem(self)) is not None:
            raise ValueError(problem)
        return self

    @property
    def world(self) -> int:
        """Processes that train one trial together."""
        return self.resources.world

    @property
    def sharded(self) -> bool:
        """Whether weights, gradients and moments are spread over these processes."""
        return self.world > 1 and self.train.parallel == "fsdp"

    @property
    def threads(self) -> int:
        """CPU threads of one of these processes."""
        return self.train.threads or max(1, self.resources.cpus // self.world)

    def with_setting(self, path: str, value: Level | None) -> SweepSpec:
        """Return the sweep with one trial setting replaced, as a factor's level does.

        Args:
            path: Dotted setting such as `train.precision`, in one of `TRIAL_SECTIONS`, or `treatment`.
            value: The level; for `treatment` the name of a bundle of `design.treatments`.

        Returns:
            The validated sweep.

        Raises:
            ValueError: If the path is no trial setting or the value does not fit.
        """
        return self.with_settings({path: value})

    def with_settings(self, levels: Mapping[str, Level | None]) -> SweepSpec:
        """Return the sweep with several trial settings replaced at once, so that only their sum must be valid.

        Args:
            levels: Dotted setting, or `treatment`, -> level.

        Returns:
            The validated sweep.

        Raises:
            ValueError: If a path is no trial setting or the values do not fit.
        """
        if not levels:
            return self
        tree = self.model_dump(exclude_unset=True)
        for path, value in self._settings_of(levels).items():
            parts = path.split(".")
            if len(parts) < 2 or parts[0] not in TRIAL_SECTIONS:
                raise ValueError(
                    f"`{path}` is no trial setting; expected `tokens` or one of {', '.join(TRIAL_SECTIONS)} + `.key`"
                )
            node: Any = tree
            for part in parts[:-1]:
                child = node.get(part)
                node[part] = copy.copy(child) if isinstance(child, dict) else {}
                node = node[part]
            node[parts[-1]] = value
        return SweepSpec.model_validate(tree)

    def _settings_of(self, levels: Mapping[str, Level | None]) -> dict[str, Level | None]:
        """Put a treatment's settings in the place of its name."""
        settings: dict[str, Level | None] = {}
        for path, value in levels.items():
            settings |= self.design.treatments[str(value)] if path == TREATMENT else {path: value}
        return settings
