"""From the ledger to the MLflow run of one trial: scheduled, running, finished or failed.

Few columns on purpose: MLflow's runs table becomes unusable with many. A trial has its factors and five settings as
parameters, its scalar outcomes and the declared dependent variables as metrics; all else is a tag or a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.design import Trial, condition_label
from rayscale.ledger import INTERRUPTED, Failure, Ledger
from rayscale.record import Record
from rayscale.spec import SweepSpec
from rayscale.tracking.content import (
    NOT_NEEDED_TAG,
    AttemptClock,
    DataSource,
    Point,
    RunContent,
    RunStatus,
    StoredFile,
    condition_name,
    digest_of,
    end_ms,
    energy_note,
    epoch_ms,
)
from rayscale.tracking.series import power_points, progress_points

OUTCOMES = (
    *("eval_loss", "perplexity", "tokens_per_s", "energy_j", "power_mean_w", "duration_s", "mfu"),
    *("import_s", "build_s", "data_s", "compile_s", "warmup_s", "train_s", "eval_s"),
)
"""Columns of the ledger's table that every trial shows as a metric, beside the declared dependent variables."""

ATTEMPT_FILES = ("power.parquet", "log.jsonl", "output.log")


@dataclass(frozen=True)
class TrialState:
    """How far a trial is, by the ledger alone.

    Attributes:
        status: Status that MLflow should show.
        attempts: Number of the last attempt; 0 before the first.
        failures: Attempt -> why it failed.
        record: The accepted result, if any.
        not_needed: Which look of `design.stop` made the trial superfluous, in words; None: it is needed, or done.
    """

    status: RunStatus
    attempts: int
    failures: Mapping[int, Failure]
    record: Record | None
    not_needed: str | None = None


def trial_state(ledger: Ledger, trial_key: str, active: bool, stopped: str | None = None) -> TrialState:
    """Read how far a trial is.

    Args:
        ledger: The ledger.
        trial_key: The trial.
        active: Whether a run of the sweep is going on: then an open attempt is running, else it was interrupted.
        stopped: Which look ended the sweep (`Ledger.stopped`): what was to come then is KILLED, not SCHEDULED.

    Returns:
        The state.
    """
    attempts = ledger.attempts(trial_key)
    found = {attempt: ledger.failure(trial_key, attempt) for attempt in attempts}
    failures = {attempt: failure for attempt, failure in found.items() if failure is not None}
    record = ledger.record(trial_key)
    last = attempts[-1] if attempts else 0
    if record is not None:
        status: RunStatus = "FINISHED"
    elif last in failures:
        status = "SCHEDULED" if failures[last].reason == INTERRUPTED else "FAILED"
    else:
        status = "RUNNING" if active and attempts else "SCHEDULED"
    not_needed = stopped if status in ("SCHEDULED", "FAILED") else None
    if not_needed and status == "SCHEDULED":
        status = "KILLED"
    return TrialState(status, last, failures, record, not_needed)


def trial_digest(state: TrialState, spec: SweepSpec) -> str:
    """Name what a trial's content is made from, without reading its traces.

    Args:
        state: How far the trial is.
        spec: The sweep; its dependent variables and prices shape the metrics.

    Returns:
        The digest.
    """
    if state.record is not None:
        shown = [spec.analysis.dv, spec.analysis.metrics, spec.report.model_dump(mode="json")]
        return digest_of("finished", state.record.to_json().encode(), shown)
    ended = [state.not_needed] if state.not_needed else []
    return digest_of(state.status, state.attempts, {str(k): asdict(v) for k, v in state.failures.items()}, *ended)


def trial_content(ledger: Ledger, trial: Trial, state: TrialState, spec: SweepSpec) -> RunContent:
    """Put together what a trial's run should hold.

    Args:
        ledger: The ledger.
        trial: The trial.
        state: How far it is.
        spec: The sweep.

    Returns:
        The content.
    """
    record, digits = state.record, max(2, len(str(spec.design.repetitions - 1)))
    common: dict[str, Any] = {
        "kind": "trial",
        "key": trial.trial_key,
        "name": f"{condition_name(trial.condition)}/rep={trial.repetition:0{digits}d}",
        "status": state.status,
        "digest": trial_digest(state, spec),
    }
    tags = _plan_tags(trial) | _attempt_tags(state)
    if record is not None:
        return RunContent(
            **common,
            start_ms=epoch_ms(record.started_at),
            end_ms=end_ms(record),
            tags=tags | _record_tags(record),
            params=_plan_params(trial) | _record_params(trial, record),
            points=tuple(_points(ledger, record, spec)),
            files=_files(ledger, trial.trial_key, record.attempt),
            data=_data_source(trial, record),
        )
    failed_ms = epoch_ms(state.failures[state.attempts].at) if state.status == "FAILED" else None
    files = _files(ledger, trial.trial_key, state.attempts) if state.status == "FAILED" else ()
    return RunContent(**common, end_ms=failed_ms, tags=tags, params=_plan_params(trial), files=files)


