"""Whole runs of the `rayscale` command: real Ray, real MLflow, real processes killed."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.ledger import Ledger
from rayscale.record import Record

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "rayscale.cli"]


@dataclass(frozen=True)
class Place:
    """A sweep file with its storage."""

    directory: Path

    @property
    def sweep(self) -> Path:
        return self.directory / "tiny.yaml"

    @property
    def storage(self) -> Path:
        return self.directory / "results"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.storage / "tiny")

    def write(self, *replacements: tuple[str, str]) -> None:
        text = TINY
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        self.sweep.write_text(text, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [*COMMAND, *arguments, "--storage", str(self.storage)]

    def call(self, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        command = self.command(arguments[0], str(self.sweep), *arguments[1:])
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.directory)

    def start(self) -> subprocess.Popen[str]:
        # A session of its own, as a terminal gives it, so that a signal can go to the whole foreground group.
        return subprocess.Popen(
            self.command("run", str(self.sweep)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,
        )

    def completed(self) -> dict[str, int]:
        """Return the completed trials and when their records were written."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.storage.glob("tiny/trials/*/record.json")}

    def await_completed(self, count: int, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while len(self.completed()) < count:
            assert time.monotonic() < deadline, "the sweep does not get on"
            time.sleep(0.02)

    def trial_runs(self) -> list[tuple[str, str]]:
        """Return trial key and status of every MLflow run that stands for a trial."""
        with sqlite3.connect(self.storage / "mlflow.db") as database:
            return database.execute(
                "select tags.value, status from runs join tags using (run_uuid) where tags.key = 'rayscale.trial_key'"
            ).fetchall()


def orphans(mark: str) -> list[str]:
    """List the processes that still have files below `mark` open."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()] if process.name.isdigit() else []
        except OSError:
            continue
        if any(link.startswith(mark) for link in links) and int(process.name) != os.getpid():
            found.append(process.name)
    return found


def open_doors() -> set[str]:
    """List the addresses on which any process of this machine listens beyond loopback (from /proc/net, in hex)."""
    local = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    doors = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and not address.startswith(local):
                doors.add(address)
    return doors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """A sweep run from nothing to its report by one command."""
    place = Place(tmp_path_factory.mktemp("finished"))
    place.write()
    return place, place.call("run", "--json")


Finished = tuple[Place, subprocess.CompletedProcess[str]]


def test_one_command_goes_from_yaml_to_report(finished: Finished) -> None:
    place, result = finished
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)  # one document and nothing else
    assert (document["planned"], document["completed"], document["failed"]) == (4, 4, {})
    assert "Traceback" not in result.stderr
    for name in ("report.html", "analysis.json", "plan.json"):
        assert (place.ledger.root / name).stat().st_size > 1000
    records = place.ledger.records()
    assert [record.training.trained_tokens for record in records] == [record.condition["tokens"] for record in records]
    for record in records:
        assert record.energy.phases["train"].energy_j is not None
        assert (place.ledger.attempt_directory(record.trial_key, record.attempt) / "power.parquet").exists()


def test_trials_ran_in_the_planned_order_in_one_slot(finished: Finished) -> None:
    place, _ = finished
    records = sorted(place.ledger.records(), key=lambda record: record.phases[0].start)
    assert [record.run_order for record in records] == [0, 1, 2, 3]
    assert len({record.environment["pid"] for record in records}) == 4
    assert all(record.training.import_s < 0.2 for record in records)
    for earlier, later in itertools.pairwise(records):
        assert earlier.phases[-1].end <= later.phases[0].start  # never two on one device


def test_a_slot_trains_the_same_bits_as_a_lone_process(finished: Finished, tmp_path: Path) -> None:
    place, _ = finished
    record = place.ledger.records()[0]
    command = [sys.executable, "-m", "rayscale.trial", "--sweep", str(place.sweep), "--out", str(tmp_path)]
    command += ["--tokens", str(record.condition["tokens"]), "--repetition", str(record.repetition)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    alone = Record.from_json((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert alone.trial_key == record.trial_key
    assert alone.training.loss_digest == record.training.loss_digest
    assert alone.evaluation.loss == record.evaluation.loss


def test_mlflow_has_every_trial_once_below_one_parent(finished: Finished) -> None:
    place, _ = finished
    runs = place.trial_runs()
    assert sorted(key for key, _ in runs) == sorted(record.trial_key for record in place.ledger.records())
    assert {status for _, status in runs} == {"FINISHED"}
    with sqlite3.connect(place.storage / "mlflow.db") as database:
        parents = database.execute("select distinct value from tags where key = 'mlflow.parentRunId'").fetchall()
    assert len(parents) == 1


def test_the_finished_sweep_does_nothing_in_under_5_seconds(finished: Finished) -> None:
    place, _ = finished
    before = place.completed()
    start = time.monotonic()
    result = place.call("run")
    assert time.monotonic() - start < 5
    assert result.returncode == 0
    assert "nothing to do" in result.stderr
    assert place.completed() == before


def test_status_analyze_export_and_sync(finished: Finished) -> None:
    place, _ = finished
    status = json.loads(place.call("status", "--json").stdout)
    assert (status["planned"], status["completed"], status["failed"], status["running"]) == (4, 4, 0, 0)
    tree = json.loads(place.call("analyze", "--json", "-").stdout)
    assert set(tree["results"]) == {"pee", "joules_per_token", "perplexity"}
    assert tree["results"]["perplexity"]["anova"]["df1"] == 1
    text = place.call("analyze").stdout
    assert "perplexity" in text
    assert "stimated" in text
    rows = place.call("export").stdout.strip().splitlines()
    assert len(rows) == 5
    assert {"trial_key", "tokens", "joules_per_token", "pee", "verdict"} <= set(rows[0].split(","))
    synced = json.loads(place.call("sync", "--json").stdout)
    assert (synced["created"], synced["updated"]) == (0, 0)
    plan = json.loads(place.call("plan", "--json").stdout)
    assert plan["totals"]["time_s"] > 0
    assert "4 finished trials" in plan["totals"]["estimate"]


def test_more_repetitions_run_exactly_the_missing_trials(finished: Finished) -> None:
    """Last test on this ledger: it grows."""
    place, _ = finished
    before = place.completed()
    place.write(("repetitions: 2", "repetitions: 3"))
    result = place.call("run", "--json")
    assert result.returncode == 0, result.stderr
    after = place.completed()
    assert len(after) == 6
    assert {key: after[key] for key in before} == before
    assert json.loads(result.stdout)["completed"] == 2
    assert len(place.trial_runs()) == 6


def test_killed_and_interrupted_drivers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """kill -9, then Ctrl-C, then the same command: every trial once, on two slots, without an orphan."""
    place = Place(tmp_path)
    place.write(("repetitions: 2", "repetitions: 5"), ("gpus: 0", "gpus: 0, slots: 2"), ("idle: 40ms", "idle: 250ms"))
    doors = open_doors()
    driver = place.start()
    place.await_completed(2)
    assert open_doors() <= doors  # nothing we start listens beyond loopback
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    after_kill = place.completed()
    assert 2 <= len(after_kill) < 10

    driver = place.start()
    place.await_completed(len(after_kill) + 3)  # the two slots of the killed run may have ended their trials after it
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    _, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f"Continue with: rayscale run {place.sweep}" in stderr
    after_interrupt = place.completed()
    assert len(after_interrupt) < 10
    assert {key: after_interrupt[key] for key in after_kill} == after_kill
    assert place.ledger.lock_holder() is None
    assert (place.ledger.status().running, place.ledger.status().failed) == (0, 0)
    assert {status for _, status in place.trial_runs()} == {"FINISHED", "SCHEDULED"}

    result = place.call("run")
    assert result.returncode == 0, result.stderr
    final = place.completed()
    assert len(final) == 10
    assert {key: final[key] for key in after_interrupt} == after_interrupt
    runs = place.trial_runs()
    assert len(runs) == len({key for key, _ in runs}) == 10
    assert {status for _, status in runs} == {"FINISHED"}
    records = place.ledger.records()
    assert {record.device.uuid.split("@")[0] for record in records} == {"cpu:0", "cpu:1"}
    deadline = time.monotonic() + 10
    while orphans(str(place.storage)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert orphans(str(place.storage)) == []


def test_failing_trials_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(
        ("tokens: [512, 1024]", "tokens: [512], train.learning_rate: [1.0e-2, 1.0e+30]"),
        ("learning_rate: 1.0e-2}", "learning_rate: 1.0e-2, grad_clip: null, warmup_steps: 0}"),
    )
    result = place.call("run")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert len(place.completed()) == 2
    assert len(re.findall(r"failed: tokens=512,train.learning_rate=1e\+30 rep \d: diverged", result.stderr)) == 2
    status = json.loads(place.call("status", "--json").stdout)
    assert (status["completed"], status["failed"], status["attempts"]) == (2, 2, 6)
    assert {status for _, status in place.trial_runs()} == {"FINISHED", "FAILED"}
    assert (place.ledger.root / "report.html").exists()


def test_two_runs_of_one_sweep_are_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write()
    with place.ledger.lock():
        result = place.call("run")
    assert result.returncode == 3
    assert f"being run by pid {os.getpid()}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dead_tracking_server_does_not_stop_a_sweep(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(("tokens: [512, 1024]", "tokens: [512]"))
    with place.sweep.open("a", encoding="utf-8") as file:
        file.write("tracking: {uri: 'http://127.0.0.1:9'}\n")
    result = place.call("run")
    assert result.returncode == 0, result.stderr
    assert len(place.completed()) == 2
    assert "rayscale sync" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_corpus_too_small_for_the_budget_is_refused_with_the_numbers(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(("[512, 1024]", "[512, 900_000]"))
    result = place.call("run")
    assert result.returncode == 2
    assert "900" in result.stderr
    assert "Traceback" not in result.stderr
    assert place.completed() == {}
