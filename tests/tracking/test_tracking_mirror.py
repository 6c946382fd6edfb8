from __future__ import annotations

import json
import logging
import os
import shutil

import pytest
from ledgers import example_spec, make_ledger

from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError
from rayscale.ledger import Failure, Ledger
from rayscale.tracking.content import epoch_ms
from rayscale.tracking.mirror import Mirror, SyncReport
from rayscale.tracking.quiet import CLIENT_SETTINGS, mlflow_in_use


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One storage with one database for the module: creating the schema takes seconds."""
    return tmp_path_factory.mktemp("storage")


def finished(storage, name: str, write_log=None, repetitions: int = 2) -> Ledger:
    ledger = make_ledger(storage, example_spec(repetitions, name=name))
    if write_log:
        for key in ledger.completed():
            write_log(ledger, key)
    return ledger


def analyse(ledger: Ledger) -> dict:
    from rayscale.analysis.run import analyze_records

    return analyze_records(ledger.records(), ledger.read_plan().spec)


def runs(storage, name: str, kind: str | None = None) -> dict:
    """Read the active runs of an experiment by name, as any other client would."""
    uri = f"sqlite:///{storage}/mlflow.db"
    with mlflow_in_use(uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        found = client.search_runs([experiment.experiment_id], max_results=1000)
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), "a run was duplicated"
    return {run.info.run_name: run for run in found if kind in (None, run.data.tags["rayscale.kind"])}


def test_sync_twice_is_sync_once(storage, count_rows, write_log):
    ledger = finished(storage, "twice", write_log)
    for record in ledger.records():
        known = {"data_fingerprint": "f" * 64, "data_source": "the sources of Python"}
        ledger.write_record(record.model_copy(update={"environment": record.environment | known}))
    ledger.storage.write("analysis.json", json.dumps(analyse(ledger)).encode())
    ledger.storage.write("report.html", b"<html></html>")
    assert Mirror(ledger, None).sync() == SyncReport(created=10, updated=0, unchanged=0)
    before = count_rows(storage / "mlflow.db")
    mirror = Mirror(ledger, None)
    for _ in range(2):
        assert mirror.sync() == SyncReport(created=0, updated=0, unchanged=10)
    assert count_rows(storage / "mlflow.db") == before
    assert (before["inputs"], before["datasets"]) == (6, 1)
    trial = ledger.read_plan().trials[0]
    record, run = ledger.record(trial.trial_key), runs(storage, "twice")[_name(trial)]
    assert run.info.start_time == epoch_ms(record.started_at)
    assert run.data.metrics["energy_j"] == record.energy.phases["train"].energy_j
    assert run.data.params["params"] == str(record.training.params)
    assert (storage / "mlartifacts" / "twice" / run.info.run_id / "artifacts" / "power.parquet").is_file()
    everything = runs(storage, "twice").values()
    columns = {key for run in everything for key in (*run.data.metrics, *run.data.params)}
    assert len(columns) <= 32  # seven of them are phases


def test_a_writer_that_died_half_way_is_caught_up_without_new_metrics(storage, count_rows, write_log):
    ledger = finished(storage, "died", write_log, repetitions=1)
    Mirror(ledger, None).sync()
    before = count_rows(storage / "mlflow.db")
    uri = f"sqlite:///{storage}/mlflow.db"
    children = runs(storage, "died", "trial").values()
    with mlflow_in_use(uri):
        from mlflow.tracking import MlflowClient

        for run in children:
            MlflowClient(tracking_uri=uri).delete_tag(run.info.run_id, "rayscale.mirrored")
    assert Mirror(ledger, None).sync() == SyncReport(created=0, updated=3, unchanged=1)
    assert count_rows(storage / "mlflow.db") == before


def test_a_live_sweep_goes_from_scheduled_to_finished(storage, tmp_path, write_log):
    source = finished(tmp_path, "live", write_log, repetitions=1)
    plan, ledger = source.read_plan(), Ledger(storage / "live")
    ledger.write_plan(plan, {})
    mirror = Mirror(ledger, None)
    with ledger.lock():
        mirror.ensure_plan(plan)
        children = runs(storage, "live", "trial")
        assert {run.info.status for run in children.values()} == {"SCHEDULED"}
        parent = runs(storage, "live", "sweep")["live"]
        assert parent.info.status == "RUNNING"
        assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
        assert all("tokens" in run.data.params for run in children.values())
        for trial in plan.trials:
            attempt = ledger.new_attempt(trial.trial_key)
            mirror.trial_started(trial.trial_key, attempt)
            assert runs(storage, "live")[_name(trial)].info.status == "RUNNING"
            shutil.copytree(
                source.root / "trials" / trial.trial_key, ledger.root / "trials" / trial.trial_key, dirs_exist_ok=True
            )
            mirror.trial_finished(trial.trial_key)
            done = runs(storage, "live")[_name(trial)]
            record = ledger.record(trial.trial_key)
            assert done.info.status == "FINISHED"
            assert done.info.start_time == epoch_ms(record.started_at)  # not the creation of the scheduled run
            assert done.info.end_time - done.info.start_time < 20_000
        tree = analyse(ledger)
        ledger.storage.write("analysis.json", json.dumps(tree).encode())
        mirror.summaries(tree)
        mirror.attach([ledger.root / "analysis.json", ledger.root / "not there.png"])
        mirror.close("FINISHED")
    assert runs(storage, "live")["live"].info.status == "FINISHED"
    assert set(runs(storage, "live", "summary")) == {"tok=12.5K/mean", "tok=25K/mean", "tok=50K/mean"}
    assert Mirror(ledger, None).sync() == SyncReport(created=0, updated=0, unchanged=7)


def test_more_repetitions_add_runs_and_renew_summaries(storage, tmp_path):
    ledger = finished(storage, "grown", repetitions=2)
    ledger.storage.write("analysis.json", json.dumps(analyse(ledger)).encode())
    Mirror(ledger, None).sync()
    first = runs(storage, "grown", "summary")["tok=25K/mean"].data.metrics["perplexity"]
    more = finished(tmp_path, "grown", repetitions=3)
    for key in more.completed() - ledger.completed():
        shutil.copytree(more.root / "trials" / key, ledger.root / "trials" / key)
    shutil.copy(more.root / "plan.json", ledger.root / "plan.json")
    tree = analyse(ledger)
    ledger.storage.write("analysis.json", json.dumps(tree).encode())
    assert Mirror(ledger, None).sync() == SyncReport(created=3, updated=4, unchanged=6)
    shown = runs(storage, "grown", "summary")["tok=25K/mean"].data.metrics["perplexity"]
    assert shown == tree["results"]["perplexity"]["descriptives"]["25000"]["mean"]
    assert shown != first


def test_summaries_show_the_newest_value_even_if_it_is_smaller(storage):
    ledger = finished(storage, "smaller", repetitions=2)
    tree, mirror = analyse(ledger), Mirror(ledger, None)
    for factor in (1.0, 0.5):
        tree["results"]["perplexity"]["descriptives"]["25000"]["mean"] *= factor
        mirror.summaries(tree)
        shown = runs(storage, "smaller", "summary")["tok=25K/mean"].data.metrics["perplexity"]
        assert shown == tree["results"]["perplexity"]["descriptives"]["25000"]["mean"]


def test_a_trial_that_fails_then_succeeds_is_one_run(storage, tmp_path):
    source = finished(tmp_path, "retried", repetitions=1)
    plan, ledger = source.read_plan(), Ledger(storage / "retried")
    ledger.write_plan(plan, {})
    trial, mirror = plan.trials[0], Mirror(ledger, None)
    mirror.trial_started(trial.trial_key, ledger.new_attempt(trial.trial_key))
    ledger.write_failure(trial.trial_key, 1, Failure("killed", "signal 9", "2026-01-10T09:00:00+00:00"))
    mirror.trial_finished(trial.trial_key)
    failed = runs(storage, "retried")[_name(trial)]
    assert (failed.info.status, failed.data.tags["rayscale.failure"]) == ("FAILED", "killed")
    mirror.trial_started(trial.trial_key, ledger.new_attempt(trial.trial_key))
    again = runs(storage, "retried")[_name(trial)]
    assert (again.info.status, again.info.end_time, again.info.run_id) == ("RUNNING", None, failed.info.run_id)
    ledger.write_record(source.record(trial.trial_key).model_copy(update={"attempt": 2}))
    mirror.trial_finished(trial.trial_key)
    done = runs(storage, "retried")[_name(trial)]
    assert done.info.status == "FINISHED"
    assert done.data.tags["rayscale.attempts"] == "2"
    assert done.data.tags["rayscale.failed_attempts"] == "1: killed: signal 9"


def test_an_interrupted_attempt_is_scheduled_again_and_late_events_change_nothing(storage):
    ledger = Ledger(storage / "cut")
    plan = plan_sweep(example_spec(1, name="cut"))
    ledger.write_plan(plan, {})
    mirror, trial = Mirror(ledger, None), plan.trials[0]
    mirror.ensure_plan(plan)
    mirror.trial_started(trial.trial_key, ledger.new_attempt(trial.trial_key))
    mirror.close("KILLED")
    assert runs(storage, "cut")["cut"].info.status == "KILLED"
    assert runs(storage, "cut")[_name(trial)].info.status == "SCHEDULED"
    mirror.trial_started("not in the plan", 1)
    mirror.trial_finished("not in the plan")
    assert Mirror(ledger, None).sync() == SyncReport(created=0, updated=0, unchanged=4)


def test_runs_that_left_the_plan_are_left_alone(storage):
    ledger = finished(storage, "left", repetitions=2)
    Mirror(ledger, None).sync()
    before = runs(storage, "left", "trial")
    smaller = plan_sweep(example_spec(1, name="left"))
    ledger.write_plan(smaller, {})
    Mirror(ledger, None).ensure_plan(smaller)
    after = runs(storage, "left", "trial")
    assert {n: r.info.status for n, r in after.items()} == {n: r.info.status for n, r in before.items()}


def test_variables_of_other_mlflow_users_do_not_interfere(storage, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "12345")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    ledger = finished(storage, "foreign", repetitions=1)
    assert Mirror(ledger, None).sync().created == 4
    found = runs(storage, "foreign")
    assert not [key for run in found.values() for key in run.data.metrics if key.startswith("system/")]
    assert all(
        run.data.tags["mlflow.parentRunId"] == found["foreign"].info.run_id for n, run in found.items() if "/" in n
    )


def test_constructing_touches_nothing(tmp_path):
    Mirror(Ledger(tmp_path / "x" / "y"), "http://127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []


def test_settings_and_log_levels_are_put_back(storage, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before, level = dict(os.environ), logging.getLogger("mlflow").level
    with mlflow_in_use("sqlite://"):
        inside = {name: os.environ[name] for name in CLIENT_SETTINGS}
    assert inside == {**CLIENT_SETTINGS, "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}  # what the user set stays
    assert dict(os.environ) == before
    assert logging.getLogger("mlflow").level == level


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 100)
    ledger = finished(tmp_path, "broken", repetitions=1)
    with pytest.raises(EnvironmentUnusableError) as caught:
        Mirror(ledger, None).sync()
    assert str(caught.value).startswith(f"MLflow at sqlite:///{tmp_path}/mlflow.db: ")
    assert "\n" not in str(caught.value)


def test_what_mlflow_logs_with_a_traceback_before_it_raises_is_not_shown(caplog):
    """Seen with a database that was moved away under a running sweep: a page of SQLAlchemy per trial."""
    with mlflow_in_use("sqlite://"):
        logging.getLogger("mlflow.store.db.utils").exception("SQLAlchemy database error")
    assert caplog.records == []


def test_a_deleted_experiment_is_named_with_its_remedy(storage):
    ledger = finished(storage, "deleted", repetitions=1)
    Mirror(ledger, None).sync()
    uri = f"sqlite:///{storage}/mlflow.db"
    with mlflow_in_use(uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        client.delete_experiment(client.get_experiment_by_name("deleted").experiment_id)
    with pytest.raises(EnvironmentUnusableError, match="mlflow experiments restore"):
        Mirror(ledger, None).sync()


def _name(trial) -> str:
    from rayscale.tracking.content import condition_name

    return f"{condition_name(trial.condition)}/rep={trial.repetition:02d}"


def test_trials_that_a_look_made_superfluous_are_killed_until_they_are_needed_again(storage, tmp_path, count_rows):
    design = {"factors": {"tokens": [12_500, 25_000, 50_000]}, "repetitions": 4, "seed": 2601}
    stop = {"stop": {"dv": "pee", "after": [2]}}
    plan = plan_sweep(example_spec(name="enough", design=design | stop))
    source, ledger = finished(tmp_path, "enough", repetitions=2), Ledger(storage / "enough")
    ledger.write_plan(plan, {})
    done = {trial.trial_key for trial in plan.trials[:6]}
    for key in done:
        shutil.copytree(source.root / "trials" / key, ledger.root / "trials" / key)
    mirror = Mirror(ledger, None)
    mirror.ensure_plan(plan)
    assert {run.info.status for run in runs(storage, "enough", "trial").values()} == {"FINISHED", "SCHEDULED"}

    reason = "look 1 after 2 complete blocks: the sweep stops"
    ledger.write_looks({"plan": {}, "looks": [{"n": 2, "decision": "efficacy", "reason": reason}]})
    mirror.close("FINISHED")
    found = runs(storage, "enough", "trial").values()
    killed = [run for run in found if run.info.status == "KILLED"]
    assert len(killed) == 6
    assert {run.data.tags["rayscale.not_needed"] for run in killed} == {f"stopped at {reason}"}
    assert all(run.info.end_time == run.info.start_time for run in killed)  # they never ran
    assert {run.info.status for run in found if run not in killed} == {"FINISHED"}
    parent = runs(storage, "enough", "sweep")["enough"]
    assert parent.info.status == "FINISHED"
    assert "6 not needed" in parent.data.tags["rayscale.progress"]
    before = count_rows(storage / "mlflow.db")
    for _ in range(2):
        assert Mirror(ledger, None).sync() == SyncReport(created=0, updated=0, unchanged=13)
    assert count_rows(storage / "mlflow.db") == before

    without = plan_sweep(example_spec(name="enough", design=design))
    ledger.write_plan(without, {})
    Mirror(ledger, None).ensure_plan(without)
    found = runs(storage, "enough", "trial").values()
    assert [run.info.status for run in found].count("SCHEDULED") == 6
    assert not any("rayscale.not_needed" in run.data.tags for run in found)
    assert all(run.info.end_time is None for run in found if run.info.status == "SCHEDULED")
