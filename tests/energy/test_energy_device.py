"""Small parts around the NVML reader: sensor table, co-tenants, slow columns, old traces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from energy_traces import meta, reading
from fake_nvml import Clock, FakeGpu, FakeNvml
from simgpu import PROFILES, Load, SimGpu

from rayscale.energy.layout import PARQUET, TraceMeta
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.sensors import SensorWindow, architecture_name, instant_window, is_ga100, usage_window
from rayscale.energy.slow import around, grown_share
from rayscale.energy.stream import TraceWriter
from rayscale.energy.tenants import Tenants, foreign_processes
from rayscale.energy.trace import finalize, read_trace


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_sensor_table_is_that_of_sc24(profile) -> None:
    assert usage_window(profile.architecture, profile.name) == profile.usage
    if profile.instant is not None:
        assert instant_window(profile.architecture, profile.name) == profile.instant


def test_sensor_words_and_corner_cases() -> None:
    assert str(SensorWindow(0.1, 0.025)) == "25 ms window every 100 ms"
    assert SensorWindow(0.1, 1.0).lag_s == pytest.approx(0.55)
    assert (SensorWindow(0.1, 0.025).part_time, SensorWindow(0.1, 0.1).part_time) == (True, False)
    assert [is_ga100(7, name) for name in ("NVIDIA A100-PCIE-40GB", "NVIDIA A30", "NVIDIA RTX A3000", "A10")] == [
        True,
        True,
        False,
        False,
    ]
    assert instant_window(6, "Tesla T4") == SensorWindow(0.1, 0.1)
    assert instant_window(None, "?") == instant_window(10, "B200") == SensorWindow(0.1, 0.025)
    assert (architecture_name(9), architecture_name(None)) == ("Hopper", "unknown architecture")


def test_own_process_and_its_children_are_not_foreign() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert foreign_processes([os.getpid(), child.pid], os.getpid()) == ""
        assert foreign_processes([os.getpid()], child.pid) == f"{os.getpid()}:{_comm(os.getpid())}"
        assert foreign_processes([child.pid], None) is foreign_processes([child.pid], 0) is None
    finally:
        child.communicate(b"\n")


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip().replace("+", "_")


def _proc(root: Path, pids: dict[int, int]) -> Path:
    for pid, parent in pids.items():
        (root / str(pid)).mkdir(parents=True)
        (root / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 0")
        (root / str(pid) / "comm").write_text("work\n")
    return root


def test_processes_of_another_namespace(tmp_path: Path) -> None:
    """In a container NVML's ids mean nothing here: one of them is taken for ours, unless ours is already known."""
    proc = _proc(tmp_path, {10: 1, 11: 10, 20: 1})
    assert foreign_processes([11, 20], 10, proc) == "20:work"
    assert foreign_processes([4000], 10, proc) == ""
    assert foreign_processes([4000, 4001], 10, proc) == "4001:?"
    assert foreign_processes([11, 4000], 10, proc) == "4000:?"


def test_who_came_and_went_is_foreign_unless_it_was_ours(tmp_path: Path) -> None:
    proc = _proc(tmp_path, {10: 1, 11: 10, 20: 1})
    tenants = Tenants(10, proc=proc)
    assert tenants.foreign([10, 11], [11]) == ""
    (tmp_path / "11" / "stat").unlink()
    (tmp_path / "11" / "comm").unlink()
    (tmp_path / "11").rmdir()
    assert tenants.foreign([10], [11]) == ""  # it was ours while it lived
    assert tenants.foreign([10], [11, 20, 4000]) == "20:work+4000:?"
    assert Tenants(10, departed=False, proc=proc).foreign([10], [20, 4000]) == ""
    assert Tenants(None, proc=proc).foreign([10], [20]) is None


def test_recent_processes_are_asked_for_since_the_last_look() -> None:
    clock = Clock()
    device = SimGpu(Load([0.0, 990.0], [60.0, 60.0]), processes=((1, 1001.0, 1003.0),))
    nvml = FakeNvml(device, clock=clock)
    reader = NvmlReader(device.uuid, nvml=nvml, clock=clock, wall=nvml.wall, pid=os.getpid())
    assert "under 5 s are not seen" not in reader.method
    seen = []
    for _ in range(4):
        seen.append(reader.read_edge().others)
        clock.advance(4.0)
    assert [bool(others) for others in seen] == [False, True, False, False]
    without = FakeGpu("GPU-y", failing={"nvmlDeviceGetProcessUtilization"})
    assert "co-tenants of under 5 s are not seen" in NvmlReader("GPU-y", nvml=FakeNvml(without)).method


