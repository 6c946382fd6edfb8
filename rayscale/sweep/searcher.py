"""The searcher hands out blocks: each slot works through one block in its planned order, then takes the next one.

Two attempts are out per slot, one running and one staged: Tune only keeps a slot's actor (and its sampler and fork
server) if the next attempt is already waiting for the same resources when the present one ends. The exception is a
look of `design.stop`: until the blocks that it waits for have ended, no block after them is handed out.

A slot that dies leaves its staged attempt with Tune, which would run it before the one that has to be tried again. So
each attempt names the one it comes `after`; a new slot that finds that one cut off hands the attempt back
(`postponed`), and the block goes on in its planned order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher

from rayscale.design import Trial
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.stopping import NeverStopping, Stopping

ATTEMPTS_OUT = 2
"""Per slot: one running, one staged."""
POSTPONED = "postponed"
"""Outcome of an attempt that a slot handed back unbegun."""


class BlockSearcher(Searcher):
    """Suggests attempts for Tune; knows nothing of records, which are in the ledger."""

    def __init__(
        self, blocks: Iterable[list[Trial]], slots: list[SlotDevice], max_attempts: int, gate: Stopping | None = None
    ) -> None:
        """Queue the blocks.

        Args:
            blocks: The trials still to do, grouped by block, in run order.
            slots: Where they may run.
            max_attempts: Attempts per trial in this run.
            gate: Asked before a block begins; None lets all of them.
        """
        super().__init__()
        self._gate: Stopping = gate or NeverStopping()
        self._blocks = deque(deque(block) for block in blocks if block)
        self._slots = {slot.name: slot for slot in slots}
        self._queues: dict[str, deque[Trial]] = {slot.name: deque() for slot in slots}
        self._out: dict[str, tuple[str, Trial]] = {}
        self._latest: dict[str, str | None] = {}
        self._tries: Counter[str] = Counter()
        self._max_attempts = max_attempts

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Choose the next attempt.

        Args:
            trial_id: Tune's name for it.

        Returns:
            Its config; None to wait; FINISHED when nothing is left.
        """
        name = self._free_slot()
        if name is None:
            return None if self._out else Searcher.FINISHED
        trial = self._queues[name].popleft()
        self._out[trial_id] = (name, trial)
        self._tries[trial.trial_key] += 1
        last_try = self._tries[trial.trial_key] >= self._max_attempts
        after, self._latest[name] = self._latest.get(name), None if last_try else trial.trial_key
        return {
            "trial_key": trial.trial_key,
            "device": name,
            "device_uuid": self._slots[name].uuid,
            "last_try": last_try,
            "after": after,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of an attempt's end; a failed or postponed one goes back to its place in its slot's block.

        Args:
            trial_id: Tune's name for it.
            result: What the slot reported.
            error: The slot itself died.
        """
        name, trial = self._out.pop(trial_id, (None, None))
        if name is None or trial is None:
            return
        outcome = None if error or not result else result.get("outcome")
        if outcome == POSTPONED:
            self._tries[trial.trial_key] -= 1
        if outcome != "completed" and self._tries[trial.trial_key] < self._max_attempts:
            waiting = [trial, *self._queues[name]]
            self._queues[name] = deque(sorted(waiting, key=lambda one: one.run_order))
        if trial.block not in self._in_progress():
            self._gate.block_ended()

    def _in_progress(self) -> set[int]:
        """Name the blocks that have begun and not ended."""
        waiting = {trial.block for queue in self._queues.values() for trial in queue}
        return waiting | {trial.block for _, trial in self._out.values()}

    def _free_slot(self) -> str | None:
        """Find the slot with the fewest attempts out that has, or can take, a trial."""
        out = Counter(name for name, _ in self._out.values())
        for name in sorted(self._queues, key=lambda name: out[name]):
            if out[name] >= ATTEMPTS_OUT:
                continue
            if not self._queues[name] and self._blocks and self._gate.may_start(len(self._in_progress())):
                self._queues[name] = self._blocks.popleft()
            if self._queues[name]:
                return name
        return None

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a new run plans from the ledger."""
