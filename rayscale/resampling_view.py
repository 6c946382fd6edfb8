"""The resampled view of a sweep (`rayscale analyze SWEEP --resample 60s`): as measured against as others would report.

From the stored trace of every trial, `analysis.sampling_period` computes what a sampler with another period would have
said; per level that gives the measured mean beside the resampled one, and the spread over the phase shifts, which is
the part of a reported difference that nothing but the start of the sampler decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayscale.analysis.efficiency import pee
from rayscale.analysis.sampling_period import Resampled, resample, spread
from rayscale.design import Plan, condition_label, grid
from rayscale.energy.integrate import power_steps
from rayscale.energy.measure import windows_of
from rayscale.energy.trace import read_trace
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.quantities import parse_duration
from rayscale.record import Level, Record

QUANTITIES = ("energy_j", "power_rms_w", "pee")
METHOD = (
    "point samples of the stored power at each phase shift; energy = RMS power x duration, as in the seed study; "
    "the duration itself is taken as exact"
)


@dataclass(frozen=True, eq=False)
class TrialView:
    """One trial's stored power, ready to be looked at with other periods.

    Attributes:
        record: The trial.
        starts: When each power value begins to hold, in s.
        power_w: The values, in W.
        window: Start and end of training, CLOCK_MONOTONIC in s.
        pee: The seed's efficiency as measured; None where a part of it is missing.
    """

    record: Record
    starts: np.ndarray
    power_w: np.ndarray
    window: tuple[float, float]
    pee: float | None

    @property
    def rms_w(self) -> float | None:
        """RMS power as measured, in W."""
        return self.record.energy.phases["train"].rms_w

    def measured(self) -> dict[str, float | None]:
        """Return the quantities as measured."""
        return {
            "energy_j": self.record.energy.phases["train"].energy_j,
            "power_rms_w": self.rms_w,
            "pee": self.pee,
        }

    def seen(self, period_s: float) -> Resampled:
        """Look at it with another period, in s."""
        return resample(self.starts, self.power_w, *self.window, period_s)

    def reported(self, seen: Resampled) -> dict[str, np.ndarray]:
        """Return the quantities as they would have been reported, one value per phase shift."""
        none = np.full(len(seen.shifts_s), np.nan)
        known = self.pee is not None and self.rms_w is not None
        return {
            "energy_j": seen.energy_j,
            "power_rms_w": seen.rms_w,
            "pee": seen.pee(self.pee, self.rms_w) if known and self.pee and self.rms_w else none,
        }


def trial_view(ledger: Ledger, record: Record) -> TrialView | None:
    """Read one trial's power.

    Args:
        ledger: The ledger.
        record: The trial.

    Returns:
        The view; None without a readable trace, power or training window.
    """
    windows = windows_of(record.phases, "train")
    if not windows or "train" not in record.energy.phases:
        return None
    try:
        steps = power_steps(read_trace(ledger.fetched_attempt(record.trial_key, record.attempt)))
    except InputError:
        return None
    window = (windows[0][0], windows[-1][1])
    if steps is None or window[1] <= window[0]:
        return None
    return TrialView(record, steps.starts, steps.values, window, _pee(record))


def _pee(record: Record) -> float | None:
    rms, bench, duration = (
        record.energy.phases["train"].rms_w,
        record.device.tflops_bench,
        record.phase_seconds("train"),
    )
    if rms is None or bench is None or rms <= 0 or duration <= 0:
        return None
    return pee(record.evaluation.perplexity, bench, record.training.params, rms, duration)


def resample_sweep(ledger: Ledger, plan: Plan, period: str) -> dict[str, Any]:
    """Resample the trials that the analysis looks at.

    Args:
        ledger: The ledger.
        plan: The plan.
        period: The sampling period with its unit, e.g. `60s`.

    Returns:
        What `resampled_section` gives.

    Raises:
        InputError: If the period is no duration above 0.
    """
    try:
        period_s = parse_duration(period)
    except ValueError as error:
        raise InputError(f"--resample {period}: {error}") from None
    if period_s <= 0:
        raise InputError(f"--resample {period}: expected a duration above 0 such as 60s")
    unwanted = set(plan.spec.analysis.exclude)
    records = [record for record in ledger.records(plan) if record.quality.verdict not in unwanted]
    return resampled_section(ledger, records, period_s)


def resampled_section(ledger: Ledger, records: Sequence[Record], period_s: float) -> dict[str, Any]:
    """Build the section `resampled` of the analysis.

    Args:
        ledger: The ledger.
        records: Its completed trials.
        period_s: The sampling period, in s.

    Returns:
        `{period_s, method, levels: {<level>: {condition, trials, duration_s, samples, empty_share, as_measured,
        resampled: {<quantity>: {mean, sd_shifts, low, high}}}}, notes}`; `sd_shifts`, `low` and `high` are over the
        phase shifts of single trials, averaged over the trials of the level.
    """
    views = [view for record in records if (view := trial_view(ledger, record)) is not None]
    notes = [METHOD]
    if len(views) < len(records):
        notes.append(f"{len(records) - len(views)} of {len(records)} trials have no readable power trace")
    if any(view.record.energy.estimated for view in views):
        notes.append("power is estimated from CPU time, not measured")
    stored = max((_stored_period(view) for view in views), default=0.0)
    if period_s < stored:
        notes.append(f"the period is shorter than that of the stored traces ({stored:.3g} s): nothing new is seen")
    levels = {}
    for condition in _conditions(views):
        members = [view for view in views if view.record.condition == condition]
        levels[condition_label(condition)] = _level(condition, members, period_s)
    return {"period_s": period_s, "method": METHOD, "levels": levels, "notes": notes}


def _stored_period(view: TrialView) -> float:
    return float(np.median(np.diff(view.starts))) if len(view.starts) > 1 else 0.0


def _conditions(views: Sequence[TrialView]) -> list[dict[str, Level]]:
    """List the conditions that occur, in the order of the design's grid."""
    names = {name: None for view in views for name in view.record.condition}
    levels = {name: list(dict.fromkeys(view.record.condition[name] for view in views)) for name in names}
    ordered = {name: sorted(values) if name == "tokens" else values for name, values in levels.items()}
    present = [view.record.condition for view in views]
    return [condition for condition in grid(ordered) if condition in present] if views else []


