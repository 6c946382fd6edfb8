"""Which device a block belongs to, and what happens to it when that device is gone.

A sensor's gain is constant within a card and differs between cards, so a block's trials are compared on one device. A
block that has begun is therefore continued on its device only; without it the block is done again as a whole: its
finished trials are set aside (`attempt-<n>/superseded.json`) and are to do once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayscale.design import Plan, Trial
from rayscale.ledger import Ledger
from rayscale.record import Record
from rayscale.sweep.devices import FIRM


def binding_of(record: Record) -> dict[str, Any]:
    """Return what a record says of its binding: `device`, `node`, `by`; empty if it says nothing."""
    return dict(record.environment.get("binding") or {})


class BlockKeeper:
    """Knows from the ledger which blocks have begun, and where."""

    def __init__(self, plan: Plan, ledger: Ledger, say: Callable[[str], None]) -> None:
        """Bind to a ledger.

        Args:
            plan: The plan, finished trials included.
            ledger: The ledger.
            say: Shows a line to the user.
        """
        self._plan, self._ledger, self._say = plan, ledger, say
        self.withdrawn: set[str] = set()
        """Trials whose record was set aside."""

    def __reduce__(self) -> tuple[type[BlockKeeper], tuple[Plan, Ledger, Callable[[str], None]]]:
        """Leave the user's line out when Tune pickles its own state, which is never restored."""
        return BlockKeeper, (self._plan, self._ledger, print)

    def blocks_begun(self) -> dict[int, str]:
        """Return block -> device of the unfinished blocks that belong to one."""
        begun: dict[int, str] = {}
        stored = self._stored()
        for block in self._plan.blocks():
            records = [stored[trial.trial_key] for trial in block if trial.trial_key in stored]
            firm = [found["device"] for found in map(binding_of, records) if found.get("by") in FIRM]
            if firm and len(records) < len(block):
                begun[block[0].block] = firm[-1]
        return begun

    def blocks_done(self) -> list[str]:
        """Return the device of every finished block, as often as it did one."""
        done, stored = [], self._stored()
        for block in self._plan.blocks():
            last = stored.get(block[-1].trial_key)
            if last is not None and binding_of(last):
                done.append(str(binding_of(last)["device"]))
        return done

    def take_back(self, block: int, device: str) -> list[Trial]:
        """Make a block that its device left unfinished ready for another one.

        Args:
            block: Its index.
            device: The device that is gone.

        Returns:
            The trials to do: all of it (with `resources.lost_device: keep_finished` those without a record); none if
            it was finished after all.
        """
        trials = [trial for trial in self._plan.trials if trial.block == block]
        finished = [trial for trial in trials if self._record(trial) is not None]
        if len(finished) == len(trials):
            return []
        if self._plan.spec.resources.lost_device == "keep_finished":
            return [trial for trial in trials if trial not in finished]
        for trial in finished:
            detail = f"{device} is gone and block {block} unfinished: done again as a whole"
            self._ledger.set_aside(trial.trial_key, detail)
            self.withdrawn.add(trial.trial_key)
        if finished:
            count = f"{len(finished)} finished trial{'s' if len(finished) > 1 else ''}"
            self._say(f"block {block}: {device} is gone; {count} set aside, the block is done again elsewhere")
        return trials

    def _stored(self) -> dict[str, Record]:
        return {record.trial_key: record for record in self._ledger.records(self._plan)}

    def _record(self, trial: Trial) -> Record | None:
        return self._ledger.record(trial.trial_key)
