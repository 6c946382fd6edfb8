"""`rayscale doctor`: every finding on machines that are made up, and the command on this one."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.cli import run_command
from rayscale.doctor.check import Check, Diagnosis
from rayscale.doctor.examine import examine
from rayscale.doctor.gpu import COUNTER_PROBE_S, PROBE_S, PowerProbe, gpu_checks, probe_counter, probe_power
from rayscale.doctor.host import GIB, Host, energy_checks, host_checks, place_check, sampler_check
from rayscale.doctor.software import NEEDED, Software, software_checks, store_check

FACTS = {"ray": "2.60.0", "torch": "2.13.0", "cuda_build": "13.0", "cuda": True, "gpus": ["GPU-a"], "bf16": True}
GOOD = Software(installed=lambda name: "1.0", probe=lambda: FACTS, health=lambda uri: None, system="Linux")


class RefusedError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class MadeUpNvml:
    """One GPU: `told` holds the answers of functions and fields; what is not in it is refused."""

    told: dict[str, Any] = field(default_factory=dict)
    uuids: tuple[str, ...] = ("GPU-aaaa",)
    init_error: int | None = None

    NVMLError = RefusedError
    NVML_SUCCESS, NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 0, 1
    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED = 12, 9
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_FUNCTION_NOT_FOUND, NVML_TOTAL_POWER_SAMPLES = 3, 13, 0
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = 83, 185, 186

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise RefusedError(self.init_error)

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.uuids[handle]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Made Up H100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 << 30)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "575.51"

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[SimpleNamespace]:
        value = self.told.get(str(fields[0]))
        return [
            SimpleNamespace(
                nvmlReturn=0 if value is not None else 3, valueType=1, value=SimpleNamespace(uiVal=value or 0)
            )
        ]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def answer(*_arguments: Any) -> Any:
            if name not in self.told:
                raise RefusedError(3)
            return self.told[name]

        return answer


HEALTHY = {
    "83": 10_000_000,
    "185": 70_000,
    "186": 71_000,
    "nvmlDeviceGetPowerUsage": 70_000,
    "nvmlDeviceGetMigMode": (0, 0),
    "nvmlDeviceGetSamples": (1, [None] * 120),
    "nvmlDeviceGetTemperatureV": 31,
    "nvmlDeviceGetClockInfo": 345,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetComputeRunningProcesses": [],
}


def gpu_findings(**changes: Any) -> dict[str, Check]:
    told = {key: value for key, value in (HEALTHY | changes).items() if value is not None}
    checks, count = gpu_checks(
        nvml=MadeUpNvml(told), environ={}, probe=lambda read: PowerProbe(read(), 0.1), counter_probe=lambda read: 0.1
    )
    assert count == 1
    return {check.name.strip(): check for check in checks}


def test_a_healthy_gpu_is_named_by_uuid_with_all_it_tells() -> None:
    found = gpu_findings()
    assert {check.level for check in found.values()} == {"ok"}
    assert "Made Up H100" in found["GPU-aaaa"].found
    assert found["energy"].values == {"counter": True, "average": True, "usage": True, "instant": True}
    assert found["power now"].values == {"idle_w": 70.0, "update_period_s": 0.1, "counter_period_s": 0.1}
    assert "of the energy counter: 100 ms" in found["power now"].found
    assert "driver keeps 120 power samples" in found["energy"].found
    assert found["power limit"].values == {"enforced_w": 700.0, "default_w": 700.0}


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"83": None}, "energy", "warning", "energy counter no"),
        ({"nvmlDeviceGetSamples": None}, "energy", "ok", "driver keeps no power samples"),
        ({"nvmlDeviceGetMigMode": None}, "GPU-aaaa", "ok", "no MIG"),
        (
            {"83": None, "185": None, "186": None, "nvmlDeviceGetPowerUsage": None},
            "energy",
            "problem",
            "averaged power (field 185) no",
        ),
        (
            {"83": None, "185": None, "186": None, "nvmlDeviceGetPowerUsage": None, "(185, 1)": 500_000},
            "energy",
            "warning",
            "but the whole module is told",
        ),
        ({"nvmlDeviceGetPersistenceMode": 0}, "state", "warning", "persistence off"),
        ({"nvmlDeviceGetPersistenceMode": None}, "state", "ok", "persistence not told"),
        ({"nvmlDeviceGetTemperatureV": None}, "state", "ok", "not told, SM clock 345 MHz"),
        ({"nvmlDeviceGetEnforcedPowerLimit": 400_000}, "power limit", "warning", "400 W enforced"),
        ({"nvmlDeviceGetEnforcedPowerLimit": None}, "power limit", "ok", "not told enforced"),
        ({"nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=77)]}, "processes", "warning", "pid 77"),
        ({"nvmlDeviceGetComputeRunningProcesses": None}, "processes", "warning", "not told"),
    ],
)
def test_what_a_gpu_lacks_is_said(changes: dict[str, Any], name: str, level: str, words: str) -> None:
    check = gpu_findings(**changes)[name]
    assert (check.level, words in check.found) == (level, True)


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    bad = gpu_findings(**{"83": None, "nvmlDeviceGetPersistenceMode": 0, "nvmlDeviceGetEnforcedPowerLimit": 400_000})
    assert all(check.advice for check in bad.values() if check.level != "ok")


@pytest.mark.parametrize(
    ("nvml", "environ", "level", "words"),
    [
        (MadeUpNvml(init_error=12), {}, "ok", "trials run on the CPU"),
        (MadeUpNvml(init_error=18), {}, "problem", "NVML does not start"),
        (MadeUpNvml(HEALTHY), {"CUDA_VISIBLE_DEVICES": ""}, "ok", "none visible"),
        (MadeUpNvml(HEALTHY), {"CUDA_VISIBLE_DEVICES": "9"}, "warning", "though 1 GPU(s) are here"),
        (MadeUpNvml(HEALTHY), {"CUDA_VISIBLE_DEVICES": "GPU-x"}, "warning", "though 1 GPU(s) are here"),
        (MadeUpNvml(HEALTHY | {"nvmlDeviceGetMigMode": (1, 1)}), {}, "problem", "MIG mode"),
    ],
)
def test_no_usable_gpu(nvml: MadeUpNvml, environ: dict[str, str], level: str, words: str) -> None:
    (check,), count = gpu_checks(nvml=nvml, environ=environ)
    assert count == 0
    assert check.level == level
    assert words in check.found


@given(st.sampled_from([0.05, 0.1, 0.2]), st.floats(0.0, 1.0))
def test_update_period_of_a_changing_value(period: float, phase: float) -> None:
    clock = SimpleNamespace(now=1000.0 + phase)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    found = probe_power(lambda: 70.0 + int(clock.now / period) % 7, clock=lambda: clock.now, sleep=sleep)
    assert found.period_s == pytest.approx(period, abs=0.011)
    assert found.mean_w is not None


@given(st.sampled_from([0.02, 0.05, 0.1, 0.2]), st.floats(0.0, 1.0))
def test_update_period_of_the_counter(period: float, phase: float) -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    found = probe_counter(lambda: 6.0 * ((now[0] + phase) // period + 1), clock=lambda: now[0], sleep=sleep)
    assert found == pytest.approx(period, abs=0.0021)
    assert now[0] <= 100.0 + COUNTER_PROBE_S + 0.01
    assert probe_counter(lambda: 5.0, clock=lambda: now[0], sleep=sleep) is None
    assert probe_counter(lambda: None, clock=lambda: now[0], sleep=sleep) is None


@pytest.mark.parametrize("value", [70.0, None])
def test_a_still_or_silent_sensor_has_no_period(value: float | None) -> None:
    times = iter([index * PROBE_S / 50 for index in range(100)])
    assert probe_power(lambda: value, clock=lambda: next(times), sleep=lambda _: None) == PowerProbe(value, None)


# -- host -------------------------------------------------------------------------------------------------------------


def made_up_host(tmp_path: Path, available_gib: float = 16.0, limit: str = "max", **changes: Any) -> Host:
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {int(available_gib * (1 << 20))} kB\n")
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(str(GIB))
    host = Host(proc=tmp_path, shm=tmp_path, cgroup=tmp_path, rapl=lambda: None, free=lambda path: 100 * GIB)
    return replace(host, load=lambda: 0.1, cpus=lambda: 8, **changes)


def test_a_good_host(tmp_path: Path) -> None:
    host = made_up_host(tmp_path)
    assert {check.level for check in [*host_checks(host), *energy_checks(host, gpus=0)]} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"available_gib": 1.0}, "memory", "1.0 GiB available"),
        ({"limit": str(3 * GIB)}, "memory", "2.0 GiB available"),
        ({"free": lambda path: GIB // 2}, "", "0.5 GiB free"),
    ],
)
def test_scarce_memory(tmp_path: Path, changes: dict[str, Any], name: str, words: str) -> None:
    checks = {check.name: check for check in host_checks(made_up_host(tmp_path, **changes))}
    check = checks[name or str(tmp_path)]
    assert (check.level, words in check.found) == ("warning", True)


def test_a_busy_machine_is_a_warning(tmp_path: Path) -> None:
    check = host_checks(replace(made_up_host(tmp_path), load=lambda: 4.0))[0]
    assert (check.level, check.values["load"]) == ("warning", 4.0)


def test_unreadable_memory_is_not_zero(tmp_path: Path) -> None:
    check = host_checks(replace(made_up_host(tmp_path), proc=tmp_path / "none"))[1]
    assert (check.level, dict(check.values)) == ("warning", {})


def test_without_rapl_the_estimate_and_its_constants_are_stated(tmp_path: Path) -> None:
    host = replace(made_up_host(tmp_path), rapl=lambda: "readable by root only")
    rapl, estimate = energy_checks(host, gpus=0)
    assert (rapl.level, estimate.level) == ("warning", "warning")
    assert "readable by root only" in rapl.found
    assert "5 W + 10 W per busy CPU" in estimate.found
    assert [check.level for check in energy_checks(host, gpus=1)] == ["ok", "ok"]


def test_whether_the_sampler_can_be_on_time_is_said(tmp_path: Path) -> None:
    for allowed, words in ((True, "real-time scheduling allowed"), (False, "not allowed (needs CAP_SYS_NICE")):
        host = replace(made_up_host(tmp_path), real_time=lambda allowed=allowed: allowed)
        check = sampler_check(host)
        assert (check.level, words in check.found, check.values["real_time"]) == ("ok", True, allowed)
        examined = examine(tmp_path, host=host, software=GOOD, gpus=lambda: ([], 0), environ={})
        assert check in examined.checks


@pytest.mark.parametrize(("free", "level"), [(GIB // 8, "problem"), (GIB, "warning"), (50 * GIB, "ok")])
def test_disk_space(tmp_path: Path, free: int, level: str) -> None:
    host = replace(made_up_host(tmp_path), free=lambda path: free)
    check = place_check("ledgers", tmp_path / "not" / "yet", host)
    assert check.level == level
    assert not (tmp_path / "not").exists()


def test_a_place_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = place_check("ledgers", tmp_path / "file" / "results", made_up_host(tmp_path))
    assert (check.level, "cannot be written" in check.found) == ("problem", True)


# -- software ---------------------------------------------------------------------------------------------------------


def test_good_software() -> None:
    assert {check.level for check in software_checks(GOOD, quick=False, gpus=1)} == {"ok"}


@pytest.mark.parametrize(
    ("software", "gpus", "name", "words"),
    [
        (replace(GOOD, installed=lambda name: None if name == "ray" else "1"), 0, "packages", "missing: ray"),
        (replace(GOOD, system="Darwin"), 0, "system", "Darwin"),
        (replace(GOOD, probe=lambda: FACTS | {"ray_error": "ImportError: x"}), 0, "Ray", "does not import"),
        (replace(GOOD, probe=lambda: FACTS | {"torch_error": "OSError: y"}), 0, "torch", "does not import"),
        (replace(GOOD, probe=lambda: FACTS | {"gpus": []}), 2, "torch", "sees none of 2 GPU(s)"),
        (replace(GOOD, probe=lambda: {"error": "Killed"}), 0, "torch and Ray", "do not import: Killed"),
    ],
)
def test_software_without_which_a_sweep_cannot_run(software: Software, gpus: int, name: str, words: str) -> None:
    problems = [check for check in software_checks(software, quick=False, gpus=gpus) if check.level == "problem"]
    assert [check.name for check in problems] == [name]
    assert words in problems[0].found


def test_quick_asks_no_other_process() -> None:
    def probe() -> dict[str, Any]:
        raise AssertionError("--quick imports nothing")

    assert software_checks(replace(GOOD, probe=probe), quick=True, gpus=0)[-1].found == "not imported (--quick)"


def test_store_beside_the_ledgers(tmp_path: Path) -> None:
    check = store_check(tmp_path, None, GOOD)
    assert (check.level, "will be made" in check.found) == ("ok", True)
    (tmp_path / "mlflow.db").write_text("no database at all, but long enough to be looked at as one" * 20)
    check = store_check(tmp_path, None, GOOD)
    assert (check.level, "no readable MLflow store" in check.found) == ("warning", True)
    (tmp_path / "mlflow.db").unlink()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("create table runs (id int)")
        connection.execute("insert into runs values (1)")
    connection.close()
    assert store_check(tmp_path, None, GOOD).found.endswith("mlflow.db, 1 runs")


def test_a_server_that_does_not_answer_is_a_warning(tmp_path: Path) -> None:
    asked = replace(GOOD, health=lambda uri: "Connection refused")
    check = store_check(tmp_path, "http://127.0.0.1:9", asked)
    assert (check.level, "does not answer: Connection refused" in check.found) == ("warning", True)
    assert store_check(tmp_path, "http://127.0.0.1:9", GOOD).level == "ok"
    real = store_check(tmp_path, "http://127.0.0.1:9", Software())
    assert real.level == "warning"


# -- the whole --------------------------------------------------------------------------------------------------------


def test_exit_code_follows_the_problems(tmp_path: Path) -> None:
    good = examine(tmp_path, host=made_up_host(tmp_path), software=GOOD, gpus=lambda: ([], 0), environ={})
    assert good.exit_code == 0
    bad = Diagnosis((*good.checks, Check("gpu", "x", "problem", "lost", "put it back")))
    assert bad.exit_code == 3
    assert "could not run here: 1 problem(s)" in bad.text()
    assert "PROBLEM  x: lost" in bad.text()
    assert "-> put it back" in bad.text()


def test_the_command_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command(["doctor", "--quick", "--json", "--storage", str(tmp_path)])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if document["usable"] else 3)
    assert {check["area"] for check in document["checks"]} == {"gpu", "energy", "host", "storage", "software"}
    assert set(document["checks"][-2]["values"]) == set(NEEDED)
    assert run_command(["doctor", "--quick", "--storage", str(tmp_path)]) == code
    text = capsys.readouterr().out
    assert all(len(line) <= 118 for line in text.splitlines() if str(tmp_path) not in line)
