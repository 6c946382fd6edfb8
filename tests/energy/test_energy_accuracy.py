"""Accuracy is a unit test: simulated sensors, true energy known exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fake_nvml import Clock
from simgpu import PROFILES, Load, Profile, SimGpu, nvml_of, quick_trace

from rayscale.energy.integrate import phase_energy
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.sensors import SensorWindow
from rayscale.energy.trace import Trace, TraceMeta

START = 1000.0
OFF_RESONANCE = (0.0731, 0.1347, 0.2234, 0.3337, 0.4709, 0.7713)
"""Step times in s that are no simple ratio of 0.1 s."""


def trained(profile: str, seconds: float, step: float, **physics: float) -> SimGpu:
    load = Load.steps(START, seconds, step, low=300.0, high=650.0)
    return SimGpu(load, PROFILES[profile], **physics)  # type: ignore[arg-type]


def polls(seconds: float, offset: float = 0.0, period: float = 0.1) -> np.ndarray:
    return START - 5.0 + offset + np.arange(round((seconds + 10.0) / period) + 1) * period


@pytest.mark.parametrize("profile", PROFILES)
def test_arrays_and_reader_see_the_same_sensor(profile: str) -> None:
    gpu, clock = trained(profile, 10.0, 0.2234, noise_w=3.0, phase_s=0.03), Clock(START - 5.0)
    reader = NvmlReader(gpu.uuid, nvml=nvml_of(gpu, clock), clock=clock)
    times, readings = polls(10.0), []
    for index, now in enumerate(times):
        clock.now = now
        readings.append(reader.read_edge() if index in (0, len(times) - 1) else reader.read())
    slow, quick = Trace.from_readings(readings, TraceMeta.of(reader, 0.1)), quick_trace(gpu, times)
    assert (slow.meta.power, slow.meta.instant) == (gpu.profile.primary, slow.meta.instant)
    window = [(START, START + 10.0)]
    one, other = phase_energy(slow, window), phase_energy(quick, window)
    assert one.counter_j == pytest.approx(other.counter_j, rel=2e-3)
    assert one.integral_j == pytest.approx(other.integral_j, rel=1e-5)
    assert (one.instant_j is None) == (other.instant_j is None) == (gpu.profile.instant is None)
    if other.instant_j is not None:
        assert one.instant_j == pytest.approx(other.instant_j, rel=1e-5)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("step", OFF_RESONANCE)
def test_error_is_at_most_half_a_percent_for_a_minute(profile: str, step: float) -> None:
    gpu = trained(profile, 60.0, step, noise_w=4.0, phase_s=0.041)
    trace = quick_trace(gpu, polls(60.0, 0.013))
    end = float(gpu.load.edges[-1])
    energy = phase_energy(trace, [(START, end)])
    truth = float(gpu.load.energy(end) - gpu.load.energy(START))
    for estimate in (energy.energy_j, energy.counter_j, energy.integral_j):
        assert estimate == pytest.approx(truth, rel=0.005)


def test_lag_correction_moves_the_one_second_average_to_its_place() -> None:
    """A phase that begins with a step of 540 W: uncorrected, the first 0.6 s of it are still idle in the trace."""
    gpu = SimGpu(Load([0.0, START, START + 10.0], [60.0, 600.0, 60.0]), PROFILES["H100"])
    trace = quick_trace(gpu, polls(10.0))
    assert trace.meta.power_shift_s == pytest.approx(0.55 + 0.05)
    window = [(START, START + 5.0)]
    corrected = phase_energy(trace, window, "integral")
    # what the averaging itself smears over the edge cannot be undone: 540 W x 1 s / 8
    assert corrected.integral_j == pytest.approx(3000.0 - 540 / 8, abs=540 * 0.06)
    assert corrected.edge_bound_j is not None
    assert abs((corrected.integral_j or 0.0) - 3000.0) <= corrected.edge_bound_j
    plain = dataclasses.replace(trace, meta=dataclasses.replace(trace.meta, lag_s=-0.05))
    assert phase_energy(plain, window).integral_j == pytest.approx(3000.0 - 540 * 0.55, abs=540 * 0.06)


def slowed(profile: Profile, factor: float) -> Profile:
    def slower(sensor: SensorWindow) -> SensorWindow:
        return SensorWindow(factor * sensor.update_s, sensor.window_s)

    average, instant = (sensor and slower(sensor) for sensor in (profile.average, profile.instant))
    return dataclasses.replace(profile, usage=slower(profile.usage), average=average, instant=instant)


def random_case(rng: np.random.Generator) -> tuple[SimGpu, Trace, tuple[float, float]]:
    """A card of any profile within its accuracy class, a load off resonance, a phase anywhere in it.

    Its sensor updates up to 4 % more slowly than documented (SC'24 saw 99 to 104 ms) and has a further lag, which the
    trace does not know; polls jitter and some are lost.
    """
    seconds = float(rng.uniform(4.0, 60.0))
    low, high = sorted(rng.uniform(80.0, 690.0, 2))
    load = Load.steps(START, seconds, float(rng.choice(OFF_RESONANCE)) * rng.uniform(0.999, 1.001), low, high)
    gain = float(1 / rng.uniform(0.957, 1.045))
    profile = PROFILES[str(rng.choice(list(PROFILES)))]
    gpu = SimGpu(
        load,
        slowed(profile, float(rng.uniform(1.0, 1.04))),
        lag_s=float(rng.uniform(0.0, 0.02)),
        gain=gain,
        counter_gain=gain,
        noise_w=float(rng.uniform(0.0, 5.0)),
        seed=int(rng.integers(1 << 31)),
        phase_s=float(rng.uniform(0.0, 0.1)),
    )
    times = polls(seconds, float(rng.uniform(0.0, 0.1)))
    times = times + rng.uniform(0.0, 0.004, len(times))
    kept = rng.random(len(times)) > rng.choice([0.0, 0.02])
    kept[[0, -1]] = True
    end = float(load.edges[-1])
    begin = START + float(rng.uniform(-0.2, 0.2))
    return (
        gpu,
        quick_trace(gpu, times[kept], nominal=profile),
        (begin, max(begin + 1.0, end + float(rng.uniform(-0.2, 0.2)))),
    )


@pytest.mark.parametrize("blind", [False, True], ids=["with counter", "without counter"])
def test_truth_lies_within_the_reported_bound(blind: bool) -> None:
    rng, held, tight, widths = np.random.default_rng(20), 0, 0, []
    for _ in range(1000):
        gpu, trace, window = random_case(rng)
        if blind:
            trace.energy_j[:] = np.nan
        energy = phase_energy(trace, [window])
        truth = float(gpu.load.energy(window[1]) - gpu.load.energy(window[0]))
        assert energy.energy_j is not None
        assert energy.bound_j is not None
        assert energy.sensor_bound_j is not None
        assert energy.gap_bound_j is not None
        parts = (energy.edge_bound_j, energy.gap_bound_j, energy.sampling_bound_j, energy.sensor_bound_j)
        assert sum(part or 0.0 for part in parts) == pytest.approx(energy.bound_j)
        held += abs(energy.energy_j - truth) <= energy.bound_j
        # the same without the card's gain: here the parts that sampling makes stand alone
        tight += abs(energy.energy_j - truth * gpu.gain) <= energy.bound_j - energy.sensor_bound_j
        widths.append((energy.bound_j - energy.sensor_bound_j) / energy.energy_j)
    assert held >= 990
    assert tight >= 990
    assert np.median(widths) < 0.03  # a bound that is never left because it is huge would say nothing
