"""From the ledger to the parent run: how far the sweep is, and what it left behind (plan, analysis, report)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rayscale.design import Plan
from rayscale.ledger import Ledger
from rayscale.tracking.content import RunContent, RunStatus, StoredFile, digest_of, end_ms, energy_note, epoch_ms
from rayscale.tracking.trial_content import TrialState

SWEEP_FILES = ("plan.json", "analysis.json", "report.html")


def sweep_status(states: Mapping[str, TrialState], active: bool) -> RunStatus:
    """Say how a sweep is.

    Args:
        states: State of every planned trial.
        active: Whether a run of it is going on.

    Returns:
        `RUNNING`; `FINISHED`: every trial that is needed has a record; `FAILED`: what has none failed; `SCHEDULED`:
        nothing was tried; `KILLED`: interrupted, `rayscale run` continues.
    """
    statuses = {state.status for state in states.values() if not state.not_needed}
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
    tags = {"rayscale.progress": _progress(states), "mlflow.note.content": _note(plan, states)}
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


def _progress(states: Mapping[str, TrialState]) -> str:
    """Count in one tag: every tag is one more column of MLflow's runs table."""
    verdicts = Counter(state.record.quality.verdict for state in states.values() if state.record is not None)
    failed = sum(state.status == "FAILED" for state in states.values())
    not_needed = sum(state.not_needed is not None for state in states.values())
    told = [f"{verdicts.total()} of {len(states)} completed", f"{failed} failed"]
    told += [f"{not_needed} not needed"] if not_needed else []
    return ", ".join(told + [f"{verdicts[verdict]} {verdict}" for verdict in ("suspect", "invalid")])


def _note(plan: Plan, states: Mapping[str, TrialState]) -> str:
    """Describe the sweep for the run's page; Markdown."""
    factors = "; ".join(f"{name}: {', '.join(map(str, levels))}" for name, levels in plan.spec.design.factors.items())
    energies = [state.record.energy for state in states.values() if state.record is not None]
    methods = sorted({energy_note(energy.method, energy.estimated) for energy in energies})
    lines = [
        f"**{plan.spec.name}**: {factors} x {plan.spec.design.repetitions} repetitions.",
        *methods,
        "One child run per trial; `.../mean` runs hold mean, sd and interval per level.",
        "Statistics and figures: `report.html` among the artifacts. The ledger on disk is the truth, this its mirror.",
    ]
    return "\n\n".join(lines)
