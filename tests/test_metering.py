"""`rayscale measure`: the meter around real commands, their exit codes, output, signals and process trees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from energy.native_nvml import build, environment

from rayscale.energy.trace import read_trace
from rayscale.metering import measure
from rayscale.processtree import DescendantsClock
from rayscale.spec import EnergySpec

BURN = "import time\nwhile time.process_time() < {seconds}: pass"
ESTIMATE = EnergySpec(source="estimated", period=0.05)
IDLE_W, W_PER_CPU = ESTIMATE.estimate.idle_w, ESTIMATE.estimate.w_per_cpu
CLI = "import sys; from rayscale.cli import run_command; sys.exit(run_command(sys.argv[1:]))"


def rayscale(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environ = environ or os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CLI, "measure", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def burn(seconds: float) -> list[str]:
    return [sys.executable, "-S", "-c", BURN.format(seconds=seconds)]


def expected_joules(duration_s: float, cpu_s: float) -> float:
    return IDLE_W * duration_s + W_PER_CPU * cpu_s


def test_energy_is_the_declared_model_of_the_commands_cpu_time() -> None:
    result = measure(burn(0.4), ESTIMATE)
    (device,) = result.devices
    assert result.exit_code == 0
    assert device.energy_j == pytest.approx(expected_joules(result.duration_s, 0.4), abs=0.3)
    assert device.energy_j == device.energy_counter_j
    assert device.estimated
    assert "estimated" in device.reasons
    assert device.coverage == pytest.approx(1.0, abs=1e-6)


def test_processes_from_before_are_not_the_commands() -> None:
    """Seen in a process that had a fork server: its helpers were said to be left behind by the command."""
    stranger = subprocess.Popen(["sleep", "30"])
    try:
        (device,) = measure(["true"], ESTIMATE).devices
    finally:
        stranger.kill()
        stranger.wait()
    assert "still_running" not in device.reasons


def test_the_whole_process_tree_counts() -> None:
    """A child that was waited for, a living one, and an orphan whose parent has died."""
    one = f"{sys.executable} -S -c '{BURN.format(seconds=0.3)}'"
    result = measure(["sh", "-c", f"{one}; (({one} ) & ) ; {one} & wait; sleep 0.5"], ESTIMATE)
    (device,) = result.devices
    assert device.energy_j == pytest.approx(expected_joules(result.duration_s, 0.9), abs=0.8)
    assert "still_running" not in device.reasons


def test_time_before_the_command_does_not_count() -> None:
    subprocess.run(burn(0.4), check=True)
    (device,) = measure(["true"], ESTIMATE).devices
    assert device.energy_j is not None
    assert device.energy_j < 1.0


def test_what_the_command_leaves_running_is_said() -> None:
    (device,) = measure(["sh", "-c", "sleep 0.6 & exit 0"], ESTIMATE).devices
    assert "still_running" in device.reasons


def test_trace_is_kept_on_request(tmp_path: Path) -> None:
    result = measure(["sleep", "0.3"], ESTIMATE, trace=tmp_path / "trace")
    (device,) = result.devices
    assert device.trace is not None
    trace = read_trace(Path(device.trace).parent)
    assert len(trace) >= 5
    assert trace.estimated


def fake_tree(proc: Path, pids: dict[int, tuple[str, list[int], int]]) -> None:
    """Write a proc file system: pid -> state, children, ticks of the children it waited for."""
    for pid, (state, children, waited) in pids.items():
        task = proc / str(pid) / "task" / str(pid)
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text(" ".join(map(str, children)))
        fields = [state, *["0"] * 12, str(waited), "0", *["0"] * 30]
        (proc / str(pid) / "stat").write_text(f"{pid} (a b) c) {' '.join(fields)}")


def test_clock_adds_the_living_their_waited_children_and_ours(tmp_path: Path) -> None:
    reaped = [5.0]
    fake_tree(tmp_path, {1: ("S", [], 0)})
    clock = DescendantsClock(pid=1, proc=tmp_path, reaped=lambda: reaped[0], own=lambda pid: pid / 10)
    assert clock.seconds() == 0.0
    tick = os.sysconf("SC_CLK_TCK")
    fake_tree(tmp_path, {1: ("S", [20], 0), 20: ("R", [30], tick), 30: ("Z", [], 0)})
    assert clock.seconds() == pytest.approx(2.0 + 1.0 + 3.0)
    assert clock.running() == [20]
    fake_tree(tmp_path, {1: ("S", [], 0)})
    assert clock.seconds() == pytest.approx(6.0), "time that is on its way up is not lost"
    reaped[0] += 6.5
    assert clock.seconds() == pytest.approx(6.5)


# -- the command ------------------------------------------------------------------------------------------------------


def test_json_is_all_there_is_on_stdout_and_the_exit_code_is_passed_on() -> None:
    done = rayscale("--json", "--period", "20ms", "--", "sh", "-c", "echo out; echo err >&2; sleep 0.2; exit 7")
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 7
    assert done.stderr.split() == ["out", "err"]
    assert document["duration_s"] == pytest.approx(0.2, abs=0.15)
    (device,) = document["devices"]
    contract = "uuid name method energy_j bound_j energy_counter_j energy_integral_j power_mean_w power_rms_w coverage"
    assert set(contract.split()) | {"verdict", "reasons"} <= set(device)


def test_without_json_the_commands_output_is_untouched() -> None:
    done = rayscale("printf", "%s|", "--json", "-x")
    assert done.stdout == "--json|-x|"
    assert "rayscale measure: exit code 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "no-such-program-here"], "no-such-program-here: no such command"),
        (["--", "/etc/passwd"], "/etc/passwd: is no program"),
        (["--period", "fast", "--", "true"], "--period fast: expected a duration"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str) -> None:
    done = rayscale(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_visible_gpu_is_measured(tmp_path: Path) -> None:
    """The real binding on a simulated library with two GPUs at 300 W and 100 W; then with one of them visible."""
    script = tmp_path / "gpus.txt"
    script.write_text("gpu GPU-aaaa-1 Simulated-H100 9\npower 0 300\ngpu GPU-bbbb-2 Simulated-H100 9\npower 0 100\n")
    environ = environment(build(tmp_path / "lib"), script)
    measured = json.loads(rayscale("--json", "--", "sleep", "1", environ=environ).stdout)
    devices, seconds = measured["devices"], measured["duration_s"]
    assert [device["uuid"] for device in devices] == ["GPU-aaaa-1", "GPU-bbbb-2"]
    assert [device["energy_j"] for device in devices] == pytest.approx([300.0 * seconds, 100.0 * seconds], rel=0.02)
    assert [device["power_mean_w"] for device in devices] == pytest.approx([300.0, 100.0], rel=0.01)
    assert not any(device["estimated"] for device in devices)
    environ["CUDA_VISIBLE_DEVICES"] = "1"
    (device,) = json.loads(rayscale("--json", "--", "true", environ=environ).stdout)["devices"]
    assert device["uuid"] == "GPU-bbbb-2"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_command_and_we_still_report(number: signal.Signals) -> None:
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CLI, "measure", "--json", "--", "sh", "-c", "echo ready >&2; exec sleep 30"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ, start_new_session=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "ready\n"
        began = time.monotonic()
        child.send_signal(number)
        stdout, _ = child.communicate(timeout=20)
    assert time.monotonic() - began < 15
    assert child.returncode == json.loads(stdout)["exit_code"] == 128 + number