def test_cumulative_time_as_share_of_windows() -> None:
    t = np.arange(11.0)
    seconds = np.concatenate([np.zeros(5), np.arange(6.0)])
    assert grown_share(t, seconds, [(0.0, 10.0)]) == pytest.approx(0.5)
    assert grown_share(t, seconds, [(0.0, 2.0), (6.0, 8.0)]) == pytest.approx(0.5)
    reset = np.where(t > 7, seconds - 3, seconds)
    assert grown_share(t, reset, [(0.0, 10.0)]) == pytest.approx(0.4)
    assert grown_share(t, np.full(11, np.nan), [(0.0, 10.0)]) is None
    assert grown_share(t, seconds, [(20.0, 30.0)]) is None
    assert grown_share(t, seconds, []) is None


def test_values_around_windows() -> None:
    t = np.arange(6.0)
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    assert around(t, values, [(1.5, 3.5)]) == [2.0, 4.0, 5.0]
    assert around(t, values, [(-1.0, 0.5)]) == [1.0, 2.0]
    assert around(t, values, []) == []
    assert around(t, np.full(6, None, dtype=object), [(0.0, 1.0)]) == []
    assert around(t, np.array([None, "", None, "9:x", None, None], dtype=object), [(2.0, 2.5)]) == ["", "9:x"]


def test_slow_quantities_are_read_and_what_is_missing_is_said() -> None:
    clock = Clock()
    device = FakeGpu("GPU-x", limit_w=350.0, failing={"nvmlDeviceGetTotalEccErrors", 75}, pids=[1])
    reader = NvmlReader("GPU-x", nvml=FakeNvml(device, clock=clock), clock=clock, pid=os.getpid())
    assert "not offered: thermal violation time (NOT_SUPPORTED), memory errors (NOT_SUPPORTED)" in reader.method
    first = reader.read()
    assert (first.power_limit_w, first.clock_policy_mhz, first.mem_clock_mhz) == (350.0, 1980.0, 2619.0)
    assert (first.power_violation_s, first.thermal_violation_s, first.ecc_errors, first.fault) == (
        0.0,
        None,
        None,
        None,
    )
    assert first.others is not None
    assert first.others.startswith("1:")
    clock.advance(1.0)
    second = reader.read()  # the process list holds the driver's lock: at most every 5 s, and at edges
    assert (second.others, second.power_limit_w) == (None, 350.0)
    assert reader.read_edge().others is not None
    clock.advance(5.0)
    assert reader.read().others is not None


def test_lost_handle_is_opened_again_at_most_once_a_second() -> None:
    clock, device = Clock(), FakeGpu("GPU-x")
    nvml = FakeNvml(device, clock=clock)
    reader = NvmlReader("GPU-x", nvml=nvml, clock=clock)
    device.failing, device.code = {"nvmlDeviceGetFieldValues", "nvmlDeviceGetHandleByUUID"}, 15
    faults = []
    for _ in range(15):
        faults.append(reader.read().fault or "")
        clock.advance(0.1)
    assert all("fields: GPU_IS_LOST" in fault for fault in faults)
    assert sum("reopen: GPU_IS_LOST" in fault for fault in faults) == 2
    device.failing = set()
    assert reader.read().power_w is not None
    reader.close()
    assert nvml.open == 0


def test_lag_and_accuracy_are_recorded_with_the_trace(tmp_path: Path) -> None:
    reader = NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x")), lag_s=0.4, accuracy=0.02)
    assert "lag 0.4 s corrected" in reader.method
    known = TraceMeta.of(reader, 0.1)
    assert known.power_shift_s == pytest.approx(0.45)
    writer = TraceWriter(tmp_path, known)
    writer.append(reading(1.0, 100.0))
    writer.close()
    assert read_trace(tmp_path).meta == known


def test_trace_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, meta())
    writer.append(reading(1.0, 100.0, 5.0))
    writer.close()
    table = pq.read_table(finalize(tmp_path))
    pq.write_table(table.drop_columns(["others", "fault", "power_limit_w", "ecc_errors"]), tmp_path / PARQUET)
    trace = read_trace(tmp_path)
    assert trace.power_w.tolist() == [100.0]
    assert np.isnan(trace.power_limit_w).all()
    assert trace.fault.tolist() == [None]
