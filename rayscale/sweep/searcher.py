"""The searcher hands out blocks: each device works through one block in its planned order, then takes the next one.

Two attempts are out per device, one running and one staged: Tune only keeps a slot's actor (and its sampler and fork
server) if the next attempt is already waiting for the same resources when the present one ends. The exception is a
look of `design.stop`: until the blocks that it waits for have ended, no block after them is handed out. Never are two
staged: which of them Tune would run first is left to chance.

A slot that dies leaves its staged attempt with Tune, which would run it before the one that has to be tried again. So
each attempt names the one it comes `after`; a new slot that finds that one cut off hands the attempt back
(`postponed`), and the block goes on in its planned order.

Devices come and go with the fleet. A device that is gone gives its unfinished blocks back, each as a whole, before any
that nobody has begun; what it had staged is `abandoned`, since Tune would wait for the device for ever.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Protocol

from ray.tune.search import Searcher

from rayscale.design import Trial
from rayscale.sweep.devices import Fleet, SlotDevice
from rayscale.sweep.stopping import NeverStopping, Stopping

ATTEMPTS_OUT = 2
"""Per device: one running, one staged."""
POSTPONED = "postponed"
"""Outcome of an attempt that a slot handed back unbegun."""


class Keeper(Protocol):
    """What the ledger knows of blocks and devices."""

    def blocks_begun(self) -> dict[int, str]:
        """Return block -> device of the unfinished blocks that belong to one."""

    def blocks_done(self) -> list[str]:
        """Return the device of every finished block, as often as it did one."""

    def take_back(self, block: int, device: str) -> list[Trial]:
        """Return the trials to do of a block whose device is gone."""


class BlockSearcher(Searcher):
    """Suggests attempts for Tune; knows nothing of records, which are in the ledger."""

    def __init__(
        self,
        blocks: Iterable[list[Trial]],
        fleet: Fleet,
        max_attempts: int,
        gate: Stopping | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Queue the blocks.

        Args:
            blocks: The trials still to do, grouped by block, in run order.
            fleet: Where they may run.
            max_attempts: Attempts per trial in this run.
            gate: Asked before a block begins; None lets all of them.
            keeper: Knows which blocks have begun; None: none has.
        """
        super().__init__()
        self._gate: Stopping = gate or NeverStopping()
        self._fleet, self._keeper = fleet, keeper
        self._max_attempts = max_attempts
        self._devices: dict[str, SlotDevice] = {}
        self._seen: tuple[SlotDevice, ...] | None = None
        self._queues: dict[str, deque[Trial]] = {}
        self._out: dict[str, tuple[str, Trial]] = {}
        self._latest: dict[str, str | None] = {}
        self._tries: Counter[str] = Counter()
        self._taken: Counter[str] = Counter(keeper.blocks_done() if keeper else ())
        self._staged: dict[str, str] = {}
        self._load: Counter[str] = Counter()
        self._open: Counter[int] = Counter()
        self._ready: set[str] = set()
        self._idle: set[str] = set()
        self._place_of: dict[str, int] = {}
        self._taken_by_kind: Counter[str] = Counter()
        self.abandoned: set[str] = set()
        """Tune's names of attempts whose device is gone."""
        self._bound: dict[str, deque[deque[Trial]]] = {}
        self._blocks: deque[deque[Trial]] = deque()
        self._follow_fleet()
        begun = keeper.blocks_begun() if keeper else {}
        for block in filter(None, blocks):
            self._place(block, begun.get(block[0].block))

    def _place(self, block: list[Trial], device: str | None) -> None:
        """Keep a block that has begun for its device; without it, take it back."""
        if device in self._devices:
            self._bound.setdefault(str(device), deque()).append(deque(block))
            return
        if device is not None and self._keeper is not None:
            block = self._keeper.take_back(block[0].block, device)
        self._blocks.append(deque(block))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Choose the next attempt.

        Args:
            trial_id: Tune's name for it.

        Returns:
            Its config; None to wait; FINISHED when nothing is left.
        """
        self._follow_fleet()
        name = self._free_device()
        if name is None:
            waits = not self._devices and bool(self._blocks) and self._fleet.may_grow()
            return None if self._out or waits else Searcher.FINISHED
        trial, device = self._queues[name].popleft(), self._devices[name]
        self._out[trial_id], self._staged[name] = (name, trial), trial_id
        self._load[name] += 1
        self._sort_in(name)
        self._tries[trial.trial_key] += 1
        last_try = self._tries[trial.trial_key] >= self._max_attempts
        after, self._latest[name] = self._latest.get(name), None if last_try else trial.trial_key
        return {
            "trial_key": trial.trial_key,
            "device": name,
            "device_uuid": device.uuid,
            "node": device.node,
            "binding": device.binding,
            "claims": dict(device.claims),
            "last_try": last_try,
            "after": after,
        }

    def attempt_started(self, trial_id: str) -> None:
        """Take note that an attempt has begun, so that the next one can be staged.

        Args:
            trial_id: Tune's name for it.
        """
        name, _ = self._out.get(trial_id, (None, None))
        if name is not None and self._staged.get(name) == trial_id:
            del self._staged[name]
            self._sort_in(name)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of an attempt's end; a failed or postponed one goes back to its place in its device's block.

        Args:
            trial_id: Tune's name for it.
            result: What the slot reported.
            error: The slot itself died.
        """
        self.attempt_started(trial_id)
        name, trial = self._out.pop(trial_id, (None, None))
        if name is None or trial is None:
            return
        self._load[name] -= 1
        self._leave(trial)
        outcome = None if error or not result else result.get("outcome")
        if outcome == POSTPONED:
            self._tries[trial.trial_key] -= 1
        # A cluster tells of a dead slot some 15 s before it tells that the node is gone: not the trial's fault.
        limit = self._max_attempts + (1 if error and self._fleet.may_grow() else 0)
        if outcome != "completed" and self._tries[trial.trial_key] < limit:
            waiting = [trial, *self._queues[name]]
            self._queues[name] = deque(sorted(waiting, key=lambda one: one.run_order))
            self._open[trial.block] += 1
        self._sort_in(name)
        if trial.block not in self._open:
            self._gate.block_ended()

    # -- devices ------------------------------------------------------------------------------------------------------

    def _follow_fleet(self) -> None:
        """Take up devices that joined; give back what those that are gone had."""
        found = self._fleet.devices()
        if found is self._seen:
            return
        now = {device.name: device for device in found}
        for name in [name for name in self._devices if name not in now]:
            self._lose(name)
        for name in now.keys() - self._devices.keys():
            self._queues[name] = deque()
        self._devices, self._seen = now, found
        self._place_of = {name: place for place, name in enumerate(now)}
        self._taken_by_kind = Counter()
        for name, device in now.items():
            self._taken_by_kind[device.kind] += self._taken[name]
            self._sort_in(name)

    def _lose(self, name: str) -> None:
        lost = list(self._queues.pop(name))
        for trial_id in [trial_id for trial_id, (device, _) in self._out.items() if device == name]:
            lost.append(self._out.pop(trial_id)[1])
            self.abandoned.add(trial_id)
        for trial in lost:
            self._leave(trial)
        del self._load[name]
        self._ready.discard(name)
        self._idle.discard(name)
        lost.sort(key=lambda trial: trial.run_order)
        blocks = {trial.block: [one for one in lost if one.block == trial.block] for trial in lost}
        blocks |= {block[0].block: list(block) for block in self._bound.pop(name, ())}
        self._latest.pop(name, None)
        self._staged.pop(name, None)
        for index in sorted(blocks, reverse=True):
            trials = self._keeper.take_back(index, name) if self._keeper else blocks[index]
            for trial in trials:
                self._tries[trial.trial_key] = 0
            if trials:
                self._blocks.appendleft(deque(trials))
        self._gate.block_ended()

    def _leave(self, trial: Trial) -> None:
        """Count one trial of a block less that waits or runs; `_open` keeps the blocks that have any."""
        self._open[trial.block] -= 1
        if not self._open[trial.block]:
            del self._open[trial.block]

    def _sort_in(self, name: str) -> None:
        """Keep a device among those that can get an attempt at once, or after a block, or among none of them."""
        self._ready.discard(name)
        self._idle.discard(name)
        if self._load[name] < ATTEMPTS_OUT and name not in self._staged:
            (self._ready if self._queues[name] else self._idle).add(name)

    def _order(self, name: str) -> tuple[int, int, int, int]:
        """Rank devices: fewest attempts out, fewest blocks so far, the type with the fewest, place in the fleet."""
        kind = self._devices[name].kind
        return self._load[name], self._taken[name], self._taken_by_kind[kind], self._place_of[name]

    def _free_device(self) -> str | None:
        """Find the first device by `_order` that has, or can take, a trial.

        Most devices are busy, and most that are not have nothing left to take: neither are looked at here.
        """
        first = min(self._ready, key=self._order, default=None)
        takers = self._idle if self._blocks else self._idle & self._bound.keys()
        taker = min(takers, key=self._order, default=None)
        if taker is not None and (first is None or self._order(taker) < self._order(first)) and self._take_block(taker):
            return taker
        return first

    def _take_block(self, name: str) -> bool:
        """Give a device its next block, one that it has begun first, if the gate lets it."""
        source = self._bound.get(name) or self._blocks
        if not source or not self._gate.may_start(len(self._open)):
            return False
        self._queues[name] = source.popleft()
        if not self._bound.get(name):
            self._bound.pop(name, None)
        self._open[self._queues[name][0].block] += len(self._queues[name])
        self._taken[name] += 1
        self._taken_by_kind[self._devices[name].kind] += 1
        self._sort_in(name)
        return True

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a new run plans from the ledger."""
