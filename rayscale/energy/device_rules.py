"""Verdict rules about the GPU itself: throttling, limits, co-tenants, memory errors, NVML errors, resonance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rayscale.energy.evidence import Evidence
from rayscale.energy.sensors import SensorWindow
from rayscale.energy.slow import around, inside
from rayscale.record import Reason, Verdict

EDGE_LOOK_S = 0.05
"""How long after a phase the look at its end may come."""
HARMLESS_THROTTLE = frozenset({"SwPowerCap", "SyncBoost"})
"""A GPU at full load is held by its power cap: the normal state, not a fault."""
_ESSENTIAL = ("averaged power", "instantaneous power", "power usage", "fields", "reopen")
"""Quantities whose loss leaves gaps; that of any other is noted without spoiling the verdict (the energy counter runs
on through a failed read)."""


def throttled(evidence: Evidence) -> Iterator[Reason]:
    """Flag a device that was slowed down by anything but its power cap."""
    if evidence.trace is None or evidence.train is None:
        return
    words, most = [], evidence.spec.max_throttled
    share = evidence.train.thermal_share
    if share is not None and share > most:
        words.append(f"{share:.1%} of the time by heat (violation counter)")
    states = [state for state in evidence.trace.throttle[evidence.inside] if state is not None]
    slowed = [names for names in (set(state.split("+")) - HARMLESS_THROTTLE - {""} for state in states) if names]
    if states and len(slowed) > most * len(states):
        names = ", ".join(sorted(set().union(*slowed)))
        words.append(f"in {len(slowed) / len(states):.0%} of the samples: {names}")
    if words:
        yield Reason(code="throttled", detail=f"slowed down {'; '.join(words)}")


def limits(evidence: Evidence) -> Iterator[Reason]:
    """Flag a power limit or clock policy that somebody changed."""
    if evidence.trace is None:
        return
    trace = evidence.trace
    for code, what, unit, values in (
        ("limit_changed", "the power limit", "W", trace.power_limit_w),
        ("clock_policy_changed", "the application clock", "MHz", trace.clock_policy_mhz),
    ):
        held = around(trace.t, values, evidence.spans)
        if held and max(held) - min(held) > evidence.spec.max_limit_change * max(held):
            detail = f"{what} was between {min(held):g} and {max(held):g} {unit} during the train phase"
            yield Reason(code=code, detail=detail)


def foreign_process(evidence: Evidence) -> Iterator[Reason]:
    """Flag processes of others: seen inside the phase, or on both sides of a phase too short for a look."""
    if evidence.trace is None:
        return
    t, others = evidence.trace.t, evidence.trace.others
    # the look at the phase's end tells who came and went since the one before
    looks = inside(t, [(start, end + EDGE_LOOK_S) for start, end in evidence.spans])
    within = [set(names.split("+")) - {""} for names in others[looks] if names is not None]
    if within:
        found = set().union(*within)
    else:
        sides = [set(names.split("+")) - {""} for names in around(t, others, evidence.spans)]
        found = set.intersection(*sides) if len(sides) > 1 else set()
    if found:
        detail = f"other processes computed on the device: {', '.join(sorted(found))}"
        yield Reason(code="foreign_process", detail=detail)


def memory_errors(evidence: Evidence) -> Iterator[Reason]:
    """Flag uncorrected memory errors."""
    if evidence.trace is None:
        return
    counts = around(evidence.trace.t, evidence.trace.ecc_errors, evidence.spans)
    if counts and counts[-1] > counts[0]:
        yield Reason(code="ecc_errors", detail=f"{counts[-1] - counts[0]:g} uncorrected memory error(s)")


def nvml_errors(evidence: Evidence) -> Iterator[Reason]:
    """Name the errors that NVML gave during the phase."""
    if evidence.trace is None:
        return
    polls = evidence.trace.fault[evidence.inside]
    faults = Counter(fault for poll in polls if poll for fault in poll.split("; "))
    bad = {fault: n for fault, n in faults.items() if fault.startswith(_ESSENTIAL)}
    failed = sum(any(part in bad for part in poll.split("; ")) for poll in polls if poll)
    if failed > evidence.spec.max_failed_polls * len(polls):
        yield Reason(code="nvml_errors", detail=f"{failed} of {len(polls)} polls failed: {_counts(bad)}")
    else:
        bad = {}
    rest = {fault: n for fault, n in faults.items() if fault not in bad}
    if rest:
        yield Reason(code="unavailable", detail=f"not read at times: {_counts(rest)}", verdict="clean")


def backfilled(evidence: Evidence) -> Iterator[Reason]:
    """Say how much of the power did not come from polls."""
    count = evidence.train.backfilled if evidence.train is not None else 0
    if count:
        detail = f"gaps between polls are filled with {count} power samples of the driver's own buffer"
        yield Reason(code="backfilled", detail=detail, verdict="clean")


def _counts(faults: dict[str, int]) -> str:
    return ", ".join(f"{fault} ({n}x)" for fault, n in sorted(faults.items(), key=lambda item: -item[1])[:5])


def resonance(evidence: Evidence) -> Iterator[Reason]:
    """Flag training steps in step with a sensor that looks only part of the time.

    If only the instantaneous power is such a sensor, `energy_j` does not depend on it: then it is a note, no verdict.
    """
    if evidence.trace is None or evidence.train is None or not evidence.steps:
        return
    meta, step_ms = evidence.trace.meta, 1000 * evidence.train.duration_s / evidence.steps
    sensors: tuple[tuple[str, SensorWindow | None, Verdict], ...] = (
        ("averaged power", meta.power, "suspect"),
        ("instantaneous power", meta.instant, "clean"),
    )
    for what, sensor, verdict in sensors:
        bias = evidence.bias(sensor)
        if bias > evidence.spec.max_resonance:
            detail = f"steps of {step_ms:.4g} ms are in step with {what} ({sensor}): it may be off by {bias:.0%}"
            yield Reason(code="resonance", detail=detail, verdict=verdict)
            return
