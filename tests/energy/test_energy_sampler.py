from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_nvml import FakeGpu, FakeNvml
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.energy.layout import PARQUET, STREAM
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.process import SamplerProcess
from rayscale.energy.reader import Reading, Source
from rayscale.energy.sampler import Sampler, SamplerStats, deadlines_passed, quantile
from rayscale.energy.timer import PeriodicTimer
from rayscale.energy.trace import last_reading, read_trace
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec


class FakeReader:
    """A sensor at 50 W whose polls may fail or hang."""

    source: Source = "nvml"
    method = "fake"
    estimated = False
    counter_resolution_s = 0.0
    device_uuid: str | None = "GPU-1"
    device_name: str | None = "Fake"

    def __init__(self) -> None:
        self.polls = 0
        self.edges = 0
        self.fail_at: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def read(self) -> Reading:
        self.gate.wait(5.0)
        self.polls += 1
        if self.polls in self.fail_at:
            raise RuntimeError("GPU is lost")
        t = time.monotonic()
        return Reading(t, 50.0, None, None, None, None, None, time.monotonic() - t)

    def read_edge(self) -> Reading:
        self.edges += 1
        return self.read()

    def close(self) -> None:
        return None


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


@given(st.integers(0, 10_000), st.floats(0.0, 1.0, exclude_max=True), st.floats(0.001, 10.0))
def test_a_deadline_has_passed_from_its_time_on(deadline: int, beyond: float, period: float) -> None:
    assert deadlines_passed(deadline * period, period) == deadline
    assert deadlines_passed((deadline + beyond) * period, period) in (deadline, deadline + (beyond > 0.999))


def test_schedule_examples() -> None:
    assert deadlines_passed(0.001, 0.1) == 0
    assert deadlines_passed(0.15, 0.1) == 1
    assert deadlines_passed(0.73, 0.1) == 7


@given(st.floats(0.0, 0.01), st.floats(0.001, 0.01))
@settings(max_examples=15, deadline=None)
def test_timer_rings_at_or_after_every_deadline(ahead: float, period: float) -> None:
    timer, first = PeriodicTimer(), time.monotonic() + ahead
    try:
        timer.set(first, period)
        rings = 0
        while rings < 3:
            assert select.select([timer.fd], [], [], 1.0)[0]
            rings += timer.rearm()
            assert time.monotonic() >= first + (rings - 1) * period - 1e-8
    finally:
        timer.close()


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(i) for i in range(1, 101)], 0.99) == 99.0


def test_sampler_in_real_time(tmp_path: Path) -> None:
    reader = FakeReader()
    reader.fail_at = {10, 11}
    sampler = Sampler(reader, tmp_path / "attempt", 0.02)
    sampler.start()
    assert sampler.last is not None
    assert sampler.alive()
    begin = time.monotonic()
    assert wait_for(lambda: (tmp_path / "attempt" / STREAM).stat().st_size > 0, 1.0)
    assert time.monotonic() - begin < 1.0
    mark = sampler.mark()
    time.sleep(0.3)
    newest = last_reading(tmp_path / "attempt")
    assert newest is not None
    stats = sampler.stop()
    assert not sampler.alive()
    assert sampler.stop() is stats
    trace = read_trace(tmp_path / "attempt")
    assert mark.t in trace.t
    assert len(trace) == stats.polls == reader.polls
    assert int(trace.missing.sum()) == stats.errors == 2
    assert stats.first_error == "RuntimeError: GPU is lost"
    assert reader.edges == 3  # first, mark, last
    assert stats.wall_s is not None
    assert stats.polls + stats.missed == pytest.approx(stats.wall_s / 0.02 + 3, abs=2)
    assert (stats.write_error, stats.died) == (None, False)
    assert None not in (stats.cpu_s, stats.late_p99_s, stats.latency_p50_s, stats.latency_p99_s)
    assert SamplerStats.from_record(json.loads(json.dumps(stats.to_record()))) == stats


