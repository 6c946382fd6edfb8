"""The verdict on one attempt's energy: clean, suspect or invalid, each reason a stable code with a sentence.

A rule is a function from `Evidence` to reasons, listed in `RULES`; a new rule is one more entry. All look at the
`train` phase, because it is the one that is analysed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from rayscale.energy.device_rules import (
    backfilled,
    foreign_process,
    limits,
    memory_errors,
    nvml_errors,
    resonance,
    throttled,
)
from rayscale.energy.evidence import Evidence, Rule
from rayscale.energy.integrate import compared_in, integrate_windows, standstill_limit
from rayscale.energy.measure import windows_of
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import Trace
from rayscale.record import EnergyResult, Phase, Quality, Reason, Verdict, worst
from rayscale.spec import EnergySpec

__all__ = ["RULES", "Evidence", "Rule", "judge"]


def judge(
    trace: Trace | None,
    phases: list[Phase],
    result: EnergyResult,
    spec: EnergySpec,
    stats: SamplerStats | None,
    *,
    reference_c: float | None = None,
    steps: int | None = None,
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
        steps: Training steps in the train phase, for resonance; None = unknown.
        extra: Reasons that others found (wrong device, settling timed out, ...).

    Returns:
        The worst verdict of all reasons, with the reasons.
    """
    spans = windows_of(phases, "train")
    windows = integrate_windows(trace, spans) if trace is not None else []
    train = result.phases.get("train")
    evidence = Evidence(trace, windows, spans, train, result, spec, stats, reference_c, steps)
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
    seen = compared_in(evidence.windows)
    estimates = {"counter": seen.counter_j, "averaged": seen.integral_j, "instantaneous": seen.instant_j}
    known = {name: joules for name, joules in estimates.items() if joules is not None and joules > 0}
    if evidence.trace is not None and evidence.bias(evidence.trace.meta.instant) > evidence.spec.max_resonance:
        known.pop("instantaneous", None)  # known to be wrong and named by its own rule; `energy_j` does not use it
    pairs = [(max(0.0, abs(known[a] - known[b]) - seen.slack_j) / known[b], a, b) for a, b in combinations(known, 2)]
    if not pairs:
        return
    apart, one, other = max(pairs)
    if apart > evidence.spec.suspect_disagreement:
        verdict: Verdict = "invalid" if apart > evidence.spec.invalid_disagreement else "suspect"
        whole = evidence.train.duration_s if evidence.train is not None else 0.0
        where = f" in the {seen.seconds:.3g} s between the gaps" if seen.seconds < (1 - 1e-9) * whole else ""
        detail = f"{one} {known[one]:.4g} J and {other} {known[other]:.4g} J differ by {apart:.1%}{where}"
        yield Reason(code="disagreement", detail=detail, verdict=verdict)


def _counter(evidence: Evidence) -> Iterator[Reason]:
    resets = sum(window.resets for window in evidence.windows)
    if resets:
        yield Reason(code="counter_reset", detail=f"the energy counter fell {resets} time(s) during the train phase")
    still = max((window.standstill_s for window in evidence.windows), default=0.0)
    if evidence.trace is not None and still >= standstill_limit(evidence.trace, evidence.spec):
        yield Reason(code="counter_stale", detail=f"the energy counter stood still for {still:.1f} s")


def _sampler(evidence: Evidence) -> Iterator[Reason]:
    stats = evidence.stats
    if stats is not None and stats.died:
        yield Reason(code="sampler_died", detail="the power sampler ended before it was told to")
    if stats is not None and stats.write_error:
        yield Reason(code="sampler_errors", detail=f"writing the power trace failed: {stats.write_error}")
    if evidence.trace is None:
        return
    polls = evidence.trace.missing[evidence.inside].tolist()
    if polls and sum(polls) > evidence.spec.max_failed_polls * len(polls):
        why = f" ({stats.first_error})" if stats is not None and stats.first_error else ""
        yield Reason(code="sampler_errors", detail=f"{sum(polls)} of {len(polls)} polls failed{why}")


def _short(evidence: Evidence) -> Iterator[Reason]:
    train, least = evidence.train, evidence.spec.min_periods
    if evidence.trace is not None and train is not None and train.duration_s < least * evidence.spec.period:
        detail = f"the train phase lasts {train.duration_s:.3g} s, under {least:g} sampling periods"
        yield Reason(code="short_phase", detail=detail)


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
    throttled,
    _temperature,
    limits,
    foreign_process,
    memory_errors,
    nvml_errors,
    backfilled,
    resonance,
)
"""All rules, in the order in which their reasons are listed."""
