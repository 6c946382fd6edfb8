"""Attempts with real forked processes and no Ray: every way to fail leaves its reason, and the slot goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.attempt import TrialJob
from rayscale.design import Plan, plan_sweep
from rayscale.energy.reader import Reading, open_reader
from rayscale.energy.sampler import Sampler, SamplerStats
from rayscale.environment import cache_directory
from rayscale.errors import EnvironmentUnusableError
from rayscale.ledger import Ledger
from rayscale.record import Settling
from rayscale.spec import EnergySpec
from rayscale.specfile import parse_spec
from rayscale.sweep.attempts import AttemptResult, SlotHost, _settle, run_attempt
from rayscale.sweep.devices import Binding, SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.settling import DeviceState
from rayscale.training.data import prepare


class ThreadSampler:
    """A sampler link whose sampler runs in this process; it can be told to die, and to read a device's sensor."""

    def __init__(self) -> None:
        self.sampler: Sampler | None = None
        self.starts = 0
        self.lost_after_s: float | None = None
        self.comes_back = True
        self.started_at = 0.0
        self.sensor: list[tuple[float | None, float | None]] = []
        self.process: int | None = None

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        if self.sampler:
            self.sampler.stop()
            if not self.comes_back:
                raise EnvironmentUnusableError("no device answers\nin several lines")
        self.starts += 1
        self.started_at = time.monotonic()
        self.sampler = Sampler(open_reader(spec, device_uuid=device_uuid, pid=pid), directory, spec.period)
        self.sampler.start()

    def stop(self) -> SamplerStats | None:
        sampler, self.sampler = self.sampler, None
        return sampler.stop() if sampler else None

    def alive(self) -> bool:
        lost = self.lost_after_s is not None and time.monotonic() - self.started_at > self.lost_after_s
        if lost:
            self.lost_after_s = None
        return not lost

    def last(self) -> Reading | None:
        if not self.sensor:
            return None
        temperature_c, power_w = self.sensor.pop(0)
        return Reading(time.monotonic(), power_w, None, None, temperature_c, None, None, 0.0)

    def close(self) -> None:
        self.stop()


@pytest.fixture
def host(tmp_path: Path, forks: ForkServer) -> SlotHost:
    return SlotHost(Ledger(tmp_path / "tiny"), forks, ThreadSampler(), SlotDevice("cpu:0", None, "CPU"), 0.1)


def plan_of(old: str = "", new: str = "") -> Plan:
    assert old in TINY
    return plan_sweep(parse_spec(TINY.replace(old, new, 1), "tiny.yaml"))


def attempt(host: SlotHost, plan: Plan, index: int = 0, *, last_try: bool = True) -> AttemptResult:
    trial = plan.trials[index]
    return run_attempt(host, trial, prepare(trial.spec, cache_directory()), last_try=last_try)


def when_training(host: SlotHost, act: Callable[[int], None]) -> threading.Thread:
    """Act on the trial's process as soon as its log says that it trains."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for log in host.ledger.root.glob("trials/*/attempt-*/log.jsonl"):
                if '"train"' in log.read_text(encoding="utf-8") and not (log.parent / "failure.json").exists():
                    act(child_of(log.parent))
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def child_of(directory: Path) -> int:
    """Find the process that has the attempt's log open."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                targets = [os.readlink(link) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            if str(directory / "log.jsonl") in targets:
                return int(process.name)
    raise AssertionError("no process writes the log")


LONG = ("tokens: [512, 1024]", "tokens: [400_000]")
LONG_EPOCHS = "sequence_length: 32"


def long_plan(limit: str = "60s") -> Plan:
    """A sweep whose trial trains for many seconds unless it is stopped."""
    text = TINY.replace(*LONG).replace(LONG_EPOCHS, LONG_EPOCHS + "\n  max_epochs: 100")
    return plan_sweep(parse_spec(text.replace("cpus: 1", f"cpus: 1, time_limit: {limit}"), "tiny.yaml"))


def test_trials_complete_in_processes_of_their_own(host: SlotHost) -> None:
    plan = plan_of()
    results = [attempt(host, plan, index) for index in range(2)]
    records = [result.record for result in results]
    assert all(record is not None for record in records)
    pids = {record.environment["pid"] for record in records if record}
    assert len(pids) == 2
    assert os.getpid() not in pids
    for trial, record in zip(plan.trials, records, strict=False):
        assert host.ledger.record(trial.trial_key) == record
        assert record is not None
        assert record.training.trained_tokens == trial.tokens
        assert record.training.import_s < 0.2  # forked from a server that has everything imported
        assert record.energy.phases["train"].energy_j is not None
        directory = host.ledger.attempt_directory(trial.trial_key, 1)
        assert sorted(path.name for path in directory.iterdir()) == ["log.jsonl", "output.log", "power.parquet"]


