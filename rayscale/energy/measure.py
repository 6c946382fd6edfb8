"""The energy of one attempt: all its phases, idle, net energy, temperatures - or a statement that there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayscale.energy.integrate import Estimate, choose_estimate, integrate_windows, phase_energy
from rayscale.energy.sampler import SamplerStats, quantile
from rayscale.energy.trace import Array, Trace
from rayscale.record import EnergyResult, Phase, PhaseEnergy, PhaseName
from rayscale.spec import EnergySpec

_BASELINES: tuple[PhaseName, ...] = ("context_idle", "idle")


def windows_of(phases: Sequence[Phase], name: str) -> list[tuple[float, float]]:
    """List the windows of one phase name.

    Args:
        phases: All phases of the attempt.
        name: The name.

    Returns:
        Start and end of each, CLOCK_MONOTONIC in s.
    """
    return [(phase.start, phase.end) for phase in phases if phase.name == name]


def outside_windows(trace: Trace, phases: Sequence[Phase]) -> dict[str, list[tuple[float, float]]]:
    """List the sampled time that lies in no phase.

    Args:
        trace: The power trace.
        phases: All phases of the attempt.

    Returns:
        `settling`: from the first sample to the first phase; `between`: the gaps between phases. CLOCK_MONOTONIC in s.
    """
    if not phases or not len(trace):
        return {}
    ordered = sorted(phases, key=lambda phase: phase.start)
    gaps, reached = [], ordered[0].end
    for phase in ordered[1:]:
        if phase.start > reached:
            gaps.append((reached, phase.start))
        reached = max(reached, phase.end)
    first = float(trace.t[0])
    windows = {"settling": [(first, ordered[0].start)] if first < ordered[0].start else [], "between": gaps}
    return {name: found for name, found in windows.items() if found}


def energy_result(
    trace: Trace, phases: list[Phase], spec: EnergySpec, stats: SamplerStats | None = None
) -> EnergyResult:
    """Measure one attempt.

    Args:
        trace: The power trace.
        phases: The attempt's phases.
        spec: The energy settings: when the counter is believed.
        stats: What the sampler reported; None takes what the trace itself tells.

    Returns:
        Energies of all phases by one and the same estimate, which the train phase decides.
    """
    estimate = choose_estimate(trace, integrate_windows(trace, windows_of(phases, "train")), spec)
    energies: dict[str, PhaseEnergy] = {
        name: phase_energy(trace, windows_of(phases, name), estimate) for name in dict.fromkeys(p.name for p in phases)
    }
    baseline = next((name for name in _BASELINES if name in energies and _idle_w(energies[name]) is not None), None)
    idle_w = _idle_w(energies[baseline]) if baseline else None
    train = windows_of(phases, "train")
    return EnergyResult(
        source=trace.source,
        method=_method(trace, estimate),
        estimated=trace.estimated,
        phases=energies,
        net_energy_j=_net(energies.get("train"), idle_w),
        net_bound_j=_net_bound(energies.get("train"), energies.get(baseline)) if baseline else None,
        net_baseline=baseline,
        idle_w=idle_w,
        idle_sd_w=energies[baseline].sd_w if baseline else None,
        temp_start_c=value_at(trace.t, trace.temperature_c, train[0][0]) if train else None,
        temp_end_c=value_at(trace.t, trace.temperature_c, train[-1][1]) if train else None,
        outside={name: phase_energy(trace, found, estimate) for name, found in outside_windows(trace, phases).items()},
        sampler=(stats or _stats_of(trace)).to_record(),
    )


def unavailable(phases: list[Phase], reason: str) -> EnergyResult:
    """State that an attempt has no energy.

    Args:
        phases: The attempt's phases.
        reason: Why, in words.

    Returns:
        A result whose every number is None.
    """
    names = dict.fromkeys(phase.name for phase in phases)
    durations = {name: sum(end - start for start, end in windows_of(phases, name)) for name in names}
    return EnergyResult(
        source="none",
        method=f"unavailable: {reason}",
        estimated=False,
        phases={name: PhaseEnergy(duration_s=seconds, energy_j=None) for name, seconds in durations.items()},
        net_energy_j=None,
        net_baseline=None,
        idle_w=None,
        idle_sd_w=None,
        temp_start_c=None,
        temp_end_c=None,
    )


def value_at(t: Array, values: Array, when: float) -> float | None:
    """Give a slow quantity at a time: its last sample until then, else its first.

    Args:
        t: Sample times, in s.
        values: The samples; NaN = missing.
        when: The time, in s.

    Returns:
        The value, None without samples.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    index = max(0, int(np.searchsorted(t[known], when, side="right")) - 1)
    return float(values[known][index])


def _method(trace: Trace, estimate: Estimate) -> str:
    if trace.source != "nvml":
        return trace.method
    chosen = "counter" if estimate == "counter" else "integral of power"
    return f"{chosen}; {trace.method}"


def _idle_w(idle: PhaseEnergy) -> float | None:
    """Mean power of a baseline, by the same estimate as the energy it is subtracted from."""
    return idle.energy_j / idle.duration_s if idle.energy_j is not None and idle.duration_s > 0 else None


def _net(train: PhaseEnergy | None, idle_w: float | None) -> float | None:
    if train is None or train.energy_j is None or idle_w is None:
        return None
    return train.energy_j - idle_w * train.duration_s


def _net_bound(train: PhaseEnergy | None, idle: PhaseEnergy | None) -> float | None:
    """Add the baseline's bound, stretched to the length of the training, to that of the training."""
    if train is None or idle is None or train.bound_j is None or idle.bound_j is None or idle.duration_s <= 0:
        return None
    return train.bound_j + idle.bound_j / idle.duration_s * train.duration_s


def _stats_of(trace: Trace) -> SamplerStats:
    latencies = trace.latency_s[np.isfinite(trace.latency_s)].tolist()
    return SamplerStats(
        polls=len(trace),
        errors=int(trace.missing.sum()),
        latency_p50_s=quantile(latencies, 0.5),
        latency_p99_s=quantile(latencies, 0.99),
        wall_s=float(trace.t[-1] - trace.t[0]) if len(trace) else None,
    )
