"""One trial on several devices: what each drew, judged by itself, and their sums.

energy, its bounds, power, idle power    added up; bounds linearly, as if all erred alike: sensors of one kind do
coverage, number of samples              the least of the devices
temperature, throttled shares            the most
rms and spread of power                  of the sum's own trace (`sumtrace`); they cannot be added up
verdict                                  the worst; reasons name their device
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayscale.energy.deviceset import devices_in, places
from rayscale.energy.measure import energy_result, unavailable
from rayscale.energy.quality import judge
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.sumtrace import joint_method
from rayscale.energy.trace import read_trace
from rayscale.errors import RayscaleError
from rayscale.record import DeviceEnergy, EnergyResult, Phase, PhaseEnergy, Quality, Reason, worst
from rayscale.spec import EnergySpec


@dataclass(frozen=True)
class _Measured:
    """One device's part."""

    uuid: str
    name: str | None
    energy: EnergyResult
    quality: Quality


def measure_devices(
    directory: Path,
    device_uuid: str,
    phases: list[Phase],
    spec: EnergySpec,
    stats: SamplerStats | None,
    steps: int | None,
    extra: Sequence[Reason] = (),
) -> tuple[EnergyResult, Quality]:
    """Measure and judge each device of a trial, and add them up.

    Args:
        directory: The attempt's directory.
        device_uuid: The devices.
        phases: The attempt's phases.
        spec: The energy settings.
        stats: What the samplers reported; None if they did not.
        steps: Training steps.
        extra: Reasons that others found.

    Returns:
        The sums with the devices beside, and the worst verdict.
    """
    named = zip(devices_in(device_uuid), places(directory, device_uuid), strict=True)
    found = [_measured(uuid, place, phases, spec, stats, steps) for uuid, place in named]
    try:
        whole = energy_result(read_trace(directory), phases, spec, stats)
    except (OSError, ValueError, RayscaleError) as error:
        whole = unavailable(phases, f"no readable power trace: {error}")
    reasons = [
        reason.model_copy(update={"detail": f"{one.uuid}: {reason.detail}"})
        for one in found
        for reason in one.quality.reasons
    ]
    reasons += extra
    quality = Quality(verdict=worst(reason.verdict for reason in reasons), reasons=reasons)
    return add_up(found, whole), quality


def _measured(
    uuid: str, place: Path, phases: list[Phase], spec: EnergySpec, stats: SamplerStats | None, steps: int | None
) -> _Measured:
    trace = None
    try:
        trace = read_trace(place)
        energy = energy_result(trace, phases, spec, stats)
    except (OSError, ValueError, RayscaleError) as error:
        energy = unavailable(phases, f"no readable power trace: {error}")
    quality = judge(trace, phases, energy, spec, stats, steps=steps)
    return _Measured(uuid, trace.meta.device_name if trace else None, energy, quality)


def add_up(found: Sequence[_Measured], whole: EnergyResult) -> EnergyResult:
    """Add the devices of a trial up.

    Args:
        found: Each device's part.
        whole: What the sum's trace tells: rms and spread.

    Returns:
        The trial's energy.
    """
    parts = [one.energy for one in found]
    baselines = {part.net_baseline for part in parts}
    alike = len(baselines) == 1
    return EnergyResult(
        source=parts[0].source if len({part.source for part in parts}) == 1 else "none",
        method=joint_method(part.method for part in parts),
        estimated=any(part.estimated for part in parts),
        phases={name: _phase(name, parts, whole, "phases") for name in parts[0].phases},
        net_energy_j=_total(part.net_energy_j for part in parts) if alike else None,
        net_bound_j=_total(part.net_bound_j for part in parts) if alike else None,
        net_baseline=parts[0].net_baseline if alike else None,
        idle_w=_total(part.idle_w for part in parts) if alike else None,
        idle_sd_w=whole.idle_sd_w,
        temp_start_c=_most(part.temp_start_c for part in parts),
        temp_end_c=_most(part.temp_end_c for part in parts),
        devices=[_device(one) for one in found],
        outside={name: _phase(name, parts, whole, "outside") for name in parts[0].outside},
        sampler=whole.sampler,
    )


def _device(one: _Measured) -> DeviceEnergy:
    energy = one.energy
    return DeviceEnergy(
        uuid=one.uuid,
        name=one.name,
        method=energy.method,
        phases=energy.phases,
        net_energy_j=energy.net_energy_j,
        idle_w=energy.idle_w,
        temp_start_c=energy.temp_start_c,
        temp_end_c=energy.temp_end_c,
        verdict=one.quality.verdict,
        reasons=[reason.code for reason in one.quality.reasons],
    )


_ADDED = (
    *("energy_j", "counter_j", "integral_j", "instant_j", "mean_w"),
    *("bound_j", "edge_bound_j", "gap_bound_j", "sampling_bound_j", "sensor_bound_j"),
)


def _phase(name: str, parts: Sequence[EnergyResult], whole: EnergyResult, group: str) -> PhaseEnergy:
    missing = PhaseEnergy(duration_s=0.0, energy_j=None)
    found: list[PhaseEnergy] = [getattr(part, group).get(name, missing) for part in parts]
    joint: PhaseEnergy = getattr(whole, group).get(name, missing)
    added = {field: _total(getattr(one, field) for one in found) for field in _ADDED}
    shares = {field: _most(getattr(one, field) for one in found) for field in ("power_capped_share", "thermal_share")}
    return PhaseEnergy(
        duration_s=max(one.duration_s for one in found),
        **added,
        **shares,
        rms_w=joint.rms_w,
        sd_w=joint.sd_w,
        samples=min(one.samples for one in found),
        backfilled=sum(one.backfilled for one in found),
        coverage=min(one.coverage for one in found),
    )


def _total(values: Iterable[float | None]) -> float | None:
    return _of_all(values, sum)


def _most(values: Iterable[float | None]) -> float | None:
    return _of_all(values, max)


def _of_all(values: Iterable[float | None], combine: Callable[[list[float]], float]) -> float | None:
    """Combine; None where one of them is unknown: a part is not the whole."""
    found = list(values)
    known = [value for value in found if value is not None]
    return combine(known) if known and len(known) == len(found) else None