def test_divergence_is_a_failure_with_its_trace_kept(host: SlotHost) -> None:
    text = TINY.replace("learning_rate: 1.0e-2", "learning_rate: 1.0e+30, grad_clip: null, warmup_steps: 0")
    plan = plan_sweep(parse_spec(text, "tiny.yaml"))
    result = attempt(host, plan)
    assert result.record is None
    assert result.failure is not None
    assert result.failure.reason == "diverged"
    directory = host.ledger.attempt_directory(plan.trials[0].trial_key, 1)
    assert (directory / "power.parquet").exists()
    assert host.ledger.record(plan.trials[0].trial_key) is None


def test_a_killed_trial_is_a_failure_and_the_slot_goes_on(host: SlotHost) -> None:
    killer = when_training(host, lambda pid: os.kill(pid, signal.SIGKILL))
    result = attempt(host, long_plan())
    killer.join()
    assert result.failure is not None
    assert (result.failure.reason, "signal 9" in result.failure.detail) == ("killed", True)
    after = attempt(host, plan_of())
    assert after.record is not None


def test_a_hanging_trial_is_killed_at_its_time_limit(host: SlotHost) -> None:
    stopper = when_training(host, lambda pid: os.kill(pid, signal.SIGSTOP))
    start = time.monotonic()
    result = attempt(host, long_plan("3s"))
    stopper.join()
    assert result.failure is not None
    assert result.failure.reason == "time_limit"
    assert "3 s" in result.failure.detail
    assert time.monotonic() - start < 10


def test_a_crash_names_the_exception(host: SlotHost) -> None:
    plan = plan_of("num_attention_heads: 2", "num_attention_heads: 5")
    result = attempt(host, plan)
    assert result.failure is not None
    assert result.failure.reason in ("crashed", "bad_input")
    assert result.failure.detail


def test_attempts_are_numbered_and_only_the_accepted_one_makes_a_record(host: SlotHost) -> None:
    plan = plan_of()
    key = plan.trials[0].trial_key
    killer = when_training(host, lambda pid: os.kill(pid, signal.SIGKILL))
    slow = long_plan()
    failed = attempt(host, slow)
    killer.join()
    assert failed.attempt == 1
    first, second = attempt(host, plan), attempt(host, plan)
    assert (first.attempt, second.attempt) == (1, 2)
    assert host.ledger.attempts(key) == [1, 2]


def fake_sampler(host: SlotHost) -> ThreadSampler:
    assert isinstance(host.sampler, ThreadSampler)
    return host.sampler


def log_of(host: SlotHost, trial_key: str) -> list[dict[str, object]]:
    path = host.ledger.attempt_directory(trial_key, 1) / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def codes(result: AttemptResult) -> list[str]:
    assert result.record is not None, result.failure
    return [reason.code for reason in result.record.quality.reasons]


def test_a_lost_sampler_is_replaced_and_both_times_are_in_the_log(host: SlotHost) -> None:
    sampler = fake_sampler(host)
    sampler.lost_after_s = 0.2
    plan = plan_of("idle: 40ms", "idle: 400ms")
    result = attempt(host, plan)
    assert sampler.starts == 2
    assert "sampler_restarted" in codes(result)
    log = log_of(host, plan.trials[0].trial_key)
    lost, back = (next(e for e in log if e["event"] == name) for name in ("sampler_lost", "sampler_restarted"))
    assert isinstance(lost["t"], float)
    assert isinstance(back["t"], float)
    assert lost["t"] <= sampler.started_at <= back["t"]


def test_a_sampler_that_does_not_come_back_makes_the_attempt_invalid(host: SlotHost) -> None:
    sampler = fake_sampler(host)
    sampler.lost_after_s, sampler.comes_back = 0.2, False
    result = attempt(host, plan_of("idle: 40ms", "idle: 400ms"), last_try=False)
    assert sampler.starts == 1
    assert result.failure is not None
    assert result.failure.reason == "invalid_energy"
    assert "did not come back: no device answers" in result.failure.detail
    assert "several lines" not in result.failure.detail


