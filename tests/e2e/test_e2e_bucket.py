"""A sweep whose ledger lies in an object store: run to the report, continued, mirrored; no credential is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from buckets import KEY, SECRET, bucket
from tiny import TINY

from rayscale.ledger import Ledger
from rayscale.storage import join

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Remote:
    """A sweep with its ledger in a bucket, and the disk of the machine that runs it."""

    directory: Path
    storage: str
    ray_files: Path

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    def call(self, *arguments: str, cache: str = "cache", **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rayscale.cli", arguments[0], "tiny.yaml", *arguments[1:]]
        return subprocess.run(
            [*command, "--storage", self.storage],
            env=os.environ | {"RAYSCALE_CACHE": str(self.directory / cache)} | environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            cwd=self.directory,
        )

    def ledger(self) -> Ledger:
        return Ledger(join(self.storage, "tiny"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Remote, subprocess.CompletedProcess[str]]]:
    """A sweep run from nothing to its report."""
    # Ray's sockets have names of at most 107 bytes
    with bucket() as address, tempfile.TemporaryDirectory(prefix="rs-") as ray_files:
        remote = Remote(tmp_path_factory.mktemp("remote"), address, Path(ray_files))
        (remote.directory / "tiny.yaml").write_text(TINY, encoding="utf-8")
        yield remote, remote.call("run", "--json", RAY_TMPDIR=ray_files)


Run = tuple[Remote, subprocess.CompletedProcess[str]]


def test_everything_a_report_needs_is_in_the_bucket(run: Run) -> None:
    remote, result = run
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["completed"], document["failed"]) == (4, {})
    assert document["report"] == "s3://studies/lab/tiny/report.html"
    storage = remote.ledger().storage
    assert {"plan.json", "analysis.json", "report.html"} <= set(storage.list(""))
    report = storage.read("report.html")
    assert report is not None
    assert b"<svg" in report
    for record in remote.ledger().records():
        names = storage.list(f"trials/{record.trial_key}/attempt-{record.attempt}")
        assert {"power.parquet", "log.jsonl"} <= set(names)
        assert "outcome.json" not in names
        assert record.energy.phases["train"].energy_j is not None


def test_another_machine_reads_the_traces_from_the_bucket(run: Run) -> None:
    remote, _ = run
    status = json.loads(remote.call("status", "--json", cache="elsewhere").stdout)
    assert (status["completed"], status["failed"]) == (4, 0)
    shown = remote.call("report", "--out", "elsewhere.html", cache="elsewhere")
    assert shown.returncode == 0, shown.stderr
    assert "<svg" in (remote.directory / "elsewhere.html").read_text(encoding="utf-8")
    assert list((remote.directory / "elsewhere").rglob("power.parquet"))  # fetched, as many as the page shows


def test_the_finished_sweep_does_nothing(run: Run) -> None:
    remote, _ = run
    before = {record.trial_key: record.started_at for record in remote.ledger().records()}
    again = remote.call("run")
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr
    assert {record.trial_key: record.started_at for record in remote.ledger().records()} == before
    synced = json.loads(remote.call("sync", "--json").stdout)
    assert (synced["created"], synced["updated"]) == (0, 0)


def test_no_credential_is_written_anywhere(run: Run) -> None:
    """Last test on this ledger: everything is looked through, Ray's own files too."""
    remote, result = run
    storage, canaries = remote.ledger().storage, (KEY.encode(), SECRET.encode())

    def contents(path: str) -> Iterator[tuple[str, bytes]]:
        for name in storage.list(path):
            below = f"{path}/{name}".lstrip("/")
            content = None if storage.list(below) else storage.read(below)
            if content is not None:
                yield below, content
            else:
                yield from contents(below)

    remote_files = dict(contents(""))
    paths = (path for root in (remote.directory, remote.ray_files) for path in root.rglob("*"))
    local_files = {str(path): path.read_bytes() for path in paths if path.is_file()}
    assert len(remote_files) > 12
    assert any(name.endswith("mlflow.db") for name in local_files)
    assert any("/session_" in name for name in local_files)
    everything = remote_files | local_files | {"stdout": result.stdout.encode(), "stderr": result.stderr.encode()}
    assert [name for name, content in everything.items() if any(canary in content for canary in canaries)] == []
