"""The verdict on one attempt's energy: clean, suspect or invalid, each reason a stable code with a sentence.

A rule is a function from `Evidence` to reasons, listed in `RULES`; a new rule is one more entry. All look at the
`train` phase, because it is the one that is analysed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rayscale.energy.integrate import WindowEnergy, integrate_windows, standstill_limit
from rayscale.energy.measure import windows_of
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import Trace
from rayscale.record import EnergyResult, Phase, PhaseEnergy, Quality, Reason, Verdict, worst
from rayscale.spec import EnergySpec

MAX_THROTTLED = 0.01
"""Share of the phase in which the device may be slowed down."""
MAX_FAILED_POLLS = 0.01
"""Share of the polls that may fail."""
SHORT_PHASE_PERIODS = 5
HARMLESS_THROTTLE = frozenset({"SwPowerCap", "SyncBoost"})
"""A GPU at full load is held by its power cap: the normal state, not a fault."""


@dataclass(frozen=True)
class Evidence:
    """What the rules look at.

    Attributes:
        trace: The power trace; None when there is none.
        windows: The `train` windows with all estimates.
        spans: Their start and end.
        train: The `train` phase's energy; None when the phase did not occur.
        result: The attempt's energy.
        spec: Thresholds.
        stats: What the sampler reported.
        reference_c: Temperature at the start of the block's first trial, in degrees Celsius.
    """

    trace: Trace | None
    windows: list[WindowEnergy]
    spans: list[tuple[float, float]]
    train: PhaseEnergy | None
    result: EnergyResult
    spec: EnergySpec
    stats: SamplerStats | None
    reference_c: float | None = None


Rule = Callable[[Evidence], Iterator[Reason]]


def judge(
    trace: Trace | None,
    phases: list[Phase],
    result: EnergyResult,
    spec: EnergySpec,
    stats: SamplerStats | None,
    *,
    reference_c: float | None = None,
    extra: Sequence[Reason] = (),
) -> Quality:
    """Judge one attempt.

    Args:
        trace: The power trace; None when there is none.
        phases: The attempt's phases.
        result: Its energy.
        spec: Thresholds.
        stats: What the sampler reported; None when it did not.
        reference_c: Temperature at the start of the block's first trial, in degrees Celsius.
        extra: Reasons that others found (wrong device, settling timed out, ...).

    Returns:
        The worst verdict of all reasons, with the reasons.
    """
    spans = windows_of(phases, "train")
    windows = integrate_windows(trace, spans) if trace is not None else []
    train = result.phases.get("train")
    evidence = Evidence(trace, windows, spans, train, result, spec, stats, reference_c)
    reasons = [reason for rule in RULES for reason in rule(evidence)] + list(extra)
    return Quality(verdict=worst(reason.verdict for reason in reasons), reasons=reasons)


def _no_energy(evidence: Evidence) -> Iterator[Reason]:
    if evidence.train is None:
        yield Reason(code="no_energy", detail="there is no train phase", verdict="invalid")
    elif evidence.train.energy_j is None:
        yield Reason(
            code="no_energy", detail=f"no energy of the train phase ({evidence.result.method})", verdict="invalid"
        )


def _estimated(evidence: Evidence) -> Iterator[Reason]:
    if evidence.result.estimated:
        yield Reason(code="estimated", detail=evidence.result.method)


def _coverage(evidence: Evidence) -> Iterator[Reason]:
    train, least = evidence.train, evidence.spec.min_coverage
    if evidence.trace is None or train is None or train.duration_s <= 0 or train.coverage >= least:
        return
    # however large the gap: a counter ran on through it, and without one there is no energy, which is its own reason
    detail = f"samples cover {train.coverage:.1%} of the train phase; expected at least {least:.0%}"
    yield Reason(code="coverage", detail=detail)


def _disagreement(evidence: Evidence) -> Iterator[Reason]:
    train = evidence.train
    if train is None:
        return
    estimates = {"counter": train.counter_j, "averaged": train.integral_j, "instantaneous": train.instant_j}
    known = {name: joules for name, joules in estimates.items() if joules is not None and joules > 0}
    pairs = [(abs(known[a] / known[b] - 1), a, b) for a, b in combinations(known, 2)]
    if not pairs:
        return
    apart, one, other = max(pairs)
    if apart > evidence.spec.suspect_disagreement:
        verdict: Verdict = "invalid" if apart > evidence.spec.invalid_disagreement else "suspect"
        detail = f"{one} {known[one]:.4g} J and {other} {known[other]:.4g} J differ by {apart:.1%}"
        yield Reason(code="disagreement", detail=detail, verdict=verdict)


def _counter(evidence: Evidence) -> Iterator[Reason]:
    resets = sum(window.resets for window in evidence.windows)
    if resets:
        yield Reason(code="counter_reset", detail=f"the energy counter fell {resets} time(s) during the train phase")
    still = max((window.standstill_s for window in evidence.windows), default=0.0)
    if evidence.trace is not None and still >= standstill_limit(evidence.trace):
        yield Reason(code="counter_stale", detail=f"the energy counter stood still for {still:.1f} s")


def _sampler(evidence: Evidence) -> Iterator[Reason]:
    stats = evidence.stats
    if stats is not None and stats.died:
        yield Reason(code="sampler_died", detail="the power sampler ended before it was told to")
    if stats is not None and stats.write_error:
        yield Reason(code="sampler_errors", detail=f"writing the power trace failed: {stats.write_error}")
    if evidence.trace is None:
        return
    polls = [bool(missing) for inside in [_inside(evidence)] for missing in evidence.trace.missing[inside]]
    if polls and sum(polls) > MAX_FAILED_POLLS * len(polls):
        why = f" ({stats.first_error})" if stats is not None and stats.first_error else ""
        yield Reason(code="sampler_errors", detail=f"{sum(polls)} of {len(polls)} polls failed{why}")


def _inside(evidence: Evidence) -> np.ndarray:
    """Mark the polls of the train phase."""
    if evidence.trace is None:
        return np.zeros(0, dtype=bool)
    t = evidence.trace.t
    return np.any(
        [(t >= start) & (t <= end) for start, end in evidence.spans] or [np.zeros(len(t), dtype=bool)], axis=0
    )


def _short(evidence: Evidence) -> Iterator[Reason]:
    train, period = evidence.train, evidence.spec.period
    if evidence.trace is not None and train is not None and train.duration_s < SHORT_PHASE_PERIODS * period:
        detail = f"the train phase lasts {train.duration_s:.3g} s, under {SHORT_PHASE_PERIODS} sampling periods"
        yield Reason(code="short_phase", detail=detail)


def _throttled(evidence: Evidence) -> Iterator[Reason]:
    if evidence.trace is None:
        return
    states = [state for state in evidence.trace.throttle[_inside(evidence)] if state is not None]
    slowed = [names for names in (set(state.split("+")) - HARMLESS_THROTTLE - {""} for state in states) if names]
    if states and len(slowed) > MAX_THROTTLED * len(states):
        names = ", ".join(sorted(set().union(*slowed)))
        yield Reason(code="throttled", detail=f"slowed down in {len(slowed) / len(states):.0%} of the samples: {names}")


def _temperature(evidence: Evidence) -> Iterator[Reason]:
    start, reference, rise = evidence.result.temp_start_c, evidence.reference_c, evidence.spec.settle.max_rise_c
    if start is not None and reference is not None and start > reference + rise:
        detail = (
            f"training began at {start:.0f} °C, the block's first trial at {reference:.0f} °C; allowed: +{rise:g} °C"
        )
        yield Reason(code="temperature_not_settled", detail=detail)


RULES: tuple[Rule, ...] = (
    _no_energy,
    _estimated,
    _coverage,
    _disagreement,
    _counter,
    _sampler,
    _short,
    _throttled,
    _temperature,
)
"""All rules, in the order in which their reasons are listed."""
