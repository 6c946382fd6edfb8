"""What is put together and sent for a sweep, where to, and what the head makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.cli import run_command
from rayscale.cluster.drive import check_versions, drive, job_id
from rayscale.cluster.jobs import DIGEST_KEY, SWEEP_KEY, Jobs
from rayscale.cluster.reach import checked_dashboard
from rayscale.cluster.submit import STOPPING, entrypoint_of, prepare, send
from rayscale.environment import versions
from rayscale.errors import EnvironmentUnusableError, InputError

CANARY = "canary-value"


@dataclass
class Cluster:
    """A cluster's client that keeps what it is sent."""

    _server_ray_version: str = versions()["ray"]
    sent: list[dict[str, Any]] = field(default_factory=list)
    unpacked: list[list[str]] = field(default_factory=list)
    there: list[Any] = field(default_factory=list)

    def list_jobs(self) -> list[Any]:
        return self.there

    def submit_job(self, **given: Any) -> str:
        with zipfile.ZipFile(given["runtime_env"]["working_dir"]) as package:
            self.unpacked.append(package.namelist())
        self.sent.append(given)
        return str(given["submission_id"])


def jobs(cluster: Cluster) -> Jobs:
    return Jobs(cluster, "here", None)


def test_a_submission_is_files_names_and_a_command(tiny_file: Path) -> None:
    submission = prepare(tiny_file, "s3://lab/x?region=eu-west-1", {"GRID": CANARY}, send_names=("GRID",))
    document, text = submission.document(), submission.text()
    assert document["files"] == [{"name": "rayscale-sweep/tiny.yaml", "bytes": tiny_file.stat().st_size}]
    assert document["environment"] == ["GRID", "RAYSCALE_STORAGE", *sorted(STOPPING)]
    assert document["storage"] == "s3://lab/x"
    assert CANARY not in json.dumps(document) + text + repr(submission)
    assert submission.environment["GRID"] == CANARY
    assert "rayscale-sweep/tiny.yaml" in text


def test_exactly_that_is_sent(tiny_file: Path) -> None:
    cluster, said = Cluster(), []
    submission = prepare(tiny_file, "/shared", {"AWS_SECRET_ACCESS_KEY": CANARY, "RAY_AUTH_TOKEN": CANARY})
    sent = send(submission, jobs(cluster), said.append)
    assert cluster.unpacked == [["rayscale-sweep/tiny.yaml"]]
    [call] = cluster.sent
    assert (sent.job, sent.already) == (call["submission_id"], False)
    assert call["runtime_env"]["env_vars"] == {"RAYSCALE_STORAGE": "/shared", **STOPPING}
    assert call["metadata"] == {SWEEP_KEY: "tiny", DIGEST_KEY: submission.digest}
    assert CANARY not in json.dumps(call) + "".join(said)
    assert not Path(call["runtime_env"]["working_dir"]).exists()


def test_the_same_submission_while_it_is_there_is_the_same_job(tiny_file: Path) -> None:
    from test_cluster_jobs import details

    submission = prepare(tiny_file, "/shared", {})
    metadata = {SWEEP_KEY: "tiny", DIGEST_KEY: submission.digest}
    waiting = Cluster(there=[details("j1", "RUNNING", metadata=metadata)])
    assert send(submission, jobs(waiting), print).job == "j1"
    assert waiting.sent == []
    ended = Cluster(there=[details("j1", "STOPPED", metadata=metadata)])
    assert send(submission, jobs(ended), print).job != "j1"
    other = prepare(tiny_file, "/elsewhere", {})
    assert other.digest != submission.digest


def test_another_ray_is_refused_before_anything_is_sent(tiny_file: Path) -> None:
    cluster = Cluster(_server_ray_version="2.1.0")
    with pytest.raises(EnvironmentUnusableError, match=r"the cluster runs ray 2\.1\.0, this machine has"):
        send(prepare(tiny_file, "/shared", {}), jobs(cluster), print)
    assert cluster.sent == []


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("results", "expected s3://, gs:// or an absolute path"),
        ("ftp://host/x", "expected a directory, s3://"),
        ("s3://key:canary-value@bucket/x", "carries credentials"),
        ("s3://bucket/x?secret_key=canary-value", "carries credentials"),
    ],
)
def test_a_storage_that_means_nothing_there_or_shows_secrets_is_refused(
    tiny_file: Path, storage: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepare(tiny_file, storage, {})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", CANARY, "shows a job's variables in clear"),
        ("HF_TOKEN", CANARY, "shows a job's variables in clear"),
        ("AWS_ACCESS_KEY_ID", CANARY, "shows a job's variables in clear"),
        ("MLFLOW_TRACKING_URI", f"https://me:{CANARY}@host", "shows a job's variables in clear"),
        ("MISSING", None, "not set here"),
        (f"A={CANARY}", "x", "without a value"),
    ],
)
def test_variables_that_look_like_secrets_are_refused(
    tiny_file: Path, name: str, value: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepare(tiny_file, "/s", {} if value is None else {name: value}, send_names=(name,))
    assert CANARY not in str(caught.value)


def test_a_tracking_server_is_no_secret(tiny_file: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://10.0.0.1:5000"}
    assert (
        prepare(tiny_file, "/s", environment, send_names=("MLFLOW_TRACKING_URI",)).environment.items()
        >= environment.items()
    )
    with tiny_file.open("a", encoding="utf-8") as file:
        file.write(f"tracking: {{uri: 'https://me:{CANARY}@host'}}\n")
    with pytest.raises(InputError, match=r"tracking\.uri carries credentials") as caught:
        prepare(tiny_file, "/s", {})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://10.0.0.1:8265",
        "http://127.0.0.1.evil.example:8265",
        "http://localhost@evil.example",
        "ray://127.0.0.1:10001",
        "127.0.0.1:8265",
        "http://",
        "http://[bad",
        "https://me:canary-value@host",
    ],
)
def test_addresses_that_would_show_the_token_are_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"--address.*expected http://127\.0\.0\.1:PORT") as caught:
        checked_dashboard(address)
    assert CANARY not in str(caught.value)


