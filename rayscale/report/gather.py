"""Everything the report is made of, read once: plan, records, table, analysis, failures, environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.design import Plan, Trial
from rayscale.ledger import Failure, Ledger, Status
from rayscale.record import Record
from rayscale.report.measures import Measure, describe
from rayscale.spec import SweepSpec

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class FailedTrial:
    """A planned trial whose last attempt failed."""

    trial: Trial
    attempt: int
    failure: Failure


@dataclass(frozen=True)
class ReportData:
    """What the report shows.

    Attributes:
        ledger: The ledger.
        plan: Its plan.
        records: Records of the planned trials, in run order.
        frame: One row per record with all metrics (design 4.4 and 4.5), in the same order.
        analysis: The analysis tree.
        status: Counts by state.
        failed: Trials without a record whose last attempt failed.
        environment: What was stored with the plan: versions, git revision.
    """

    ledger: Ledger
    plan: Plan
    records: tuple[Record, ...]
    frame: DataFrame
    analysis: Mapping[str, Any]
    status: Status
    failed: tuple[FailedTrial, ...]
    environment: Mapping[str, Any]

    @property
    def spec(self) -> SweepSpec:
        """The sweep."""
        return self.plan.spec

    @property
    def energy_estimated(self) -> bool:
        """Whether any trial's energy comes from a model instead of a sensor."""
        return any(record.energy.estimated for record in self.records)

    @property
    def results(self) -> Mapping[str, Mapping[str, Any]]:
        """Analysis tree of each dependent variable, in declared order."""
        results = self.analysis.get("results") or {}
        return {dv: tree for dv, tree in results.items() if isinstance(tree, Mapping)}

    @property
    def excluded(self) -> frozenset[str]:
        """Keys of the trials that the analysis leaves out because of their verdict."""
        unwanted = set(self.spec.analysis.exclude)
        return frozenset(record.trial_key for record in self.records if record.quality.verdict in unwanted)

    def measure(self, name: str) -> Measure:
        """Name a column or metric for the page.

        Args:
            name: Column, metric or user-defined metric.

        Returns:
            The measure.
        """
        return describe(name, self.spec.analysis.metrics, self.energy_estimated)

    def known_measures(self) -> list[Measure]:
        """Return the declared dependent variables with `pee` first and `perplexity` added; none without values."""
        names = list(dict.fromkeys([*self.spec.analysis.dv, "perplexity"]))
        names.sort(key=lambda name: name != "pee")  # stable: the rest keeps its declared order
        known = [name for name in names if name in self.frame.columns and self.frame[name].notna().any()]
        return [self.measure(name) for name in known]


def gather(ledger: Ledger, analysis: Mapping[str, Any]) -> ReportData:
    """Read a ledger for the report.

    Args:
        ledger: The ledger.
        analysis: What `rayscale.analysis.run.analyze_records` returned for it.

    Returns:
        The data of the report.

    Raises:
        InputError: If there is no readable plan or a record is damaged.
    """
    from rayscale.analysis.table import ledger_frame

    plan = ledger.read_plan()
    records = tuple(ledger.records(plan))
    return ReportData(
        ledger=ledger,
        plan=plan,
        records=records,
        frame=ledger_frame(records, plan.spec.analysis.metrics, report=plan.spec.report),
        analysis=analysis,
        status=ledger.status(plan),
        failed=_failed(ledger, plan, {record.trial_key for record in records}),
        environment=ledger.environment(),
    )


def _failed(ledger: Ledger, plan: Plan, completed: set[str]) -> tuple[FailedTrial, ...]:
    found = []
    for trial in plan.trials:
        attempts = [] if trial.trial_key in completed else ledger.attempts(trial.trial_key)
        failure = ledger.failure(trial.trial_key, attempts[-1]) if attempts else None
        if failure is not None:
            found.append(FailedTrial(trial, attempts[-1], failure))
    return tuple(found)
