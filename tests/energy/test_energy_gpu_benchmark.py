"""`benchmarks.gpu_energy` on a simulated GPU in real time, a hundred times shorter: it prints all ten measurements."""

from __future__ import annotations

import os
import re
import threading
import time

import numpy as np
import pytest
from fake_nvml import Clock, FakeNvml
from simgpu import PROFILES, Load, SimGpu

from benchmarks.gpu_energy import MEASUREMENTS, run_all
from benchmarks.gpu_tools import Gpu
from rayscale.energy.devices import gpu_devices

SCALE = 0.01


class Now(Clock):
    """The real clock, for the simulated binding."""

    @property
    def now(self) -> float:  # type: ignore[override]
        return time.monotonic()

    @now.setter
    def now(self, value: float) -> None:
        return None


class LiveLoad(Load):
    """True power that changes while it runs: 60 W at rest, 500 W at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        super().__init__([time.monotonic() - 100.0], [60.0])

    def switch(self, watts: float) -> None:
        with self._lock:
            edges, powers = np.append(self.edges, time.monotonic()), np.append(self.watts, watts)
            sums = np.concatenate([[0.0], np.cumsum(powers[:-1] * np.diff(edges))])
            self.edges, self.watts, self._sums = edges, powers, sums

    def energy(self, t):
        with self._lock:
            return super().energy(t)

    def power(self, t):
        with self._lock:
            return super().power(t)


class Work:
    """What `gpu_tools.Load` does to a GPU, done to the simulated one."""

    def __init__(self, live: LiveLoad) -> None:
        self.live = live

    def step(self, products: int = 20) -> float:
        time.sleep(0.0001 * products)
        return 0.0001 * products

    def run(self, seconds: float, *, period_s: float | None = None, duty: float = 1.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.live.switch(500.0)
            time.sleep(min(seconds, period_s * duty if period_s else seconds))
            self.live.switch(60.0)
            time.sleep(min(seconds, period_s * (1 - duty) if period_s else 0.0))


class SimLive(SimGpu):
    """Without the thermal model, which needs the whole load beforehand."""

    @property
    def _thermal(self):  # type: ignore[override]
        return np.array([0.0, 1.0]), np.array([30.0, 30.0]), np.array([0.0, 0.0])


def test_all_ten_measurements_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    live = LiveLoad()
    device = SimLive(
        live, PROFILES["H100"], ring_depth=50, counter_tick_s=0.02, processes=((os.getpid(), 0.0, np.inf),)
    )
    nvml = FakeNvml(device, clock=Now())
    nvml.wall_ahead = time.time() - time.monotonic()
    nvml.nvmlInit()
    begin = time.monotonic()
    (found,) = gpu_devices(nvml=nvml, environ={})
    lines = run_all(Gpu(nvml, found, SCALE, make_load=lambda: Work(live)))
    text = "\n".join(lines)
    assert [number for number, _, _ in sorted(MEASUREMENTS, key=lambda one: one[0])] == list(range(1, 11))
    for number, name, _ in MEASUREMENTS:
        assert f"{number:>2} {name}" in lines
    assert "failed" not in text
    assert "bare 60.00 ± 0.00 W" in text
    tick = re.search(r"energy counter\n +every ([\d.]+) ms .*, (\d+) mJ per step", text)
    assert tick is not None
    assert float(tick[1]) == pytest.approx(20.0, abs=3.0)  # seen through polls every 1 ms, on a busy machine
    assert float(tick[2]) == pytest.approx(10_000, rel=0.02)
    assert "thermal violation (75): yes; heat slowdown (269): no (NVML error 3)" in text
    assert "instant, scope module: no (3)" in text
    assert "50 samples over 4.9 s, every 100.0 ms" in text
    assert time.monotonic() - begin < 60.0
    assert capsys.readouterr().err.count(" s\n") == 10