def _level(condition: dict[str, Level], views: Sequence[TrialView], period_s: float) -> dict[str, Any]:
    seen = [view.seen(period_s) for view in views]
    reported = [view.reported(one) for view, one in zip(views, seen, strict=True)]
    measured = [view.measured() for view in views]
    return {
        "condition": condition,
        "trials": len(views),
        "duration_s": _mean([one.duration_s for one in seen]),
        "samples": _mean([float(one.samples.mean()) for one in seen]),
        "empty_share": _mean([one.empty_share for one in seen]),
        "as_measured": {name: _mean([values[name] for values in measured]) for name in QUANTITIES},
        "resampled": {name: _over_trials([values[name] for values in reported]) for name in QUANTITIES},
    }


def _over_trials(values: Sequence[np.ndarray]) -> dict[str, float | None]:
    spreads = [found for one in values if (found := spread(one)) is not None]
    return {
        "mean": _mean([one.mean for one in spreads]),
        "sd_shifts": _mean([one.sd for one in spreads]),
        "low": _mean([one.low for one in spreads]),
        "high": _mean([one.high for one in spreads]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def render_resampled(section: dict[str, Any]) -> str:
    """Write the section as a table.

    Args:
        section: From `resampled_section`.

    Returns:
        Text: per level and quantity as measured, resampled, and the spread over the phase shifts.
    """
    head = (
        f"{'level':<24}{'quantity':<13}{'measured':>11}{'resampled':>11}{'bias':>8}{'sd':>8}{'range over shifts':>26}"
    )
    lines = [f"sampled every {section['period_s']:g} s instead of as stored:", head]
    for label, level in section["levels"].items():
        for name in QUANTITIES:
            lines.append(f"{label:<24}{name:<13}" + _row(level["as_measured"][name], level["resampled"][name]))
        if level["empty_share"]:
            lines.append(f"{'':<24}no sample at all at {level['empty_share']:.0%} of the phase shifts")
    return "\n".join([*lines, *(f"note: {note}" for note in section["notes"])])


def _row(measured: float | None, resampled: dict[str, float | None]) -> str:
    mean, sd, low, high = (resampled[name] for name in ("mean", "sd_shifts", "low", "high"))
    if measured is None or mean is None or sd is None or low is None or high is None:
        return f"{_number(measured):>11}{_number(mean):>11}"
    shares = f"{mean / measured - 1:>+8.1%}{sd / mean:>8.1%}" if measured and mean else f"{'':>16}"
    return f"{measured:>11.4g}{mean:>11.4g}{shares}{f'{low:.4g} .. {high:.4g}':>26}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
