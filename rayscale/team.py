"""The processes of a trial on several devices: rank 0 is the trial, the others do what it tells them, phase by phase.

    rank 0   idle | load ......... | context_idle | eval ... | warmup | train ............ | eval | end
                     "load"                         "evaluate"          "train"
    rank 1          └ load .... done                └ ... done          └ ........... done

A rank that has nothing to do sleeps in a read: where it only waited for the others in a collective operation it would
keep its device busy in phases that are meant to be idle. Ranks are children of rank 0, so whoever follows the process
tree finds them (CPU time, the processes on a GPU), and the kernel kills them when rank 0 ends, however it ends. One
that ends or fails is noticed at once, by its pipe; rank 0 then fails with that rank's reason, or, if it is caught in a
collective operation that never returns, ends after `GRACE_S`.

`ranked` is their side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from rayscale.attempt import RankFailed, TrialJob, explain_failure
from rayscale.ledger import Failure
from rayscale.ranked import Place, Process, Starter, failure_of, leave

GRACE_S = 3.0
"""How long rank 0 may take to notice by itself that another rank is gone."""
BLAME_S = 2.0
"""How long rank 0 waits for another rank's account of an error that looks like a lost connection."""
END_S = 10.0
"""How long a rank that is told to end may take."""


@dataclass
class _Rank:
    """A rank as rank 0 sees it."""

    index: int
    process: Process
    pipe: Connection
    ended: bool = False


class Team:
    """The other ranks of a trial; none of a trial on one device. A context: at its end they have ended."""

    def __init__(
        self, job: TrialJob, start: Starter, give_up: Callable[[Failure], None], grace_s: float = GRACE_S
    ) -> None:
        """Bind; the context starts the ranks.

        Args:
            job: The attempt.
            start: Starts one process.
            give_up: Told the reason before this process ends by force, because it did not come back from waiting for a
                rank that is gone.
            grace_s: How long it may take to come back, in s.
        """
        self._job, self._start, self._give_up, self._grace_s = job, start, give_up, grace_s
        self._meeting: int | None = None
        self._ranks: list[_Rank] = []
        self._changed = threading.Condition()
        self._answers: dict[int, Any] = {}
        self._failures: list[Failure] = []
        self._over = False
        self.place = Place(0, job.trial.spec.world, "")

    def __enter__(self) -> Team:
        """Start the ranks; they wait."""
        if self.place.world == 1:
            return self
        # A file without a name in any file system: nothing is left behind, however this process ends.
        self._meeting = os.memfd_create("rayscale-ranks")
        address = f"file:///proc/{os.getpid()}/fd/{self._meeting}"
        self.place = Place(0, self.place.world, address)
        for index in range(1, self.place.world):
            process, pipe = self._start()
            self._ranks.append(_Rank(index, process, pipe))
            pipe.send((self._job, Place(index, self.place.world, address)))
        threading.Thread(target=self._listen, name="ranks", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the ranks: told to after a success, killed otherwise."""
        with self._changed:
            self._over = True
        for rank in self._ranks:
            if error is None:
                _send(rank, "end")
            else:
                _kill(rank)
        if self._ranks and error is None:
            leave()
        with self._changed:
            if not self._changed.wait_for(lambda: all(rank.ended for rank in self._ranks), END_S):
                for rank in self._ranks:
                    _kill(rank)
        if self._meeting is not None:
            os.close(self._meeting)

    @contextlib.contextmanager
    def together(self, word: str) -> Iterator[dict[int, Any]]:
        """Have the ranks do something while this one does the same.

        Args:
            word: `load`, `evaluate`, `warmup`, `train`, `count` or `quantize`.

        Yields:
            What they answered, by rank; complete when the context has ended.

        Raises:
            RankFailed: If one of them ended or failed.
        """
        answers: dict[int, Any] = {}
        self._answers = answers
        for rank in self._ranks:
            _send(rank, word)
        try:
            yield answers
        except Exception as error:
            failure = self._blamed(error)
            if failure is None:
                raise
            raise RankFailed(failure) from error
        with self._changed:
            self._changed.wait_for(lambda: self._failures or len(answers) == len(self._ranks))
        if self._failures:
            raise RankFailed(self._worst())

    def _blamed(self, error: Exception) -> Failure | None:
        """Find the rank whose end made an operation of this one fail; None if the error is this one's own."""
        if not self._ranks or explain_failure(error).reason != "crashed":
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._failures, BLAME_S)
        return self._worst() if self._failures else None

    def _worst(self) -> Failure:
        """Choose among what several ranks tell: a lost connection is what the others see of the first cause."""
        time.sleep(BLAME_S / 10)
        order = ("killed", "crashed")
        return min(self._failures, key=lambda one: {order[0]: 0, order[1]: 2}.get(one.reason, 1))

    # -- a thread that hears them -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        left = {rank.pipe: rank for rank in self._ranks}
        while left:
            for pipe in wait(list(left)):
                rank = left[pipe]  # type: ignore[index]
                try:
                    self._heard(rank, rank.pipe.recv())
                except (EOFError, OSError):
                    del left[rank.pipe]
                    self._gone(rank)

    def _heard(self, rank: _Rank, answer: Any) -> None:
        with self._changed:
            if isinstance(answer, Failure):
                self._fail(answer)
            else:
                self._answers[rank.index] = answer
            self._changed.notify_all()

    def _gone(self, rank: _Rank) -> None:
        code = rank.process.wait()
        with self._changed:
            rank.ended = True
            if not self._over and code < 0:
                hint = "; the kernel kills processes when memory runs out" if code == -signal.SIGKILL else ""
                detail = f"rank {rank.index} (process {rank.process.pid}) was killed by signal {-code}{hint}"
                self._fail(failure_of("killed", detail))
            elif not self._over and not self._failures:
                self._fail(failure_of("crashed", f"rank {rank.index} ended with exit code {code}"))
            self._changed.notify_all()

    def _fail(self, failure: Failure) -> None:
        self._failures.append(failure)
        if len(self._failures) == 1:
            timer = threading.Timer(self._grace_s, self._end_by_force)
            timer.daemon = True
            timer.start()

    def _end_by_force(self) -> None:
        if not self._over:
            self._give_up(self._worst())
            os._exit(1)


def _send(rank: _Rank, word: str) -> None:
    with contextlib.suppress(OSError):  # it is gone, as the listener tells
        rank.pipe.send(word)


def _kill(rank: _Rank) -> None:
    if not rank.ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.process.pid, signal.SIGKILL)
