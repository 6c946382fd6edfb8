"""A trial's process whose collective operation never returns, for test_team: ranks are real processes.

python team_process.py WORLD ACT...    each further rank does one ACT when told to train: work, die, raise, hang
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace
from typing import Any

from rayscale.ledger import Failure
from rayscale.ranked import Process, _Fork, die_with_parent, failure_of
from rayscale.team import Team


def act(pipe: Connection, what: str, parent: int) -> None:
    die_with_parent(parent)
    pipe.recv()
    while pipe.recv() != "end":
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            pipe.send(failure_of("out_of_memory", "rank 1: no memory"))
            os._exit(0)
        if what == "lost":
            pipe.send(failure_of("crashed", "rank 2: connection closed by peer"))
            os._exit(0)
        if what == "hang":
            time.sleep(600)
        pipe.send(None)


def starter(acts: list[str]) -> Any:
    left = list(acts)

    def start() -> tuple[Process, Connection]:
        what, (here, there) = left.pop(0), Pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            here.close()
            act(there, what, parent)
            os._exit(0)
        there.close()
        print("rank", pid, flush=True)
        return _Fork(pid), here

    return start


def give_up(failure: Failure) -> None:
    print("gave up", failure.reason, failure.detail, flush=True)


def main(stuck: bool, acts: list[str]) -> None:
    spec = SimpleNamespace(world=len(acts) + 1)
    job: Any = SimpleNamespace(trial=SimpleNamespace(spec=spec))
    with Team(job, starter(acts), give_up, grace_s=0.5) as team:
        with team.together("train"):
            time.sleep(600 if stuck else 0)
        print("trained", flush=True)
    print("ended", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] == "stuck", sys.argv[2:])
