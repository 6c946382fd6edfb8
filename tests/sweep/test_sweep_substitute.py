"""Samplers in real processes, killed and stopped, without Ray: what the slot sees and what is left in the trace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayscale.energy.trace import finalize, read_trace
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.substitute import SILENCE_S, ForkedSampler, readable
from rayscale.sweep.watch import SamplerWatch
from rayscale.training.preload import PRELOAD

SPEC = EnergySpec(source="estimated", period=0.02)


@pytest.fixture(scope="module")
def forks() -> ForkServer:
    return ForkServer(["rayscale.trial", *PRELOAD])  # as in test_sweep_attempts: one server serves the whole session


@pytest.fixture
def sampler(forks: ForkServer) -> Iterator[ForkedSampler]:
    member = ForkedSampler(forks)
    yield member
    member.discard()


def pid_of(member: ForkedSampler) -> int:
    assert member.process is not None
    text = Path("/proc/self/fdinfo", str(member.process)).read_text(encoding="ascii")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pid:")))


def eventually(true: Callable[[], bool], within_s: float) -> float:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within_s, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - start


def test_it_samples_until_it_is_stopped(sampler: ForkedSampler, tmp_path: Path) -> None:
    assert not sampler.lost()
    sampler.start(SPEC, None, os.getpid(), tmp_path)
    time.sleep(0.3)
    assert not sampler.lost()
    assert sampler.last() is None  # a model, not a sensor
    stats = sampler.stop()
    assert stats is not None
    assert stats.polls > 5
    assert len(read_trace(tmp_path)) == stats.polls


def test_a_killed_one_is_lost_at_once(sampler: ForkedSampler, tmp_path: Path) -> None:
    sampler.start(SPEC, None, os.getpid(), tmp_path)
    os.kill(pid_of(sampler), signal.SIGKILL)
    assert sampler.process is not None
    assert readable(sampler.process, 1.0)
    assert sampler.lost()
    assert sampler.stop() is None


def test_a_stopped_one_is_lost_when_it_has_been_silent_and_is_killed_for_certain(
    sampler: ForkedSampler, tmp_path: Path
) -> None:
    sampler.start(SPEC, None, os.getpid(), tmp_path)
    pid = pid_of(sampler)
    os.kill(pid, signal.SIGSTOP)
    assert SILENCE_S * 0.9 < eventually(sampler.lost, 3.0) < 2.0
    sampler.discard()
    eventually(lambda: state_of(pid) in ("gone", "Z"), 1.0)


def state_of(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_a_device_that_cannot_be_read_is_told_in_words(sampler: ForkedSampler, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusableError, match="nvml needs an NVIDIA GPU"):
        sampler.start(EnergySpec(source="nvml"), None, os.getpid(), tmp_path)


def test_it_ends_when_the_slot_is_gone(forks: ForkServer, tmp_path: Path) -> None:
    orphan = ForkedSampler(forks)
    orphan.start(SPEC, None, os.getpid(), tmp_path)
    process = orphan.process
    assert process is not None
    assert orphan._pipe is not None
    orphan._pipe.close()  # what the kernel does for a slot that was killed
    assert readable(process, 5.0)
    assert len(read_trace(tmp_path)) > 1


class Relay:
    """A link that takes a new forked sampler for each one that is lost."""

    def __init__(self, forks: ForkServer) -> None:
        self._forks = forks
        self.member = ForkedSampler(forks)

    @property
    def process(self) -> int | None:
        return self.member.process

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        if self.member.lost():
            self.member.discard()
            self.member = ForkedSampler(self._forks)
        self.member.start(spec, device_uuid, pid, directory)

    def stop(self) -> None:
        self.member.stop()

    def alive(self) -> bool:
        return not self.member.lost()

    def last(self) -> None:
        return None

    def close(self) -> None:
        self.member.discard()


def test_the_trace_goes_on_after_each_loss(forks: ForkServer, tmp_path: Path) -> None:
    relay = Relay(forks)
    relay.start(SPEC, None, os.getpid(), tmp_path)
    watch = SamplerWatch(relay, SPEC, None, os.getpid(), tmp_path)
    for _ in range(3):
        time.sleep(1.0)
        os.kill(pid_of(relay.member), signal.SIGKILL)
        assert readable(watch.descriptors()[0], 1.0)
        watch.look()
        assert relay.alive()
    time.sleep(0.3)
    relay.stop()
    relay.close()
    finalize(tmp_path)
    trace = read_trace(tmp_path)
    steps = trace.t[1:] - trace.t[:-1]
    assert (steps > 0).all()
    assert (steps > 0.1).sum() >= 3
    assert [note.code for note in watch.notes] == ["sampler_restarted"] * 3
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8").count("sampler_lost") == 3
