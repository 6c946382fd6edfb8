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
from rayscale.tracking.runs import RunStore
from rayscale.tracking.scheduled import copy_run


@pytest.fixture(scope="module")
def plan() -> Plan:
    text = {
        "name": "many",
        "design": {"factors": {"tokens": [1000, 2000]}, "repetitions": 3},
        "model": {"config": {}},
        "data": {"synthetic": {}, "sequence_length": 8},
    }
    return plan_sweep(SweepSpec.model_validate(text))


def shown(plan: Plan, directory: Path) -> dict[str, dict[str, Any]]:
    """Show the plan; returns what MLflow says of each trial's run, ids and times aside."""
    ledger = Ledger(directory / "many")
    mirror = Mirror(ledger, f"sqlite:///{directory}/mlflow.db")
    mirror.ensure_plan(plan)
    mirror.ensure_plan(plan)  # twice is once
    client = MlflowClient(tracking_uri=mirror.uri)
    runs = client.search_runs([client.get_experiment_by_name("many").experiment_id])
    found = {}
    for run in runs:
        tags = {name: "parent" if name == "mlflow.parentRunId" else value for name, value in run.data.tags.items()}
        place = run.info.artifact_uri.replace(run.info.run_id, "id").replace(str(directory), "")
        found[str(run.info.run_name)] = {
            **{"tags": tags, "params": run.data.params, "metrics": run.data.metrics, "place": place},
            **{"status": run.info.status, "stage": run.info.lifecycle_stage, "end": run.info.end_time},
        }
        assert run.info.start_time is not None
    assert len(runs) == len(found)
    return found


def test_runs_made_at_once_equal_runs_made_one_by_one(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = shown(plan, tmp_path / "a")
    monkeypatch.setattr(RunStore, "put_planned", lambda *arguments: None)
    assert shown(plan, tmp_path / "b") == at_once
    assert len(at_once) == 1 + len(plan.trials)


def test_a_trial_made_at_once_goes_on_as_any_other(plan: Plan, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "many")
    mirror = Mirror(ledger, f"sqlite:///{tmp_path}/mlflow.db")
    mirror.ensure_plan(plan)
    key = plan.trials[-1].trial_key
    ledger.new_attempt(key)
    mirror.trial_started(key)
    client = MlflowClient(tracking_uri=mirror.uri)
    experiment = client.get_experiment_by_name("many").experiment_id
    (run,) = client.search_runs([experiment], filter_string=f"tags.`rayscale.trial_key` = '{key}'")
    assert (run.info.status, run.data.tags["rayscale.attempts"]) == ("RUNNING", "1")


def test_nothing_is_written_where_the_tables_are_others(plan: Plan, tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    with pytest.raises(sqlite3.Error):
        copy_run(database, "a", [])
