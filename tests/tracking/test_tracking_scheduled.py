"""Planned trials made all at once hold what MLflow's own client would have written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.spec import SweepSpec
from rayscale.tracking.mirror import Mirror
from rayscale.tracking.scheduled import copy_run


def plan_of(name: str) -> Plan:
    text = {
        "name": name,
        "design": {"factors": {"tokens": [1000, 2000]}, "repetitions": 2},
        "model": {"config": {}},
        "data": {"synthetic": {}, "sequence_length": 8},
    }
    return plan_sweep(SweepSpec.model_validate(text))


def mirror_of(plan: Plan, directory: Path) -> Mirror:
    ledger = Ledger(directory / plan.spec.name)
    ledger.write_plan(plan, {})
    return Mirror(ledger, f"sqlite:///{directory}/mlflow.db")  # one database: it takes seconds to make


def runs_of(mirror: Mirror) -> dict[str, dict[str, Any]]:
    """Return what MLflow says of each trial's run, ids and times aside."""
    client, name = MlflowClient(tracking_uri=mirror.uri), mirror.ledger.name
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = client.search_runs([experiment], filter_string="tags.`rayscale.kind` = 'trial'")
    found = {}
    for run in runs:
        tags = {key: "parent" if key == "mlflow.parentRunId" else value for key, value in run.data.tags.items()}
        place = run.info.artifact_uri.replace(run.info.run_id, "id").replace(f"/{name}/", "/sweep/")
        found[str(run.info.run_name)] = {
            **{"tags": tags, "params": run.data.params, "metrics": run.data.metrics, "place": place},
            **{"status": run.info.status, "stage": run.info.lifecycle_stage, "end": run.info.end_time},
        }
        assert run.info.start_time is not None
    assert len(runs) == len(found)
    return found


def test_runs_made_at_once_equal_runs_made_one_by_one(tmp_path: Path) -> None:
    plan = plan_of("many")
    at_once, one_by_one = mirror_of(plan, tmp_path), mirror_of(plan_of("more"), tmp_path)
    at_once.ensure_plan(plan)
    at_once.ensure_plan(plan)  # twice is once
    one_by_one.sync()
    found = runs_of(at_once)
    assert found == runs_of(one_by_one)
    assert len(found) == len(plan.trials)
    assert at_once.sync().created == 0
    key = plan.trials[-1].trial_key  # a run that was copied goes on as any other
    at_once.ledger.new_attempt(key)
    at_once.trial_started(key)
    running = [run for run in runs_of(at_once).values() if run["status"] == "RUNNING"]
    assert [(run["tags"]["rayscale.trial_key"], run["tags"]["rayscale.attempts"]) for run in running] == [(key, "1")]


def test_nothing_is_written_where_the_tables_are_others(tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    with pytest.raises(sqlite3.Error):
        copy_run(database, "a", [])
