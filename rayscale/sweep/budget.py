"""`budget` in a running sweep: no block begins that would take the sweep beyond a cap.

    spent so far (all attempts) + blocks in progress and the next one, at the largest that their conditions took so far

A block in progress counts as if none of it had been spent yet, so the gate may wait for it to end; it is asked again
then. Before any trial has ended the first block runs alone: on a CPU it is checked against a calibration first, on a
GPU it runs unchecked (a calibration there would occupy the device). The stop is no state: a run with a higher cap
simply goes on. With `train.share_prefix` a trial is reckoned by what it trains itself; a trunk that cannot be used
in a later block is as little foreseen as an attempt that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rayscale.accounting import Spending
from rayscale.analysis.accounting import Part, add_parts
from rayscale.analysis.rates import Rates, amounts, rates_of
from rayscale.design import Plan, condition_label
from rayscale.errors import RayscaleError
from rayscale.ledger import Ledger
from rayscale.planning import Estimate, estimate_by_calibration, plan_document
from rayscale.sharing import run_tokens
from rayscale.spec import SweepSpec
from rayscale.sweep.stopping import Stopping

MARGIN = 1.1
"""A block is reckoned with this much more than the largest trials of its conditions took: trials vary."""

PREFIX = "budget"
"""How the sentence begins that says why a sweep stopped, if it was its budget."""


class BudgetStopping:
    """A stop rule that adds the sweep's caps to another rule."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        inner: Stopping,
        say: Callable[[str], None],
        first_trial: Callable[[SweepSpec], Estimate | None] | None = None,
    ) -> None:
        """Go on from what the ledger's attempts have spent.

        Args:
            plan: A plan with a budget.
            ledger: Its ledger.
            inner: The sweep's stop rule.
            say: Shows a line to the user.
            first_trial: Estimates trials before any has ended; None calibrates on a CPU.
        """
        self._plan, self._ledger, self._inner, self._say = plan, ledger, inner, say
        self._caps = plan.spec.budget.given
        self._rates: Rates = rates_of(plan.spec.report)
        self._spending = Spending(ledger, plan)
        self._estimate = first_trial or _calibrate
        self._stale, self._said = True, False
        self._spent = Part()
        self._block: Part | None = None
        self.planned: dict[str, Any] | None = inner.planned

    def __reduce__(self) -> tuple[type[Stopping], tuple[()]]:
        """Leave ledger and screen out when Tune pickles its own state, which is never restored."""
        return self._inner.__reduce__()  # type: ignore[return-value]

    def may_start(self, in_progress: int) -> bool:
        """Whether a block may be handed out while `in_progress` others have not ended."""
        why_not = self._over(in_progress + 1)
        if why_not and not in_progress and not self._said:
            self._said = True
            self._say(why_not)
        return why_not is None and self._inner.may_start(in_progress)

    def block_ended(self) -> None:
        """Have the ledger read again before the next block."""
        self._stale = True
        self._inner.block_ended()

    def stopped(self) -> str | None:
        """Why the sweep ended before all its blocks, in words; None if it did not."""
        completed = self._ledger.completed()
        if all(trial.trial_key in completed for trial in self._plan.trials):
            return self._inner.stopped()
        self._stale = True
        return self._inner.stopped() or self._over(1)

    def finish(self) -> None:
        """All trials have records: take the last look."""
        self._inner.finish()

    def _over(self, blocks: int) -> str | None:
        """Say which cap so many further blocks would exceed, None if none."""
        self._refresh()
        if self._block is None:  # nothing is known: one block at a time, unchecked
            return None if blocks == 1 else f"{PREFIX}: what a block takes is not known before the first has ended"
        ahead = add_parts([self._block] * blocks)
        spent, then = amounts(self._spent, self._rates), amounts(add_parts([self._spent, ahead]), self._rates)
        for name, cap in self._caps.items():
            reached, now = then[name], spent[name]
            if reached is None or now is None:
                return f"{PREFIX}: {name} cannot be kept below {cap:g}: the energy of some attempts is not known"
            if reached > cap:
                return (
                    f"{PREFIX}: {now:.4g} of {cap:g} {name} are spent and the next block would take it to "
                    f"{reached:.4g}; the sweep stops here (a higher budget.{name} continues it)"
                )
        return None

    def _refresh(self) -> None:
        if not self._stale:
            return
        self._stale = False
        self._spending.refresh()
        self._spent = self._spending.total
        accepted = self._spending.accepted
        self._block = _next_block(self._plan, accepted) if accepted else self._first_block()

    def _first_block(self) -> Part | None:
        estimate = self._estimate(self._plan.spec)
        if estimate is None:
            return None
        document = plan_document(self._plan, estimate, None)
        block = self._plan.trials[0].block
        seconds = [row["time_s"] for row in document["trials"] if row["block"] == block]
        made = document["totals"]["beforehand"]["time_s"]  # by the trials that need such models first
        return add_parts(_estimated(one, estimate) for one in [*seconds, made])


def _next_block(plan: Plan, accepted: Mapping[str, Part]) -> Part:
    """Reckon a block: each condition as its largest trial so far, a new one in proportion to the tokens it will run."""
    seen: dict[str, list[Part]] = {}
    for trial in plan.trials:
        if trial.trial_key in accepted:
            seen.setdefault(condition_label(trial.condition), []).append(accepted[trial.trial_key])
    run = run_tokens(plan)
    tokens = {condition_label(trial.condition): run[trial.trial_key] for trial in plan.trials}
    parts = []
    for trial in plan.blocks()[0]:
        found = seen.get(condition_label(trial.condition))
        scaled = [
            _times(part, max(run[trial.trial_key] / tokens[label], 1.0))
            for label, rows in seen.items()
            for part in rows
        ]
        parts.append(_largest(found or scaled))
    return _times(add_parts(parts), MARGIN)


def _largest(parts: list[Part]) -> Part:
    unknown = any(part.energy is None for part in parts)
    seconds = max(part.seconds for part in parts)
    return Part.of(seconds, None if unknown else max(part.energy_j for part in parts), 0.0)


def _times(part: Part, factor: float) -> Part:
    return Part(part.seconds * factor, part.energy_j * factor, 0.0, part.unknown_s * factor, part.unbounded_s * factor)


def _estimated(seconds: float, estimate: Estimate) -> Part:
    """Reckon a trial before any has ended; all of it at the power of training, which is too much."""
    most = seconds * MARGIN
    return Part.of(most, None if estimate.watts is None else most * estimate.watts, 0.0)


def _calibrate(spec: SweepSpec) -> Estimate | None:
    from rayscale.energy.reader import gpu_devices

    on_gpu = spec.resources.gpus != 0 and bool(gpu_devices())
    try:
        return None if on_gpu else estimate_by_calibration(spec)
    except RayscaleError:
        return None  # the run itself will say what is wrong
