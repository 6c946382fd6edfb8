"""What was drawn, and how far it can be trusted: the parts of a record that the energy readers fill in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["clean", "suspect", "invalid"]

VERDICTS: tuple[Verdict, ...] = ("clean", "suspect", "invalid")
"""From best to worst."""


class Part(BaseModel):
    """Base of a record's parts: frozen, and names that are not known (yet) are left out."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="ignore")


class Reason(Part):
    """Why a verdict is not clean: a stable code and a sentence."""

    code: str
    detail: str
    verdict: Verdict = "suspect"


class Quality(Part):
    """How far the numbers can be trusted."""

    verdict: Verdict
    reasons: list[Reason] = []


class PhaseEnergy(Part):
    """Energy and power within one phase name (its windows added up). Units: J, W, s."""

    duration_s: float
    energy_j: float | None
    """The estimate that `EnergyResult.method` names."""
    counter_j: float | None = None
    """Difference of the device's cumulative counter."""
    integral_j: float | None = None
    """Integral of averaged power."""
    instant_j: float | None = None
    """Integral of instantaneous power, where the device has it."""
    bound_j: float | None = None
    """Half-width of `energy_j`: the sum of the parts below that are known."""
    edge_bound_j: float | None = None
    """What the edges of the phase leave open: power may have changed between two samples, or within their window."""
    gap_bound_j: float | None = None
    """What gaps between samples leave open; 0 for a counter, which runs on through them."""
    sampling_bound_j: float | None = None
    """What a sensor that looks only part of the time leaves open (99 %, if the load is not in step with it)."""
    sensor_bound_j: float | None = None
    """Accuracy class of the sensor x energy: constant within a card, None where unknown."""
    power_capped_share: float | None = None
    """Share of the phase below the wanted clocks because of the power limit (NVML field 74)."""
    thermal_share: float | None = None
    """The same because of heat (NVML field 75)."""
    mean_w: float | None = None
    rms_w: float | None = None
    sd_w: float | None = None
    """Standard deviation of the power samples (n - 1)."""
    samples: int = 0
    backfilled: int = 0
    """Samples that fill gaps between polls, from the driver's own buffer."""
    coverage: float = 0.0
    """Share of the phase that samples cover."""


class DeviceEnergy(Part):
    """One of several devices of a trial, measured and judged by itself."""

    uuid: str
    name: str | None
    method: str
    phases: dict[str, PhaseEnergy]
    net_energy_j: float | None
    idle_w: float | None
    temp_start_c: float | None
    temp_end_c: float | None
    verdict: Verdict
    reasons: list[str] = []
    """Codes of what is wrong with it; the sentences are among the trial's reasons."""


class EnergyResult(Part):
    """Energy of one attempt."""

    source: Literal["nvml", "rapl", "estimated", "none"]
    method: str
    """Which estimate `energy_j` is, in words, with the quantity read (e.g. `estimated: 5 W + 10 W per busy CPU`)."""
    estimated: bool
    """True when energy comes from a model, not from a sensor; every place that shows it says so."""
    phases: dict[str, PhaseEnergy]
    net_energy_j: float | None
    """Train energy minus idle power x train duration; never floored at 0."""
    net_bound_j: float | None = None
    """Half-width of `net_energy_j`: the bounds of both, the baseline's stretched to the length of the training."""
    net_baseline: str | None
    """Which idle was subtracted: `context_idle` or `idle`."""
    idle_w: float | None
    """Mean power of the subtracted baseline."""
    idle_sd_w: float | None
    temp_start_c: float | None
    temp_end_c: float | None
    devices: list[DeviceEnergy] = []
    """The devices of a trial on several; the numbers beside are then sums (power, energy and its bounds), the least
    (coverage) or the most (temperatures, throttled shares) of theirs."""
    outside: dict[str, PhaseEnergy] = {}
    """What was drawn outside the phases: `settling` before the first, `between` them."""
    sampler: dict[str, float | int | str | bool | None] = {}
    """What the sampler did and cost: polls, lateness, real-time priority, call latency, own CPU time."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine verdicts.

    Args:
        verdicts: Any number of verdicts.

    Returns:
        The worst of them; `clean` if there is none.
    """
    return max(verdicts, key=VERDICTS.index, default="clean")
