"""From the ledger to the parent run: how far the sweep is, and what it left behind (plan, analysis, report)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from rayscale.design import Plan
from rayscale.ledger import Ledger
from rayscale.tracking.content import RunContent, RunStatus, StoredFile, digest_of, end_ms, epoch_ms
from rayscale.tracking.trial_content import TrialState

SWEEP_FILES = ("plan.json", "analysis.json", "report.html")


def sweep_status(states: Mapping[str, TrialState], active: bool) -> RunStatus:
    """Say how a sweep is.

    Args:
        states: State of every planned trial.
        active: Whether a run of it is going on.

    Returns:
        `RUNNING`; `FINISHED`: every trial has a record; `FAILED`: what has none failed; `SCHEDULED`: nothing was tried;
        `KILLED`: interrupted, `rayscale run` continues.
    """
    statuses = {state.status for state in states.values()}
    if active:
        return "RUNNING"
    if statuses == {"FINISHED"}:
        return "FINISHED"
    if "SCHEDULED" not in statuses:
        return "FAILED"
    return "KILLED" if any(state.attempts for state in states.values()) else "SCHEDULED"


def parent_content(
    ledger: Ledger, plan: Plan, states: Mapping[str, TrialState], status: RunStatus, with_files: bool
) -> RunContent:
    """Put together what the parent run should hold.

    Args:
        ledger: The ledger.
        plan: The plan.
        states: State of every planned trial.
        status: How the sweep is.
        with_files: Whether to send plan, analysis and report; not worth it while trials are running.

    Returns:
        The content.
    """
    records = [state.record for state in states.values() if state.record is not None]
    verdicts = Counter(record.quality.verdict for record in records)
    tags = {
        "rayscale.planned": str(len(plan.trials)),
        "rayscale.completed": str(len(records)),
        "rayscale.failed": str(sum(state.status == "FAILED" for state in states.values())),
        "rayscale.suspect": str(verdicts["suspect"]),
        "rayscale.invalid": str(verdicts["invalid"]),
        "rayscale.factors": json.dumps(plan.spec.design.factors),
        "rayscale.repetitions": str(plan.spec.design.repetitions),
        "mlflow.note.content": _note(plan, states),
    }
    stored = [(name, ledger.storage.read(name)) for name in SWEEP_FILES] if with_files else []
    files = tuple(StoredFile(name, content) for name, content in stored if content)
    over = status not in ("RUNNING", "SCHEDULED")
    ends = [end_ms(record) for record in records]
    ends += [epoch_ms(failure.at) for state in states.values() for failure in state.failures.values()]
    return RunContent(
        kind="sweep",
        key=plan.spec.name,
        name=plan.spec.name,
        status=status,
        digest=digest_of(status, tags, [digest_of(file.path, file.content) for file in files]),
        start_ms=min((epoch_ms(record.started_at) for record in records), default=None),
        end_ms=max(ends, default=None) if over else None,
        tags=tags,
        files=files,
    )


def _note(plan: Plan, states: Mapping[str, TrialState]) -> str:
    """Describe the sweep for the run's page; Markdown."""
    factors = "; ".join(f"{name}: {', '.join(map(str, levels))}" for name, levels in plan.spec.design.factors.items())
    methods = sorted({state.record.energy.method for state in states.values() if state.record is not None})
    estimated = any(state.record.energy.estimated for state in states.values() if state.record is not None)
    lines = [
        f"**{plan.spec.name}**: {factors} x {plan.spec.design.repetitions} repetitions.",
        *(f"Energy: {method}." for method in methods),
        *(["Energy is *estimated*, not measured."] if estimated else []),
        "One child run per trial; `.../mean` runs hold mean, sd and interval per level.",
        "Statistics and figures: `report.html` among the artifacts. The ledger on disk is the truth, this its mirror.",
    ]
    return "\n\n".join(lines)
