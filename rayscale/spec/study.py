"""The sections around the trials: design, resources, analysis, tracking, report."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rayscale.quantities import parse_count
from rayscale.spec.base import Duration, Level, Positive, Section


class StopSpec(Section):
    """Group-sequential stopping: looks at whole blocks, no further block once the question is answered."""

    dv: str
    """The measure that is tested; one of `analysis.dv`."""
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
    repetitions: int = Field(default=5, ge=1)
    """Number of blocks; the trials of one share seed and device."""
    seed: int = Field(default=2601, ge=0)
    """Seed of run order, initial weights and data order."""
    order: Literal["randomized_blocks", "fixed", "latin_square"] = "randomized_blocks"
    """Order of conditions within a block. Only random order keeps drift from looking like an effect."""
    stop: StopSpec | None = None
    """Rule that may end the sweep before all repetitions; null: none."""

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
    def _stop_fits(self) -> DesignSpec:
        if self.stop is not None and self.stop.after[-1] > self.repetitions:
            raise ValueError(f"stop.after: expected looks at no more than `repetitions` ({self.repetitions}) blocks")
        if self.stop is not None and all(len(levels) < 2 for levels in self.factors.values()):
            raise ValueError("stop: expected a factor with at least two levels; there is nothing to test")
        return self


class ResourcesSpec(Section):
    """What one trial gets, and how failures are treated."""

    gpus: Literal["auto", 0, 1] = "auto"
    """GPUs per trial; auto: one where the machine has any, else none."""
    cpus: int = Field(default=2, ge=1)
    """CPUs per trial."""
    slots: int | None = Field(default=None, ge=1)
    """Trials at the same time; null: one per GPU, or one on a CPU machine (trials would disturb each other)."""
    max_attempts: int = Field(default=2, ge=1)
    """Attempts per trial in one run."""
    time_limit: Annotated[Duration, Field(gt=0)] = 7200.0
    """Longest attempt; a trial that hangs past it is killed and counts as failed."""


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
    equivalence: dict[str, Positive] = Field(default={})
    """Margin per dependent variable, in its units: pairs of levels are tested for differing by less (TOST)."""

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


class ReportSpec(Section):
    """Figures that turn energy into carbon and money. What is not given stays null."""

    grid_g_per_kwh: float | None = Field(default=None, ge=0)
    """Grid carbon intensity in g CO2e per kWh."""
    country: str | None = None
    """ISO 3166 code, for the report's head."""
    pue: float = Field(default=1.0, ge=1)
    """Power usage effectiveness of the building."""
    price_per_kwh: float | None = Field(default=None, ge=0)
    """Price of electricity."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Price of a device hour."""
