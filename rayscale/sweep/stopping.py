"""`design.stop` in a running sweep: looks at whole blocks, and no further block once the question is answered.

The gate hands out as many blocks as the next look waits for, then none until they have ended: a block beyond a look
would be run in vain if the look stops the sweep. A block whose trial has failed for good does not count, so another one
takes its place. Looks and caps fall between blocks, and trunks (`train.share_prefix`) are shared within them: no trunk
is trained whose branches a stop then forbids. The plan of looks is in plan.json before the first look; each look is
appended to looks.json at once: a run that is continued goes on with the next look, and a rule that was changed in
between is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from rayscale.analysis.cells import Cells
from rayscale.analysis.looks import Look, look_of, planned_looks, schedule, stop_rule, take_look
from rayscale.analysis.shared import rests_on_parts
from rayscale.analysis.sweepcells import sweep_cells
from rayscale.analysis.table import ledger_frame
from rayscale.design import Plan
from rayscale.errors import InputError
from rayscale.ledger import Ledger


class Stopping(Protocol):
    """The stop rule as the runner and the searcher see it."""

    planned: dict[str, Any] | None

    def may_start(self, in_progress: int) -> bool:
        """Whether a block may be handed out while `in_progress` others have not ended."""

    def block_ended(self) -> None:
        """A block has ended, completely or with trials given up."""

    def stopped(self) -> str | None:
        """Which look ended the sweep, in words; None while none did."""

    def finish(self) -> None:
        """All trials have records: take the last look."""


class NeverStopping:
    """The stop rule of a sweep without one."""

    planned: dict[str, Any] | None = None

    def may_start(self, in_progress: int) -> bool:
        """Let every block begin."""
        return True

    def block_ended(self) -> None:
        """Take no note."""

    def stopped(self) -> str | None:
        """Return None: nothing stops this sweep."""
        return None

    def finish(self) -> None:
        """Take no look."""


class SequentialStopping:
    """A group-sequential stop rule on a ledger."""

    def __init__(self, plan: Plan, ledger: Ledger, say: Callable[[str], None]) -> None:
        """Go on where the ledger's looks end.

        Args:
            plan: A plan with `design.stop`.
            ledger: Its ledger.
            say: Shows a look to the user.

        Raises:
            InputError: If the measure is unknown, cannot be tested on rows that share trunks, or the rule was changed
                after a look.
        """
        self._plan, self._ledger, self._say = plan, ledger, say
        self.planned: dict[str, Any] | None = planned_looks(plan.spec)
        self._looks = self._earlier_looks()
        self._stale = True  # the ledger may hold blocks of an earlier run
        self._complete = self._cells().complete.shape[0]  # an unknown measure is refused here, before anything runs
        _check_measure(plan)

    def __reduce__(self) -> tuple[type[NeverStopping], tuple[()]]:
        """Leave ledger and screen out when Tune pickles its own state, which is never restored."""
        return NeverStopping, ()

    def may_start(self, in_progress: int) -> bool:
        """Whether a block may be handed out while `in_progress` others have not ended."""
        if self._stale:
            self._stale = False
            self._look_if_due()
        due = self._due()
        return not self.stopped() and (due is None or self._complete + in_progress < due)

    def block_ended(self) -> None:
        """Have the ledger read again before the next block, if enough blocks have ended for a look."""
        self._complete += 1  # at most: it may have failed, or its rows may be excluded
        due = self._due()
        self._stale = due is not None and self._complete >= due

    def stopped(self) -> str | None:
        """Which look ended the sweep, in words; None while none did."""
        return self._ledger.stopped(self._plan)

    def finish(self) -> None:
        """Take the last look, unless it was taken or an earlier one ended the sweep."""
        if not self._looks or self._looks[-1].decision == "continue":
            self._take(self._cells(), last=True)

    def _cells(self) -> Cells:
        spec = self._plan.spec
        return sweep_cells(self._ledger.records(self._plan), spec, stop_rule(spec).dv)

    def _due(self) -> int | None:
        """Return the number of complete blocks that the next look waits for, None after the last."""
        seen = self._looks[-1].n if self._looks else 0
        return next((n for n in schedule(self._plan.spec) if n > seen), None)

    def _look_if_due(self) -> None:
        cells = self._cells()
        self._complete = cells.complete.shape[0]
        due = self._due()
        # All blocks complete is the last look, which `finish` takes.
        if due is not None and due <= self._complete < self._plan.spec.design.repetitions:
            self._take(cells, last=False)

    def _take(self, cells: Cells, *, last: bool) -> None:
        look = take_look(cells, self._plan.spec, self._looks, last=last)
        self._looks.append(look)
        self._ledger.write_looks({"plan": self.planned, "looks": [asdict(one) for one in self._looks]})
        self._say(look.reason)

    def _earlier_looks(self) -> list[Look]:
        document = self._ledger.read_looks()
        if document is None:
            return []
        looks = [look_of(stored) for stored in document["looks"]]
        now: dict[str, Any] = self.planned or {}
        keys = [key for key, value in document["plan"].items() if key != "looks" and now.get(key) != value]
        if document["plan"]["looks"] and [look["n"] for look in document["plan"]["looks"]] != schedule(self._plan.spec):
            keys.append("after")
        if looks and keys:
            raise InputError(
                f"{self._ledger}: design.stop was changed after {len(looks)} look(s) ({', '.join(keys)}): its "
                "test would not hold alpha any more; expected the rule as in looks.json, another name or no design.stop"
            )
        return looks


def _check_measure(plan: Plan) -> None:
    """Refuse a rule that would decide by a test whose error rate nobody knows (`analysis.shared`)."""
    spec, dv = plan.spec, stop_rule(plan.spec).dv
    if not any(trial.spec.train.share_prefix for trial in plan.trials):
        return
    columns = [str(name) for name in ledger_frame([], spec.analysis.metrics, spec.report).columns]
    if rests_on_parts(dv, spec.analysis.metrics, columns):
        raise InputError(
            f"design.stop.dv: `{dv}` is made of time or energy, of which budgets with train.share_prefix contain each "
            "other's: no test on it would hold alpha; expected a measure of the model alone (perplexity, eval_loss) or "
            "share_prefix: false"
        )


def open_stopping(plan: Plan, ledger: Ledger, say: Callable[[str], None]) -> Stopping:
    """Make the stop rule of a sweep.

    Args:
        plan: The plan.
        ledger: The ledger.
        say: Shows a look to the user.

    Returns:
        The rule; one that never stops if the sweep has none.

    Raises:
        InputError: If the rule was changed after a look, or its measure is unknown or cannot be tested.
    """
    rule: Stopping = SequentialStopping(plan, ledger, say) if plan.spec.design.stop else NeverStopping()
    if not plan.spec.budget.given:
        return rule
    from rayscale.sweep.budget import BudgetStopping  # it needs this module

    return BudgetStopping(plan, ledger, rule, say)
