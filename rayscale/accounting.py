"""From a ledger to its accounts: records, failed attempts and what traces say about the time outside the phases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.analysis.accounting import LostAttempt, Part, SweepAccount, account_sweep, add_parts, trial_account
from rayscale.analysis.accounting_tree import accounting_tree
from rayscale.analysis.rates import amounts, rates_of
from rayscale.design import Plan, Trial
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.record import Record
from rayscale.spec import EnergySpec

if TYPE_CHECKING:
    from rayscale.energy.trace import Trace

Windows = list[tuple[float, float]]


def account_ledger(ledger: Ledger, plan: Plan, records: Sequence[Record] | None = None) -> SweepAccount:
    """Account for a sweep from its ledger.

    Args:
        ledger: The ledger.
        plan: Its plan; trials of earlier plans are not counted.
        records: Its records, if they were read already.

    Returns:
        The accounts of the accepted attempts, and of all others.
    """
    records = ledger.records(plan) if records is None else records
    accepted = {record.trial_key: record.attempt for record in records}
    settings = {trial.trial_key: trial.spec.energy for trial in plan.trials}
    waiting = {record.trial_key: _waiting(ledger, record, settings.get(record.trial_key)) for record in records}
    attempts = ledger.all_attempts()
    lost = [
        _lost(ledger, trial, attempt)
        for trial in plan.trials
        for attempt in attempts.get(trial.trial_key, [])
        if attempt != accepted.get(trial.trial_key) and not _is_open(ledger, trial, attempt, accepted)
    ]
    return account_sweep(records, lost, waiting)


def accounting_of(ledger: Ledger, plan: Plan, records: Sequence[Record]) -> dict[str, Any]:
    """Write the part `accounting` of the analysis tree.

    Args:
        ledger: The ledger.
        plan: Its plan.
        records: Its records.

    Returns:
        The tree of `analysis.accounting_tree`, and `budget`: what all attempts took, and the caps of the sweep file.
    """
    account, rates = account_ledger(ledger, plan, records), rates_of(plan.spec.report)
    spent, caps = amounts(account.sweep.total, rates), plan.spec.budget.given
    budget = {name: {"spent": spent[name], "cap": caps.get(name)} for name in spent}
    return accounting_tree(account, rates, records) | {"budget": budget}


def _is_open(ledger: Ledger, trial: Trial, attempt: int, accepted: Mapping[str, int]) -> bool:
    """Whether an attempt still runs: it is the last one, has not failed, and a run holds the ledger."""
    last = max(ledger.attempts(trial.trial_key)) == attempt and trial.trial_key not in accepted
    return last and ledger.failure(trial.trial_key, attempt) is None and ledger.lock_holder() is not None


def _waiting(ledger: Ledger, record: Record, settings: EnergySpec | None) -> dict[str, Part]:
    """Look up what an accepted attempt took before its first phase and between phases.

    Records made before these were stored are measured again from their trace, by the trial's own thresholds; without
    one the record's own time between phases stands, with its energy unknown.
    """
    if record.energy.outside:
        stored = record.energy.outside.items()
        parts = {name: Part.of(found.duration_s, found.energy_j, found.bound_j) for name, found in stored}
        return {name: part.on(record.device.count) for name, part in parts.items()}
    trace = _trace(ledger.fetched_attempt(record.trial_key, record.attempt))
    if trace is None or not record.phases:
        return {}
    from rayscale.energy.measure import outside_windows

    decisive = [(phase.start, phase.end) for phase in record.phases if phase.name == "train"]
    outside = outside_windows(trace, record.phases)
    return {name: _part(trace, found, decisive, settings) for name, found in outside.items()}


def _seconds(windows: Windows) -> float:
    return sum(end - start for start, end in windows)


def _part(trace: Trace, windows: Windows, decisive: Windows, settings: EnergySpec | None) -> Part:
    """Integrate windows by the estimate that the training phase decides, as the record's phases are."""
    from rayscale.energy.integrate import choose_estimate, integrate_windows, phase_energy

    estimate = choose_estimate(trace, integrate_windows(trace, decisive or windows), settings)
    found = phase_energy(trace, windows, estimate)
    return Part.of(_seconds(windows), found.energy_j, found.bound_j)