def _plan_tags(trial: Trial) -> dict[str, str]:
    return {
        "rayscale.condition": condition_label(trial.condition),
        "rayscale.repetition": str(trial.repetition),
        "rayscale.run_order": str(trial.run_order),
        "rayscale.seed": str(trial.seed),
    }


def _attempt_tags(state: TrialState) -> dict[str, str]:
    tags = {"rayscale.attempts": str(state.attempts)}
    if state.not_needed:
        tags[NOT_NEEDED_TAG] = f"stopped at {state.not_needed}"[:5000]
    if state.failures:
        told = (f"{attempt}: {failure.reason}: {failure.detail[:300]}" for attempt, failure in state.failures.items())
        tags["rayscale.failed_attempts"] = "\n".join(told)[:5000]
    if state.status == "FAILED":
        tags["rayscale.failure"] = state.failures[state.attempts].reason
    elif state.failures:
        tags["rayscale.failure"] = "none: a later attempt went on"
    return tags


def _record_tags(record: Record) -> dict[str, str]:
    energy = record.energy
    reasons = "".join(f"- {reason.detail}\n" for reason in record.quality.reasons)
    return {
        "rayscale.started_at": record.started_at,
        "rayscale.verdict": record.quality.verdict,
        "rayscale.reasons": ";".join(reason.code for reason in record.quality.reasons),
        "rayscale.device": f"{record.device.name} on {record.device.host}",
        "rayscale.device_uuid": record.device.uuid,
        "rayscale.energy_estimated": str(energy.estimated).lower(),
        "rayscale.energy_method": energy.method[:1000],
        "mlflow.note.content": f"{energy_note(energy.method, energy.estimated)}\n\n"
        f"Verdict: {record.quality.verdict}\n{reasons}\n"
        "Steps of `power_w` are milliseconds since the attempt's start; of `loss`, optimiser steps.",
    }


def _plan_params(trial: Trial) -> dict[str, str]:
    train, data = trial.spec.train, trial.spec.data
    settings = {
        "learning_rate": train.learning_rate,
        "batch_size": train.batch_size,
        "sequence_length": data.sequence_length,
    }
    varied = {name.rsplit(".", 1)[-1] for name in trial.condition}
    shown = dict(trial.condition) | {name: value for name, value in settings.items() if name not in varied}
    return {name: str(value) for name, value in shown.items()}


def _record_params(trial: Trial, record: Record) -> dict[str, str]:
    params = {"params": str(record.training.params)}
    if "train.precision" not in trial.condition:
        params["precision"] = record.training.precision
    return params


def _points(ledger: Ledger, record: Record, spec: SweepSpec) -> list[Point]:
    clock, at = AttemptClock.of(record), end_ms(record)
    points = [Point(name, value, at) for name, value in outcome_values(record, spec).items()]
    directory = f"trials/{record.trial_key}/attempt-{record.attempt}"
    if trace := ledger.storage.read(f"{directory}/power.parquet"):
        points += power_points(trace, clock)
    if log := ledger.storage.read(f"{directory}/log.jsonl"):
        points += progress_points(log, clock)
    return points


def outcome_values(record: Record, spec: SweepSpec) -> dict[str, float]:
    """Take the scalar metrics of a trial from the ledger's table.

    Args:
        record: The record.
        spec: The sweep: dependent variables, user metrics, prices.

    Returns:
        Metric -> value; what is unavailable is left out, never 0.
    """
    from rayscale.analysis.table import ledger_frame

    row = ledger_frame([record], spec.analysis.metrics, report=spec.report).iloc[0].to_dict()
    names = dict.fromkeys((*OUTCOMES, *spec.analysis.dv))
    values = {name: _number(row.get(name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _files(ledger: Ledger, trial_key: str, attempt: int) -> tuple[StoredFile, ...]:
    """Collect the files of one attempt; those of the accepted one lie at the top, of a failed one in its directory."""
    accepted = ledger.failure(trial_key, attempt) is None
    prefix = "" if accepted else f"attempt-{attempt}/"
    directory = f"trials/{trial_key}/attempt-{attempt}"
    found = {name: ledger.storage.read(f"{directory}/{name}") for name in ATTEMPT_FILES}
    found["record.json"] = ledger.storage.read(f"trials/{trial_key}/record.json") if accepted else None
    return tuple(StoredFile(prefix + name, content) for name, content in found.items() if content)


def _data_source(trial: Trial, record: Record) -> DataSource | None:
    fingerprint = record.environment.get("data_fingerprint")
    if not fingerprint:
        return None
    data = trial.spec.data
    name = data.dataset or data.corpus or ("synthetic" if data.synthetic else "files")
    source = {"source": record.environment.get("data_source") or name, "revision": data.revision}
    return DataSource(name, str(fingerprint)[:36], json.dumps(source))
