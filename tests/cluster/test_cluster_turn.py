"""One sweep at a time: the second waits visibly, and a killed holder lets go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from rayscale.cluster.turn import SAY_EVERY_S, take_turn, turn_file, waits_for

HOLD = """
import sys, time
from pathlib import Path
from rayscale.cluster.turn import take_turn
import os
take_turn(Path(sys.argv[1]), "sweep first (job j1)", print)
os.execv(sys.executable, [sys.executable, "-c", "import sys, time; print('held', flush=True); time.sleep(60)"])
"""


class Clock:
    """Time that passes only by sleeping; after `free_after` seconds something happens."""

    def __init__(self, free_after: float, happen: object) -> None:
        self.now, self._free_after, self._happen = 0.0, free_after, happen

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._free_after and callable(self._happen):
            self._happen()
            self._happen = None


def never(seconds: float) -> None:
    raise AssertionError("nobody is there to wait for")


def test_a_free_cluster_is_taken_without_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    path = turn_file(tmp_path, "127.0.0.1:6379")
    os.close(take_turn(path, "sweep a (job j)", said.append, sleep=never))
    assert said == []
    assert path.read_text() == "sweep a (job j)"


def test_the_second_says_whom_it_waits_for_every_30_seconds(tmp_path: Path) -> None:
    path, said = turn_file(tmp_path, "here"), []
    first = take_turn(path, "sweep a (job j1)", said.append)
    clock = Clock(2.5 * SAY_EVERY_S, lambda: os.close(first))
    os.close(take_turn(path, "sweep b (job j2)", said.append, clock=clock, sleep=clock.sleep))
    assert said == ["waiting for sweep a (job j1), which has the cluster"] * 3 + ["the cluster is free"]
    assert [waits_for("\n".join(said[:count])) for count in range(5)] == [None, *["sweep a (job j1)"] * 3, None]
    assert waits_for(f"{said[0]}\nwaiting for another process that prepares x\n") == "sweep a (job j1)"
    assert waits_for("waiting for another process that prepares x\n") is None
    assert path.read_text() == "sweep b (job j2)"


def test_the_lock_survives_exec_and_ends_with_the_process(tmp_path: Path) -> None:
    path = turn_file(tmp_path, "here")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said: list[str] = []
        clock = Clock(1.0, lambda: (holder.send_signal(signal.SIGKILL), holder.wait()))
        os.close(take_turn(path, "sweep b (job j2)", said.append, clock=clock, sleep=clock.sleep))
        assert said == ["waiting for sweep first (job j1), which has the cluster", "the cluster is free"]
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def test_two_clusters_on_one_machine_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, other = turn_file(tmp_path, "127.0.0.1:6379"), turn_file(tmp_path, "127.0.0.1:6380")
    assert one != other
    held = [take_turn(path, "x", print, sleep=never) for path in (one, other)]
    for descriptor in held:
        os.close(descriptor)
