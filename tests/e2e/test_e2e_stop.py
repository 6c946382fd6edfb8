"""A sweep that its stop rule ends: real Ray, real trials; the same command again does not run on."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.ledger import Ledger

pytestmark = pytest.mark.e2e

RULE = "  repetitions: 6\n  stop: {dv: perplexity, after: [2, 3], spending: pocock, target_halfwidth: 1000}"
"""Any difference between perplexities below 64 is known to +- 1000 from the first look on."""


def call(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rayscale.cli", arguments[0], "tiny.yaml", *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=directory)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    directory = tmp_path_factory.mktemp("stopped")
    (directory / "tiny.yaml").write_text(TINY.replace("  repetitions: 2", RULE), encoding="utf-8")
    return directory, call(directory, "run", "--json")


Stopped = tuple[Path, subprocess.CompletedProcess[str]]


def test_the_sweep_ends_at_its_first_look(stopped: Stopped) -> None:
    directory, result = stopped
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["planned"], document["completed"], document["failed"]) == (12, 4, {})
    assert "look 1 after 2 complete blocks" in document["stopped"]
    assert "look 1 after 2 complete blocks" in result.stderr
    ledger = Ledger(directory / "results" / "tiny")
    assert [record.repetition for record in ledger.records()] == [0, 0, 1, 1]
    assert [look["n"] for look in json.loads((ledger.root / "plan.json").read_text())["looks"]["looks"]] == [2, 3, 6]
    assert len(ledger.read_looks()["looks"]) == 1
    assert all(ledger.attempts(trial.trial_key) in ([], [1]) for trial in ledger.read_plan().trials)


def test_status_calls_the_rest_not_needed(stopped: Stopped) -> None:
    directory, _ = stopped
    status = json.loads(call(directory, "status", "--json").stdout)
    assert (status["completed"], status["not_needed"], status["pending"], status["failed"]) == (4, 8, 0, 0)
    assert "the sweep stops" in status["stopped"]


def test_mlflow_calls_the_rest_killed_and_says_why(stopped: Stopped) -> None:
    directory, _ = stopped
    with sqlite3.connect(directory / "results" / "mlflow.db") as database:
        runs = dict(
            database.execute(
                "select run_uuid, status from runs join tags using (run_uuid) where tags.key = 'rayscale.trial_key'"
            ).fetchall()
        )
        reasons = dict(
            database.execute("select run_uuid, value from tags where key = 'rayscale.not_needed'").fetchall()
        )
    assert sorted(runs.values()) == ["FINISHED"] * 4 + ["KILLED"] * 8
    assert set(reasons) == {run for run, status in runs.items() if status == "KILLED"}
    assert all("stopped at look 1 after 2 complete blocks" in reason for reason in reasons.values())
    synced = json.loads(call(directory, "sync", "--json").stdout)
    assert (synced["created"], synced["updated"]) == (0, 0)


def test_the_same_command_again_does_not_run_on(stopped: Stopped) -> None:
    directory, _ = stopped
    again = call(directory, "run", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["completed"] == 0
    assert "the stop rule ended this sweep; 8 trials are not needed" in " ".join(again.stderr.split())
    assert len(Ledger(directory / "results" / "tiny").records()) == 4
