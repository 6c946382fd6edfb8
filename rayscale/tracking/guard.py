"""A sweep's way to its mirror: a queue and one thread, so that MLflow can neither stop nor slow a sweep.

What could go wrong stays in the thread: it is told once per kind, then left alone for half a minute, and afterwards
caught up from the ledger, which has everything. Nothing is lost by a dropped event; at worst `rayscale sync` is needed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayscale.design import Plan
from rayscale.tracking.content import RunStatus

BACK_OFF_S = 30.0
"""How long a failed mirror is left alone. Units: s."""


class MirrorLike(Protocol):
    """What the guard needs of `mirror.Mirror`."""

    def ensure_plan(self, plan: Plan) -> None:
        """Show the plan."""

    def trial_started(self, trial_key: str, attempt: int | None = None) -> None:
        """Show a trial as running."""

    def trial_finished(self, trial_key: str) -> None:
        """Show a trial's result."""

    def summaries(self, analysis_tree: Mapping[str, Any] | None) -> None:
        """Show the summary of every level."""

    def attach(self, paths: Sequence[Path]) -> None:
        """Store files with the parent."""

    def close(self, status: RunStatus) -> None:
        """End the parent."""

    def sync(self) -> object:
        """Bring everything up to date from the ledger."""


@dataclass(frozen=True)
class _Task:
    """One thing to do. `catches_up`: a sync from the ledger can stand for it."""

    run: Callable[[], object]
    catches_up: bool = True
    last: bool = False


class GuardedMirror:
    """The mirror as a sweep uses it: every method returns at once, and none raises because of MLflow."""

    def __init__(
        self,
        mirror: MirrorLike,
        log: Callable[[str], None],
        *,
        back_off_s: float = BACK_OFF_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            mirror: The mirror; only the thread touches it.
            log: Takes one line for the user; called from the thread.
            back_off_s: How long a failed mirror is left alone. Units: s.
            clock: Monotonic clock. Units: s.
        """
        self._mirror = mirror
        self._log = log
        self._back_off_s = back_off_s
        self._clock = clock
        self._tasks: queue.Queue[_Task] = queue.Queue()
        self._told: set[str] = set()
        self._behind = False
        self._retry_at = 0.0
        self._closed = threading.Event()
        # A daemon: a server that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def ensure_plan(self, plan: Plan) -> None:
        """Show the plan (see `Mirror.ensure_plan`).

        Args:
            plan: The plan.
        """
        self._tasks.put(_Task(lambda: self._mirror.ensure_plan(plan)))

    def trial_started(self, trial_key: str, attempt: int | None = None) -> None:
        """Show a trial as running.

        Args:
            trial_key: The trial.
            attempt: Number of the attempt; None lets the mirror ask the ledger, in its own thread.
        """
        self._tasks.put(_Task(lambda: self._mirror.trial_started(trial_key, attempt)))

    def trial_finished(self, trial_key: str) -> None:
        """Show a trial's result or failure.

        Args:
            trial_key: The trial.
        """
        self._tasks.put(_Task(lambda: self._mirror.trial_finished(trial_key)))

    def summaries(self, analysis_tree: Mapping[str, Any] | None) -> None:
        """Show mean, spread and interval of every level.

        Args:
            analysis_tree: The analysis; None takes the ledger's `analysis.json`.
        """
        self._tasks.put(_Task(lambda: self._mirror.summaries(analysis_tree)))

    def attach(self, paths: Sequence[Path]) -> None:
        """Store files with the parent run.

        Args:
            paths: The files.
        """
        self._tasks.put(_Task(lambda: self._mirror.attach(paths), catches_up=False))

    def close(self, status: RunStatus) -> None:
        """End the parent run.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED`.
        """
        self._tasks.put(_Task(lambda: self._mirror.close(status), catches_up=False))

    def finish(self, timeout: float) -> bool:
        """Wait until everything is sent, and end the thread; the only method that waits.

        If the mirror is behind, it is tried once more whatever the back-off says.

        Args:
            timeout: Longest wait. Units: s.

        Returns:
            True if the mirror is up to date; False if `rayscale sync` is needed, which the log is told.
        """
        self._tasks.put(_Task(lambda: None, last=True))
        drained = self._closed.wait(timeout)
        if drained and not self._behind:
            return True
        reason = "was behind" if drained else f"did not finish within {timeout:.0f} s"
        self._log(f"MLflow {reason}; the ledger is complete: `rayscale sync` brings MLflow up to date")
        return False

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            self._do(task)
            if task.last:
                self._closed.set()
                return

    def _do(self, task: _Task) -> None:
        """Run one task; after a failure, a sync stands for what was dropped."""
        if self._behind:
            if not task.last and self._clock() < self._retry_at:
                return
            self._behind = not self._attempt(self._mirror.sync)
            if self._behind or task.catches_up:
                return
        if not self._attempt(task.run):
            self._behind = True

    def _attempt(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # whatever MLflow and its libraries raise: a sweep must not hear of it
            self._retry_at = self._clock() + self._back_off_s
            self._tell(error)
            return False
        return True

    def _tell(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            line = next(iter(str(error).strip().splitlines()), kind)
            self._log(f"MLflow mirror is behind (the sweep goes on): {line}")
