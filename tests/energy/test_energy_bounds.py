"""The bound of the counter where it is hardest: the power changes by hundreds of watts right at the edges of the phase.

Loads end within 150 ms of the edges; the counter ticks every 100 or 20 ms at any phase. It is read once a second only,
or also at the edges, or there with two ticks awaited, as the sampler does when it is not, is, and is thoroughly asked.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from simgpu import PROFILES, Load, SimGpu, quick_trace

from rayscale.energy.integrate import integrate_window
from rayscale.energy.trace import Trace

START = 1000.0
STEPS_S = (0.0731, 0.1347, 0.2234, 0.3337, 0.4709, 0.7713)
CASES = 334
"""For each way of asking: 1,000 in all."""
Asked = Literal["not at all", "for a read", "for the tick"]


def load_of(rng: np.random.Generator) -> Load:
    """Even or stepping power between two other levels."""
    seconds = float(rng.uniform(3.0, 15.0))
    low, high = sorted(rng.uniform(80.0, 690.0, 2))
    if rng.random() < 0.5:
        return Load([0.0, START, START + seconds], [60.0, high, rng.uniform(60.0, 460.0)])
    return Load.steps(START, seconds, float(rng.choice(STEPS_S)) * rng.uniform(0.999, 1.001), low, high)


def with_reads_at(gpu: SimGpu, times: np.ndarray, edges: tuple[float, float]) -> Trace:
    every = np.sort(np.concatenate([times, edges]))
    trace = quick_trace(gpu, every)
    read = np.isin(every, edges)
    read[::10] = read[-1] = True
    trace.energy_j[:] = np.where(read, np.round(gpu.counter(every), 3), np.nan)
    return trace


def case(rng: np.random.Generator, asked: Asked) -> tuple[SimGpu, Trace, tuple[float, float]]:
    load = load_of(rng)
    start, end = (float(at + rng.uniform(-0.15, 0.15) * rng.choice([0, 1])) for at in (START, load.edges[-1]))
    profile = PROFILES[str(rng.choice(list(PROFILES)))]
    phase, tick, seed = float(rng.uniform(0.0, 0.1)), float(rng.choice([0.1, 0.02])), int(rng.integers(1 << 31))
    gpu = SimGpu(load, profile, noise_w=3.0, seed=seed, phase_s=phase, counter_tick_s=tick)
    times = START - 5.0 + rng.uniform(0.0, 0.1) + np.arange(round((load.edges[-1] - START + 10.0) / 0.1)) * 0.1
    times = times + rng.uniform(0.0, 0.004, len(times))
    if asked == "not at all":
        return gpu, quick_trace(gpu, times), (start, end)
    ahead = rng.uniform(0.21, 0.25) if asked == "for the tick" else rng.uniform(0.0, 0.003)
    rings = start - float(ahead), end + float(rng.uniform(0.0, 0.003))
    trace = quick_trace(gpu, times, edges=rings) if asked == "for the tick" else with_reads_at(gpu, times, rings)
    return gpu, trace, (start, end)


@pytest.mark.parametrize("asked", ["not at all", "for a read", "for the tick"])
def test_the_counter_is_within_its_bound_with_steps_at_the_edges(asked: Asked) -> None:
    rng, ratios, widths = np.random.default_rng(3), [], []
    for _ in range(CASES):
        gpu, trace, window = case(rng, asked)
        energy = integrate_window(trace, *window)
        truth = float(gpu.load.energy(window[1]) - gpu.load.energy(window[0]))
        assert energy.counter_j is not None
        assert energy.counter_bound_j is not None
        ratios.append(abs(energy.counter_j - truth) / energy.counter_bound_j)
        widths.append(energy.counter_bound_j / truth)
    assert np.mean(np.array(ratios) <= 1.0) >= 0.99
    assert max(ratios) < 1.1
    # and it is not held by being huge: some case comes near, and it is a few percent of these short phases
    assert max(ratios) > 0.4
    assert np.median(widths) < (0.05 if asked == "not at all" else 0.02)


def test_a_fall_at_the_end_is_late_at_the_power_before_it() -> None:
    """The last read is up to 0.1 s old, and what it lacks was drawn before the fall of 440 W."""
    for phase in np.arange(0.0, 0.1, 0.01):
        gpu = SimGpu(Load([0.0, START, START + 6.0], [60.0, 650.0, 210.0]), PROFILES["Ada"], phase_s=float(phase))
        times = START - 5.0 + np.arange(160) * 0.1 + 0.05
        energy = integrate_window(with_reads_at(gpu, times, (START, START + 6.001)), START, START + 6.0)
        assert energy.counter_j is not None
        assert abs(energy.counter_j - 3900.0) <= (energy.counter_bound_j or 0.0)
        assert (energy.counter_bound_j or 0.0) >= 0.1 * 650.0