def test_a_trial_waits_until_temperature_and_power_are_back_at_the_blocks_start(host: SlotHost) -> None:
    sampler = fake_sampler(host)
    plan = plan_of("idle: 40ms", "idle: 40ms, settle: {max_rise_c: 5, max_rise_w: 10, timeout: 20s}")
    sampler.sensor = [(40.0, 60.0), (40.0, 58.0)]  # the block's start: power has stopped falling
    first = attempt(host, plan, 0).record
    assert first is not None
    assert first.settling is not None
    assert (first.settling.reference_c, first.settling.reference_w) == (40.0, 58.0)
    sampler.sensor = [(55.0, 250.0), (44.0, 120.0), (50.0, 60.0), (44.0, 60.0)]
    result = attempt(host, plan, 1)
    assert sampler.sensor == []
    assert not {"temperature_not_settled", "power_not_settled"} & set(codes(result))
    assert result.record is not None
    settling = result.record.settling
    assert settling is not None
    assert (settling.start_c, settling.start_w, settling.reference_w) == (44.0, 60.0, 58.0)
    assert 0.5 < settling.waited_s < 5
    assert not settling.timed_out
    shown = [entry.get("name") for entry in log_of(host, plan.trials[1].trial_key) if entry["event"] == "phase"]
    assert shown[:2] == ["settling", "idle"]  # what the live view shows, in this order


@pytest.mark.parametrize(
    ("stuck", "code"), [((60.0, 58.0), "temperature_not_settled"), ((40.0, 90.0), "power_not_settled")]
)
def test_settling_gives_up_at_its_timeout_and_says_so(host: SlotHost, stuck: tuple[float, float], code: str) -> None:
    sampler = fake_sampler(host)
    plan = plan_of("idle: 40ms", "idle: 40ms, settle: {max_rise_c: 5, timeout: 300ms}")
    host.block_start[plan.trials[1].block] = DeviceState(40.0, 58.0)
    sampler.sensor = [stuck] * 50
    result = attempt(host, plan, 1)
    assert code in codes(result)
    assert result.record is not None
    assert result.record.quality.verdict != "clean"
    assert result.record.settling is not None
    assert result.record.settling.timed_out


def test_a_block_begun_by_an_earlier_run_keeps_its_start(host: SlotHost, forks: ForkServer) -> None:
    plan = plan_of("idle: 40ms", "idle: 40ms, settle: {max_rise_w: 10, timeout: 300ms}")
    fake_sampler(host).sensor = [(40.0, 58.0)] * 3
    first = attempt(host, plan, 0).record
    assert first is not None
    # on a GPU the record has the slot's UUID; here it names the CPU
    later = SlotHost(host.ledger, forks, ThreadSampler(), SlotDevice("cpu:0", first.device.uuid, "CPU"), 0.1, plan)
    assert later.ledger.record(plan.trials[0].trial_key) == first
    fake_sampler(later).sensor = [(41.0, 90.0)] * 20
    settling = settle_only(later, plan, 1)
    assert settling is not None
    assert (settling.reference_c, settling.reference_w, settling.timed_out) == (40.0, 58.0, True)


def settle_only(host: SlotHost, plan: Plan, index: int) -> Settling | None:
    trial = plan.trials[index]
    number = host.ledger.new_attempt(trial.trial_key)
    directory = host.ledger.attempt_directory(trial.trial_key, number)
    data = prepare(trial.spec, cache_directory())
    return _settle(host, TrialJob("tiny", trial, number, directory, data, host.device.uuid, host.device.name, None))


def test_where_no_sensor_tells_nothing_is_waited_for(host: SlotHost) -> None:
    result = attempt(host, plan_of(), 0)
    assert result.record is not None
    assert result.record.settling is None


@pytest.mark.parametrize(("binding", "flagged"), [("resource", False), ("best effort", True)])
def test_the_binding_is_recorded_and_flagged_where_nothing_holds_the_block(
    host: SlotHost, binding: Binding, flagged: bool
) -> None:
    host.device = SlotDevice("any@n1-0", None, "", node="n1", binding=binding)
    result = attempt(host, plan_of(), 0)
    assert result.record is not None
    assert result.record.environment["binding"] == {"device": "any@n1-0", "node": "n1", "by": binding}
    assert ("device_not_pinned" in {reason.code for reason in result.record.quality.reasons}) is flagged