def _lost(ledger: Ledger, trial: Trial, attempt: int) -> LostAttempt:
    """Account for an attempt that was not accepted: from its first sign of life to its last."""
    directory = ledger.fetched_attempt(trial.trial_key, attempt)
    failure = ledger.failure(trial.trial_key, attempt)
    trace, times = _trace(directory), _log_times(directory)
    if trace is not None and len(trace):
        times = [*times, float(trace.t[0]), float(trace.t[-1])]
    part = Part()
    if times and max(times) > min(times):
        window = (min(times), max(times))
        part = Part.of(window[1] - window[0], None)
        if trace is not None:
            part = _part(trace, [window], [window], trial.spec.energy)
    reason = failure.reason if failure else "no record"
    return LostAttempt(trial.trial_key, attempt, reason, trial.condition, part.on(trial.spec.resources.devices))


def _trace(directory: Path) -> Trace | None:
    from rayscale.energy.sumtrace import read_attempt

    try:
        return read_attempt(directory)
    except (InputError, OSError, ValueError):
        return None


def _log_times(directory: Path) -> list[float]:
    """Read the CLOCK_MONOTONIC times of `log.jsonl`; a torn last line is passed over. Units: s."""
    try:
        lines = (directory / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    times = []
    for line in lines:
        try:
            times.append(float(json.loads(line)["t"]))
        except (ValueError, KeyError, TypeError):
            continue
    return times


class Spending:
    """What a running sweep has spent so far, attempt by attempt; each attempt's trace is read once."""

    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        """Bind to a ledger.

        Args:
            ledger: The ledger; it may still be empty.
            plan: Its plan.
        """
        self._ledger, self._plan = ledger, plan
        self._parts: dict[tuple[str, int], Part] = {}
        self._accepted: dict[str, Part] = {}

    def refresh(self) -> None:
        """Read the attempts that ended since the last time."""
        found = self._ledger.all_attempts()
        for trial in self._plan.trials:
            attempts = found.get(trial.trial_key, [])
            for attempt in attempts:
                if (trial.trial_key, attempt) not in self._parts:
                    self._read(trial, attempt, followed=attempt != max(attempts))

    def _read(self, trial: Trial, attempt: int, followed: bool) -> None:
        """Read an attempt that has ended: it has a record or a failure, or was killed and another one followed."""
        key = (trial.trial_key, attempt)
        record = self._ledger.record(trial.trial_key)
        if record is not None and record.attempt == attempt:
            self._parts[key] = trial_account(record, _waiting(self._ledger, record, trial.spec.energy)).total
            self._accepted[trial.trial_key] = self._parts[key]
        elif followed or self._ledger.failure(*key) is not None or record is not None:
            self._parts[key] = _lost(self._ledger, trial, attempt).part

    def in_progress(self) -> Part:
        """What attempts that have not ended took up to their last sign of life; read anew each time."""
        found = self._ledger.all_attempts()
        attempts = ((trial, number) for trial in self._plan.trials for number in found.get(trial.trial_key, []))
        open_ones = [(trial, number) for trial, number in attempts if (trial.trial_key, number) not in self._parts]
        return add_parts(_lost(self._ledger, trial, number).part for trial, number in open_ones)

    @property
    def total(self) -> Part:
        """All attempts that have ended."""
        return add_parts(self._parts.values())

    @property
    def accepted(self) -> Mapping[str, Part]:
        """Trial key -> its accepted attempt."""
        return self._accepted


def budget_state(ledger: Ledger, plan: Plan) -> dict[str, dict[str, float | None]]:
    """Say how much of its budget a sweep has spent, while it runs or afterwards.

    Args:
        ledger: The ledger.
        plan: Its plan, with the caps and prices of the sweep file.

    Returns:
        `gpu_hours, kwh, money` -> `spent` by attempts that have ended, `in_progress` of the others, `cap`. None: no cap
        or price was given, or the energy is not known.
    """
    spending, rates = Spending(ledger, plan), rates_of(plan.spec.report)
    spending.refresh()
    spent, begun = amounts(spending.total, rates), amounts(spending.in_progress(), rates)
    caps = plan.spec.budget.given
    return {name: {"spent": spent[name], "in_progress": begun[name], "cap": caps.get(name)} for name in spent}