def test_stalled_reader_skips_deadlines_and_counts_them(tmp_path: Path) -> None:
    reader = FakeReader()
    sampler = Sampler(reader, tmp_path, 0.02)
    sampler.start()
    reader.gate.clear()
    time.sleep(0.3)
    reader.gate.set()
    stats = sampler.stop()
    assert stats.missed >= 10
    assert len(read_trace(tmp_path)) == stats.polls


def test_first_poll_that_fails_does_not_stop_the_sampler(tmp_path: Path) -> None:
    reader = FakeReader()
    reader.fail_at = {1}
    sampler = Sampler(reader, tmp_path, 0.01)
    sampler.start()
    assert wait_for(lambda: sampler.last is not None, 2.0)
    assert sampler.stop().errors == 1


def test_last_poll_shows_the_temperature_between_its_reads(tmp_path: Path) -> None:
    """NVML's temperature is read once a second; settling and the live view ask at any time."""
    reader = NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x", temperature=41.0)), slow_period_s=60.0)
    sampler = Sampler(reader, tmp_path, 0.01)
    sampler.start()
    assert wait_for(lambda: sampler.last is not None and sampler.last.energy_j is None, 2.0)
    assert sampler.last is not None
    assert sampler.last.temperature_c == 41.0
    sampler.stop()
    # in the trace a value stands only where it was read
    assert 2 <= np.isfinite(read_trace(tmp_path).temperature_c).sum() < 4


def test_full_disk_does_not_stop_sampling(tmp_path: Path) -> None:
    reader = FakeReader()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    sampler = Sampler(reader, tmp_path, 0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        sampler.start()
        time.sleep(0.1)
        alive, polls = sampler.alive(), reader.polls
        stats = sampler.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert alive
    assert polls > 3
    assert stats.write_error is not None


def test_trace_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnusableError, match="cannot write the power trace"):
        Sampler(FakeReader(), tmp_path / "file", 0.1).start()


ESTIMATED = EnergySpec(source="estimated", period=0.02)


def test_sampler_process_measures_this_process_and_stops(tmp_path: Path) -> None:
    process = SamplerProcess(ESTIMATED, "cpu:0@here", os.getpid(), tmp_path)
    process.start()
    assert process.alive()
    process.mark()
    begin = time.process_time()
    while time.process_time() - begin < 0.3:
        pass
    stats = process.stop()
    assert not process.alive()
    assert process.stop() is stats
    trace = read_trace(tmp_path)
    assert (stats.died, stats.errors, stats.polls) == (False, 0, len(trace))
    assert trace.meta.device_uuid == "cpu:0@here"
    assert trace.energy_j[-1] - trace.energy_j[0] >= 10.0 * 0.29


def test_sampler_process_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusableError, match="needs an NVIDIA GPU"):
        SamplerProcess(EnergySpec(source="nvml"), None, os.getpid(), tmp_path).start()


def test_killed_sampler_process_is_noticed_and_its_trace_kept(tmp_path: Path) -> None:
    process = SamplerProcess(ESTIMATED, None, os.getpid(), tmp_path)
    process.start()
    assert wait_for(lambda: last_reading(tmp_path) is not None, 2.0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert wait_for(lambda: not process.alive(), 2.0)
    process.mark()
    stats = process.stop()
    assert stats.died
    assert len(read_trace(tmp_path)) > 0
    assert [path.name for path in tmp_path.iterdir()] == [PARQUET]


def test_sampler_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom rayscale.energy.process import SamplerProcess\n"
        "from rayscale.spec import EnergySpec\n"
        "p = SamplerProcess(EnergySpec(source='estimated', period=0.02), None, 1, Path(sys.argv[1]))\n"
        "p.start()\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        sampler = int(parent.stdout.readline())
        parent.kill()
    assert wait_for((tmp_path / PARQUET).exists)
    assert wait_for(lambda: not _runs(sampler))
    assert len(read_trace(tmp_path)) > 0


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
