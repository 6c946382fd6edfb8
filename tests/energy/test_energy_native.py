"""The whole path in real processes: real binding, C library with scripted GPUs, sampler process, bell, verdict, Record.

The loader looks at LD_LIBRARY_PATH when a process starts, hence the children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import native_nvml
import pytest
from native_trial import Measured, killed, measure, stopped

from rayscale.energy.punctual import real_time_allowed
from rayscale.energy.sampler import SamplerStats
from rayscale.record import Reason


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def measured(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    def run(*lines: str, library: Path = library, **more) -> Measured:
        script, directory = tmp_path / "gpus.txt", tmp_path / "attempt"
        for name, value in native_nvml.environment(library, script).items():
            monkeypatch.setenv(name, value)
        return measure(script, directory, *lines, **more)

    return run


def test_real_binding_measures_the_scripted_gpu(measured) -> None:
    run = measured(f"process {os.getpid()} 0 inf")
    energy, train = run.record.energy, run.train
    assert run.trace.meta.device_name == "Simulated-H100"
    assert (energy.source, run.stats.errors) == ("nvml", 0)
    assert energy.sampler["real_time"] is real_time_allowed()  # the sampler's process is a child of this one
    assert SamplerStats.from_record(energy.sampler) == run.stats
    assert train.counter_j == pytest.approx(run.truth_j, rel=0.05)  # the ticks make the counter this sharp
    assert train.instant_j == pytest.approx(run.truth_j, rel=0.1)
    assert train.integral_j == pytest.approx(run.truth_j, rel=0.25)  # a 1-s average of 1.6 s
    assert run.error_j <= train.bound_j
    for words in ("energy counter (field 83)", "averaged power (field 185, 1000 ms window every 100 ms)", "Hopper"):
        assert words in energy.method
    assert "driver 575.51.simulated; persistence mode on" in energy.method
    assert run.codes <= {"disagreement"}  # the edges of 1.6 s are a large part of it
    assert energy.idle_w == pytest.approx(60.0, rel=0.35)  # some ticks long


def test_everything_wrong_at_once_is_named(measured) -> None:
    run = measured(
        "process 1 0 inf",
        "limit 0 700",
        "limit {middle} 500",
        "reasons 0x20 {begin} {end}",
        "reset {middle}",
        "error nvmlDeviceGetTemperatureV 10 {begin} inf",
        "error 186 999 {begin} inf",
    )
    found = {"throttled", "foreign_process", "nvml_errors", "unavailable", "counter_reset", "limit_changed"}
    assert found <= run.codes
    assert "instantaneous power: UNKNOWN" in run.words["nvml_errors"]
    assert "temperature: TIMEOUT" in run.words["unavailable"]
    assert "SwThermalSlowdown" in run.words["throttled"]
    assert run.words["foreign_process"].count("1:") == 1
    assert run.train.thermal_share == pytest.approx(1.6 / 1.75, abs=0.1)
    assert run.record.energy.method.startswith("integral of power; ")
    assert run.train.energy_j == pytest.approx(run.truth_j, rel=0.25)


def test_power_that_cannot_be_and_old_answers_are_refused_by_name(measured) -> None:
    """No power, 60 kW, then a driver that repeats without an error what it said half a minute ago."""
    run = measured(
        "shows 0 {begin} {quarter}",
        "shows 60000 {quarter} {middle}",
        "old 30 {middle} {end}",
        "ecc {middle} 2",
        "policy {middle} 1410",
    )
    assert {"nvml_errors", "coverage", "ecc_errors", "clock_policy_changed"} <= run.codes
    assert run.trace is not None
    faults = {fault for poll in run.trace.fault if poll for fault in poll.split("; ")}
    for what in ("averaged power", "instantaneous power"):
        assert {f"{what}: value 0", f"{what}: implausible 6e+04 W", f"{what}: STALE"} <= faults
    assert "STALE" in run.words["nvml_errors"]
    assert run.words["ecc_errors"].startswith("2 uncorrected")
    assert (run.train.integral_j, run.train.instant_j) == (None, None)
    assert run.record.energy.method.startswith("counter; ")
    assert run.train.counter_j == pytest.approx(run.truth_j, rel=0.05)
    assert run.error_j <= run.train.bound_j


def test_the_module_is_taken_where_the_gpu_is_not_told_alone(measured) -> None:
    old = [f"error {name} 3 0 inf" for name in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")]
    run = measured(*old, *(f"scope {field} 1" for field in (83, 185, 186)))
    assert "scope MODULE" in run.record.energy.method
    assert run.train.instant_j == pytest.approx(run.truth_j, rel=0.1)
    assert run.error_j <= run.train.bound_j


def test_driver_that_does_not_come_back_leaves_no_number(measured) -> None:
    run = measured("error * 15 {begin} inf")
    assert {"nvml_errors", "no_energy", "sampler_errors"} <= run.codes
    assert "fields: GPU_IS_LOST" in run.words["nvml_errors"]
    assert run.train.energy_j is None
    assert run.record.quality.verdict == "invalid"


def test_binding_without_the_field_query_falls_back(measured, tmp_path: Path) -> None:
    run = measured(library=native_nvml.build(tmp_path / "old", "-DWITHOUT_FIELDS"))
    method = run.record.energy.method
    assert "power by nvmlDeviceGetPowerUsage (1000 ms window every 100 ms)" in method
    assert "energy counter (nvmlDeviceGetTotalEnergyConsumption)" in method
    assert (run.train.instant_j, run.train.thermal_share) == (None, None)
    assert run.train.counter_j == pytest.approx(run.truth_j, rel=0.05)


def test_stopped_sampler_is_filled_from_the_drivers_buffer(measured) -> None:
    run = measured("ring 20", disturb=stopped(0.6))
    assert run.train.backfilled >= 5
    assert run.train.coverage > 0.95
    assert "coverage" not in run.codes
    assert f"{run.train.backfilled} power samples of the driver's own buffer" in run.words["backfilled"]
    assert run.error_j <= run.train.bound_j


def test_killed_sampler_is_replaced_and_its_gap_filled(measured, tmp_path: Path) -> None:
    note = Reason(code="sampler_restarted", detail="replaced")
    run = measured("ring 20", "process 1 {begin} {middle}", disturb=killed(tmp_path / "attempt"), notes=(note,))
    assert {"sampler_restarted", "backfilled"} <= run.codes
    assert run.record.quality.verdict != "clean"
    assert run.train.coverage > 0.95
    assert run.train.counter_j == pytest.approx(run.truth_j, rel=0.05)


def listed(library: Path, script: str, directory: Path, visible: str | None = None) -> str:
    (directory / "gpus.txt").write_text(script)
    environment = native_nvml.environment(library, directory / "gpus.txt")
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    code = (
        "import json\nfrom rayscale.energy.reader import gpu_devices\nfrom rayscale.errors import RayscaleError\n"
        "try: print(json.dumps([[g.uuid, g.name, g.index] for g in gpu_devices()]))\n"
        "except RayscaleError as error: print('refused:', error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_gpus_are_listed_through_the_real_binding(library: Path, tmp_path: Path) -> None:
    two = "gpu GPU-aa Simulated 9\npower 0 60\ngpu GPU-bb Simulated 9\npower 0 60\n"
    assert json.loads(listed(library, two, tmp_path)) == [["GPU-aa", "Simulated", 0], ["GPU-bb", "Simulated", 1]]
    assert json.loads(listed(library, two, tmp_path, "GPU-b")) == [["GPU-bb", "Simulated", 1]]
    assert json.loads(listed(library, two, tmp_path, "0,-1")) == [["GPU-aa", "Simulated", 0]]
    assert "refused: GPU-bb is in MIG mode" in listed(library, two + "mig 1\n", tmp_path)
    assert "GPU 0 does not answer NVML" in listed(library, "gpu GPU-aa S 9\nerror * 15 0 inf\n", tmp_path)
    assert json.loads(listed(library, "", tmp_path)) == []
    assert "refused: NVML does not start" in listed(library, "init 18\n" + two, tmp_path)
