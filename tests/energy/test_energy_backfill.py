"""Gaps between polls, filled from the driver's own buffer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from energy_traces import meta, reading
from fake_nvml import Clock, FakeNvml
from fault_bench import LATE_GAP, attempt, gpu
from simgpu import PROFILES, Load, SimGpu

from rayscale.energy.backfill import DRIVER, DriverSample, GapFiller
from rayscale.energy.integrate import phase_energy
from rayscale.energy.layout import PARQUET
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.sampler import Sampler
from rayscale.energy.stream import TraceWriter
from rayscale.energy.trace import Trace, TraceMeta, read_trace

START = 1000.0


class Keeper:
    """A driver that keeps 100 W x t, every 0.1 s."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def driver_samples(self, since: float) -> list[DriverSample]:
        self.asked.append(since)
        times = np.arange(np.floor(since * 10) + 1, 200) / 10
        return [DriverSample(float(t), 100.0 * float(t)) for t in times if t > since]


def test_only_a_gap_is_filled_and_only_inside() -> None:
    keeper = Keeper()
    filler = GapFiller(keeper, meta())
    assert filler.before(reading(10.0, 50.0)) == []
    assert filler.before(reading(10.1, None)) == []
    assert filler.before(reading(10.2, 50.0)) == []  # 0.2 s: a missed poll, but no gap
    rows = filler.before(reading(11.2, 50.0))
    assert keeper.asked == [10.2]
    assert {row.origin for row in rows} == {DRIVER}
    assert all(10.2 < row.t < 11.2 for row in rows)
    assert len(rows) == 10
    # a sample stands for the time before its stamp: here the power of its stamp, held around the middle
    assert [row.power_w for row in rows] == pytest.approx([100.0 * (row.t + 0.05) for row in rows])


def test_a_sampler_that_goes_on_with_a_trace_fills_from_its_last_poll(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, meta())
    for t in (5.0, 5.1):
        writer.append(reading(t, 50.0))
    writer.close()
    again = TraceWriter(tmp_path, meta())
    assert again.resumed_t == 5.1
    again.close()
    rows = GapFiller(Keeper(), meta(), again.resumed_t).before(reading(6.0, 50.0))
    assert len(rows) == 9
    assert GapFiller(object(), meta(), 5.1).before(reading(6.0, 50.0)) == []
    waiting = GapFiller(Keeper(), meta(), 5.1)
    waiting.pause(5.9)  # for the ticks of the counter, between phases
    assert waiting.before(reading(6.0, 50.0)) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_filled_gap_is_covered_and_as_good_as_polls(profile: str) -> None:
    """A gap of 3 s at a step of 350 W: held it is wrong by 500 J; filled it is not, by the integral alone."""
    load = Load([0.0, START, START + 10.0, START + 20.0], [60.0, 300.0, 650.0, 60.0])
    truth = 300.0 * 8.0 + 650.0 * 8.0
    energies = []
    for depth in (120, 0):
        device = SimGpu(load, PROFILES[profile], phase_s=0.03, ring_depth=depth)
        clock = Clock(START - 3.0)
        nvml = FakeNvml(device, clock=clock)
        reader = NvmlReader(device.uuid, nvml=nvml, clock=clock, wall=nvml.wall)
        known = TraceMeta.of(reader, 0.1)
        gaps, rows = GapFiller(reader, known), []
        for now in START - 3.0 + np.arange(260) * 0.1:
            clock.now = float(now)
            if not START + 9.0 < now < START + 12.0:
                poll = reader.read()
                rows += [*gaps.before(poll), poll]
        energies.append(phase_energy(Trace.from_readings(rows, known), [(START + 2.0, START + 18.0)], "integral"))
    filled, held = energies
    assert (filled.coverage, held.coverage) == (pytest.approx(1.0), pytest.approx(0.83, abs=0.02))
    assert 25 <= filled.backfilled <= 31
    assert held.backfilled == 0
    assert filled.samples == held.samples
    assert filled.integral_j is not None
    assert held.integral_j is not None
    assert abs(filled.integral_j - truth) < 60.0 < 400.0 < abs(held.integral_j - truth)
    assert (filled.gap_bound_j, filled.instant_j is None) == (0.0, PROFILES[profile].instant is None)
    assert filled.bound_j is not None
    assert held.bound_j is not None
    assert filled.bound_j < held.bound_j


def test_wall_clock_set_during_the_gap_is_noticed() -> None:
    device = gpu(ring_depth=100)
    nvml = FakeNvml(device)

    def lose(t: float) -> bool:
        nvml.wall_ahead = 1.7e9 - 3600.0 if t > LATE_GAP[0] else 1.7e9
        return LATE_GAP[0] < t < LATE_GAP[1]

    outcome = attempt(device, nvml=nvml, lose=lose)
    assert outcome.result is not None
    assert outcome.result.phases["train"].backfilled == 0
    assert "coverage" in outcome.codes
    assert outcome.quality is not None
    assert any("driver samples: wall clock was set" in reason.detail for reason in outcome.quality.reasons)


def test_a_driver_without_samples_is_named() -> None:
    outcome = attempt(gpu(), lose=lambda t: LATE_GAP[0] < t < LATE_GAP[1])
    assert outcome.quality is not None
    assert any("driver samples: NOT_SUPPORTED" in reason.detail for reason in outcome.quality.reasons)


def test_the_sampler_writes_what_fills_a_gap(tmp_path: Path) -> None:
    """Each poll finds the last power 10 periods ago: the filler is asked by the real sampler, into the real trace."""

    class Sparse(_Steady):
        def driver_samples(self, since: float) -> list[DriverSample]:
            return [DriverSample(since + 0.001 * k, 40.0) for k in range(1, 4)]

    reader = Sparse()
    sampler = Sampler(reader, tmp_path, 0.01)
    sampler.start()
    while reader.polls < 12:
        pass
    sampler.stop()
    assert (tmp_path / PARQUET).exists()
    trace = read_trace(tmp_path)
    assert set(trace.power_w[trace.backfilled]) == {40.0}
    assert trace.backfilled.sum() >= 3


class _Steady:
    """50 W, but only every fifth poll answers."""

    source = "nvml"
    method = "steady"
    estimated = False
    counter_resolution_s = 0.0
    device_uuid = "GPU-1"
    device_name = None

    def __init__(self) -> None:
        self.polls = 0

    def read(self):
        import time

        self.polls += 1
        return reading(time.monotonic(), 50.0 if self.polls % 5 == 1 else None)

    def close(self) -> None:
        return None
