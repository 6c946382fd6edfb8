"""A sampler that is lost in the middle of a phase and replaced, by the watch and the substitute that a slot uses.

    python fault_loss.py SIGKILL|SIGSTOP DIRECTORY    prints the record that comes of it, and the true energy

It runs in a process of its own: the loader looks for the C library then, and a process has only one fork server.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import native_nvml
from native_trial import ENERGY, UUID, measure

from rayscale.energy.sampler import SamplerStats
from rayscale.record import Record
from rayscale.spec import EnergySpec
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.substitute import ForkedSampler
from rayscale.sweep.watch import LOOK_S, SamplerWatch

STOPPED_S = 3.0


class Link:
    """What `RaySampler` is to the watch, with forked samplers only."""

    def __init__(self) -> None:
        self._forks = ForkServer(["rayscale.sweep.substitute"])
        self.member = ForkedSampler(self._forks)

    @property
    def process(self) -> int | None:
        return self.member.process

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        if self.member.lost():
            self.member.discard()
            self.member = ForkedSampler(self._forks)
        self.member.start(spec, device_uuid, pid, directory)

    def stop(self) -> SamplerStats | None:
        return self.member.stop()

    def alive(self) -> bool:
        return not self.member.lost()

    def last(self) -> None:
        return None

    def close(self) -> None:
        self.member.discard()


class Watched:
    """The sampler of one attempt and who looks after it, as `native_trial.measure` wants it."""

    def __init__(self, directory: Path) -> None:
        self.link = Link()
        self.watch = SamplerWatch(self.link, ENERGY, UUID, os.getpid(), directory)

    def start(self) -> None:
        self.link.start(ENERGY, UUID, os.getpid(), self.watch.directory)

    def stop(self) -> SamplerStats | None:
        stats = self.link.stop()
        self.link.close()
        return stats


def strike(number: signal.Signals) -> Callable[[Watched], Watched]:
    """Send a signal, and let the watch look as often as a slot does; a stopped process is let go on after 3 s."""

    def disturb(sampler: Watched) -> Watched:
        struck = os.dup(sampler.link.process or -1)
        signal.pidfd_send_signal(struck, number)
        until = time.monotonic() + STOPPED_S * (number == signal.SIGSTOP)
        while not sampler.watch.notes or time.monotonic() < until:
            select.select([] if sampler.watch.notes else sampler.watch.descriptors(), [], [], LOOK_S)
            sampler.watch.look()
        if not select.select([struck], [], [], 0.0)[0]:
            raise RuntimeError("the lost sampler lives on and could write beside its successor")
        return sampler

    return disturb


def lost(how: str, directory: Path) -> tuple[Record, float]:
    """Lose a sampler in a process of its own.

    Args:
        how: Name of a signal.
        directory: For the library, the script and the attempt.

    Returns:
        The record, and the true energy of its train phase in J.
    """
    library = native_nvml.build(directory / "library")
    environment = native_nvml.environment(library, directory / "gpus.txt")
    command = [sys.executable, __file__, how, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    told = json.loads(done.stdout)
    return Record.from_json(told["record"]), told["truth_j"]


def main(how: str, directory: Path) -> None:
    attempt = directory / "attempt"
    sampler, after = Watched(attempt), STOPPED_S + 0.4 if how == "SIGSTOP" else 0.8
    disturb = strike(signal.Signals[how])
    run = measure(
        directory / "gpus.txt",
        attempt,
        disturb=disturb,
        sampler=sampler,
        notes=sampler.watch.notes,
        seconds=(0.8, after),
    )
    print(json.dumps({"record": run.record.to_json(), "truth_j": run.truth_j}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