def test_loopback_and_https_are_fine() -> None:
    assert checked_dashboard("http://127.0.0.1:8265/") == "http://127.0.0.1:8265"
    assert checked_dashboard("http://[::1]:8265") == "http://[::1]:8265"
    assert checked_dashboard("https://ray.lab.example") == "https://ray.lab.example"


@given(st.text("abc 'é$(\"`;&\\", min_size=1).map(lambda text: f"rayscale-sweep/{text}.yaml"))
def test_any_file_name_reaches_the_driver_as_it_is(name: str) -> None:
    script = entrypoint_of("tiny", name, ("--address", "auto")).replace("exec rayscale", "printf '%s\\n'")
    script = script.replace("command -v rayscale", "command -v sh")
    said = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout
    assert said.splitlines()[-4:] == ["--", name, "--address", "auto"]


def test_a_head_without_rayscale_on_its_path_says_what_to_do() -> None:
    empty = {"PATH": "/nowhere"}
    command = entrypoint_of("tiny", "rayscale-sweep/tiny.yaml", ())
    result = subprocess.run(["/bin/sh", "-c", command], env=empty, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "not on the PATH that Ray was started with" in result.stderr


def test_the_head_must_have_the_same_versions() -> None:
    check_versions({"rayscale": "1", "ray": "2"}, {"rayscale": "1", "ray": "2", "torch": "3"})
    with pytest.raises(
        EnvironmentUnusableError, match=r"the head has rayscale 2 instead of 1, ray \(none\) instead of 2"
    ):
        check_versions({"rayscale": "1", "ray": "2"}, {"rayscale": "2"})


def test_the_driver_wants_a_storage_that_all_nodes_share() -> None:
    for environment, message in (
        ({}, "the head has no RAYSCALE_STORAGE"),
        ({"RAYSCALE_STORAGE": "r"}, "absolute path"),
    ):
        with pytest.raises(InputError, match=message):
            drive("tiny", {}, ["tiny.yaml"], environment, print)


def test_the_driver_knows_its_job() -> None:
    config = json.dumps({"metadata": {"job_submission_id": "tiny-1"}})
    assert job_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": config}) == "tiny-1"
    assert job_id({}) == job_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": "no json"}) == "?"


def test_the_driver_becomes_the_run(tmp_path: Path, tiny_file: Path) -> None:
    """Through the command that `submit` names, up to what `rayscale run` says of a file that is not there."""
    found = versions()
    arguments = ["cluster", "drive", "tiny", "--rayscale", found["rayscale"], "--ray", found["ray"], "--", "none.yaml"]
    environment = {**os.environ, "RAYSCALE_STORAGE": str(tmp_path), "RAYSCALE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "rayscale.cli", *arguments]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "none.yaml: cannot read the sweep file: No such file or directory\n"
    assert "sweep tiny (job ?)" in [path.read_text() for path in (tmp_path / "cache" / "turns").iterdir()]


def test_a_dry_run_shows_everything_and_needs_no_cluster(
    tiny_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARY)
    assert run_command(["submit", str(tiny_file), "--dry-run", "--json", "--storage", "/shared"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["sweep"] == "tiny"
    assert document["metadata"] == {SWEEP_KEY: "tiny", DIGEST_KEY: document["digest"]}
    assert document["entrypoint"].endswith("-- rayscale-sweep/tiny.yaml --address auto --wait 30min")
    assert run_command(["submit", str(tiny_file), "--dry-run", "--storage", "/shared"]) == 0
    text = capsys.readouterr().out
    assert all(str(value) in text for value in (document["entrypoint"], document["digest"], "RAY_JOB_STOP_SIGNAL"))
    assert CANARY not in shown.out + shown.err
    assert run_command(["submit", str(tiny_file), "--dry-run", "--max-upload", "many"]) == 2
    assert "--max-upload: expected a size" in capsys.readouterr().err
    assert run_command(["submit", str(tiny_file), "--dry-run", "--wait", "long"]) == 2
    assert "--wait: expected a duration" in capsys.readouterr().err


def test_cluster_and_address_together_are_refused(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--cluster", "cluster.yaml", "--address", "http://127.0.0.1:1"]
    assert run_command(["cluster", "status", *both]) == 2
    assert "expected one of them" in capsys.readouterr().err
