"""The whole path in real processes: real binding, C library with scripted GPUs, sampler process, integration, verdict.

The loader looks at LD_LIBRARY_PATH when a process starts, hence the children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import native_nvml
import pytest

from rayscale.energy.measure import energy_result
from rayscale.energy.process import SamplerProcess
from rayscale.energy.quality import judge
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import Trace, read_trace
from rayscale.record import EnergyResult, Phase, Quality
from rayscale.spec import EnergySpec

UUID = "GPU-5afe0000-1111-2222-3333-444455556666"
SPEC = EnergySpec(source="nvml", period=0.05)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_nvml.build(tmp_path_factory.mktemp("nvml"))


@dataclass(frozen=True)
class Measured:
    trace: Trace
    result: EnergyResult
    quality: Quality
    stats: SamplerStats

    @property
    def codes(self) -> set[str]:
        return {reason.code for reason in self.quality.reasons}


@pytest.fixture
def measured(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sample a phase of 1.6 s: 60 W before, 300 W for 0.8 s, 500 W for 0.8 s; then the script's further lines."""

    def measure(*lines: str, directory: Path = library) -> Measured:
        script = tmp_path / "gpus.txt"
        always = "\n".join(line for line in lines if line.startswith("process"))
        script.write_text(f"gpu {UUID} Simulated-H100 9\npower 0 60\n{always}\n")
        for name, value in native_nvml.environment(directory, script).items():
            monkeypatch.setenv(name, value)
        sampler = SamplerProcess(SPEC, UUID, os.getpid(), tmp_path / "attempt")
        sampler.start()
        begin = time.monotonic() + 0.4
        middle, end = begin + 0.8, begin + 1.6
        fixed = [f"gpu {UUID} Simulated-H100 9", "power 0 60", f"power {begin} 300", f"power {middle} 500"]
        text = "\n".join([*fixed, f"power {end} 60", *lines]).format(begin=begin, end=end)
        (tmp_path / "next.txt").write_text(text + "\n")
        (tmp_path / "next.txt").replace(script)
        time.sleep(max(0.0, end + 0.5 - time.monotonic()))
        stats = sampler.stop()
        trace = read_trace(tmp_path / "attempt")
        phases = [Phase(name="idle", start=begin - 0.3, end=begin), Phase(name="train", start=begin, end=end)]
        result = energy_result(trace, phases, SPEC, stats)
        return Measured(trace, result, judge(trace, phases, result, SPEC, stats, steps=7), stats)

    return measure


TRUTH = (300.0 + 500.0) * 0.8


def test_real_binding_measures_the_scripted_gpu(measured) -> None:
    run = measured(f"process {os.getpid()} 0 inf")
    train = run.result.phases["train"]
    assert run.trace.meta.device_name == "Simulated-H100"
    assert (run.result.source, run.stats.errors) == ("nvml", 0)
    for joules, within in ((train.counter_j, 0.15), (train.integral_j, 0.15), (train.instant_j, 0.08)):
        assert joules == pytest.approx(TRUTH, rel=within)
    assert train.energy_j is not None
    assert train.bound_j is not None
    assert abs(train.energy_j - TRUTH) <= train.bound_j
    for words in ("energy counter (field 83)", "averaged power (field 185, 1000 ms window every 100 ms)", "Hopper"):
        assert words in run.result.method
    assert "driver 575.51.simulated; persistence mode on" in run.result.method
    assert run.codes <= {"disagreement"}  # the edges of 1.6 s are a large part of it


def test_everything_wrong_at_once_is_named(measured) -> None:
    run = measured(
        "process 1 0 inf",
        "limit 0 700",
        "limit {end} 700",
        "reasons 0x20 {begin} {end}",
        "reset {end}",
        "error nvmlDeviceGetTemperatureV 10 {begin} inf",
        "error 186 999 {begin} inf",
    )
    assert {"throttled", "foreign_process", "nvml_errors", "unavailable"} <= run.codes
    words = {reason.code: reason.detail for reason in run.quality.reasons}
    assert "instantaneous power: UNKNOWN" in words["nvml_errors"]
    assert "temperature: TIMEOUT" in words["unavailable"]
    assert "SwThermalSlowdown" in words["throttled"]
    assert words["foreign_process"].count("1:") == 1
    share = run.result.phases["train"].thermal_share
    assert share is not None
    assert 0.4 < share <= 1.0  # the counter is read once per second, so a phase of 1.6 s shares its growth with idle
    assert run.result.phases["train"].energy_j == pytest.approx(TRUTH, rel=0.2)


def test_driver_that_does_not_come_back_leaves_no_number(measured) -> None:
    run = measured("error * 15 {begin} inf")
    assert {"nvml_errors", "no_energy", "sampler_errors"} <= run.codes
    assert "fields: GPU_IS_LOST" in next(r.detail for r in run.quality.reasons if r.code == "nvml_errors")
    assert run.result.phases["train"].energy_j is None
    assert run.quality.verdict == "invalid"


def test_binding_without_the_field_query_falls_back(measured, tmp_path: Path) -> None:
    run = measured(directory=native_nvml.build(tmp_path / "old", "-DWITHOUT_FIELDS"))
    assert "power by nvmlDeviceGetPowerUsage (1000 ms window every 100 ms)" in run.result.method
    assert "energy counter (nvmlDeviceGetTotalEnergyConsumption)" in run.result.method
    train = run.result.phases["train"]
    assert (train.instant_j, train.thermal_share) == (None, None)
    assert train.counter_j == pytest.approx(TRUTH, rel=0.15)


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
