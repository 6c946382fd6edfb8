"""Attempts with real forked processes and no Ray: every way to fail leaves its reason, and the slot goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.design import Plan, plan_sweep
from rayscale.energy.reader import open_reader
from rayscale.energy.sampler import Sampler, SamplerStats
from rayscale.environment import cache_directory
from rayscale.ledger import Ledger
from rayscale.spec import EnergySpec
from rayscale.specfile import parse_spec
from rayscale.sweep.attempts import AttemptResult, SlotHost, run_attempt
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.training.data import prepare
from rayscale.training.preload import PRELOAD


class ThreadSampler:
    """A sampler link whose sampler runs in this process; it can be told to die, and to read a temperature."""

    def __init__(self) -> None:
        self.sampler: Sampler | None = None
        self.starts = 0
        self.dies_after_s: float | None = None
        self.started_at = 0.0
        self.temperatures: list[float] = []

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        if self.sampler:
            self.sampler.stop()
        self.starts += 1
        self.started_at = time.monotonic()
        self.sampler = Sampler(open_reader(spec, device_uuid=device_uuid, pid=pid), directory, spec.period)
        self.sampler.start()

    def stop(self) -> SamplerStats | None:
        sampler, self.sampler = self.sampler, None
        return sampler.stop() if sampler else None

    def alive(self) -> bool:
        dead = self.dies_after_s is not None and time.monotonic() - self.started_at > self.dies_after_s
        if dead:
            self.dies_after_s = None
        return not dead

    def temperature_c(self) -> float | None:
        return self.temperatures.pop(0) if self.temperatures else None


@pytest.fixture(scope="module")
def forks() -> ForkServer:
    server = ForkServer(["rayscale.trial", *PRELOAD])
    assert server.missing() == []
    return server


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


def test_a_sampler_that_dies_is_brought_back_and_told(host: SlotHost) -> None:
    sampler = host.sampler
    assert isinstance(sampler, ThreadSampler)
    sampler.dies_after_s = 0.2
    result = attempt(host, long_plan("4s"))
    assert sampler.starts == 2
    assert result.failure is not None  # the long trial ends by its limit; the sampler was restarted meanwhile
    assert result.failure.reason == "time_limit"


def test_settling_waits_for_the_temperature_of_the_blocks_start(host: SlotHost) -> None:
    sampler = host.sampler
    assert isinstance(sampler, ThreadSampler)
    plan = plan_of("idle: 40ms", "idle: 40ms, settle: {max_rise_c: 5, timeout: 20s}")
    sampler.temperatures = [40.0]
    assert attempt(host, plan, 0).record is not None
    sampler.temperatures = [55.0, 50.0, 44.0]
    result = attempt(host, plan, 1)
    assert sampler.temperatures == []
    assert result.record is not None
    assert "temperature_not_settled" not in [reason.code for reason in result.record.quality.reasons]


def test_settling_gives_up_at_its_timeout_and_says_so(host: SlotHost) -> None:
    sampler = host.sampler
    assert isinstance(sampler, ThreadSampler)
    plan = plan_of("idle: 40ms", "idle: 40ms, settle: {max_rise_c: 5, timeout: 300ms}")
    sampler.temperatures = [40.0]
    attempt(host, plan, 0)
    sampler.temperatures = [60.0] * 50
    result = attempt(host, plan, 1)
    assert result.record is not None
    assert "temperature_not_settled" in [reason.code for reason in result.record.quality.reasons]
    assert result.record.quality.verdict != "clean"
