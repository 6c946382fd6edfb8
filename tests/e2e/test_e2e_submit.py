"""Sweeps handed to a real cluster (Ray's own head, token on): alone, one after the other, telling no secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from head import Head, running_head
from tiny import TINY

from rayscale.cluster.sockets import listeners
from rayscale.ledger import Ledger
from rayscale.record import Record

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find_spec("opencensus") is None, reason="the head needs ray[default]: pip install -e '.[cluster]'"
    ),
]

MODULES = ("json", "random", "torch", "ray", "typing")
"""Names of corpus files that would hide modules if they came onto the workers' import path."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as running:
        (running.directory / "one.yaml").write_text(_sweep("one", 2), encoding="utf-8")
        (running.directory / "two.yaml").write_text(_sweep("two", 12), encoding="utf-8")
        for number, name in enumerate(MODULES):
            (running.directory / f"{name}.py").write_text(
                "".join(f"value_{line} = {line * number}\n" for line in range(400)), encoding="utf-8"
            )
        yield running


def _sweep(name: str, repetitions: int) -> str:
    text = TINY.replace("name: tiny", f"name: {name}").replace("repetitions: 2", f"repetitions: {repetitions}")
    synthetic = "synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}"
    assert synthetic in text
    return text.replace(synthetic, 'files: ["*.py"]\n  tokenizer: bytes\n  held_out: 0.2')


def records(head: Head, name: str) -> list[Record]:
    return Ledger(head.directory / "results" / name).records()


def submit(head: Head, name: str, *arguments: str) -> str:
    result = head.call("submit", f"{name}.yaml", "--storage", str(head.directory / "results"), *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def await_records(head: Head, name: str, count: int) -> None:
    deadline = time.monotonic() + 150
    while len(records(head, name)) < count:
        assert time.monotonic() < deadline, f"{name} does not get on: {head.said[-2:]}"
        time.sleep(0.1)


ENDPOINTS = [
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"),
    ("GET", "/api/jobs/any/logs"),
    ("POST", "/api/jobs/any/stop"),
    ("DELETE", "/api/jobs/any"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/api/cluster_status"),
    ("GET", "/api/v0/tasks"),
    ("PUT", "/api/packages/gcs/_ray_pkg_0.zip"),
    ("GET", "/logical/actors"),
    ("PUT", "/api/serve/applications/"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_without_the_token_every_endpoint_answers_401(head: Head, method: str, path: str) -> None:
    assert head.answer(head.address + path, method=method) == 401
    assert head.answer(head.address + path, token="wrong", method=method) == 403


def test_the_agent_that_starts_jobs_wants_the_token_too(head: Head) -> None:
    agent = f"http://127.0.0.1:{head.agent}/api/job_agent/jobs/"
    assert head.answer(agent, method="POST") == 401


def test_a_wrong_or_missing_token_is_one_clear_line(head: Head) -> None:
    missing, wrong = head.call("cluster", "status", token=""), head.call("cluster", "status", token="wrong")
    assert (missing.returncode, wrong.returncode) == (3, 3)
    assert "the cluster wants a token; expected RAY_AUTH_TOKEN" in missing.stderr
    assert "the cluster refuses the token from RAY_AUTH_TOKEN" in wrong.stderr
    assert missing.stderr.count("\n") == wrong.stderr.count("\n") == 1


def test_two_sweeps_run_one_after_the_other_and_a_stopped_one_continues(head: Head) -> None:
    first = submit(head, "one")
    second = submit(head, "two")
    assert submit(head, "two") == second  # the same again, while it is there, is the same job
    await_records(head, "one", 1)
    open_sockets = listeners(head.pids())
    assert len(open_sockets) > 8
    assert [socket for socket in open_sockets if not socket.loopback] == []

    await_records(head, "two", 1)
    assert max(_end(record) for record in records(head, "one")) < min(_start(record) for record in records(head, "two"))
    waited = head.call("cluster", "logs", second).stdout
    assert f"waiting for sweep one (job {first}), which has the cluster" in waited

    stopped = head.call("cluster", "stop", second)
    assert stopped.stdout == f"{second}: STOPPED\n"
    kept = {record.trial_key: record.started_at for record in records(head, "two")}
    assert 1 <= len(kept) < 24

    followed = head.call("submit", "two.yaml", "--storage", str(head.directory / "results"), "--follow")
    assert followed.returncode == 0, followed.stderr
    assert followed.stdout.strip() != second
    after = {record.trial_key: record.started_at for record in records(head, "two")}
    assert len(after) == 24
    assert {key: after[key] for key in kept} == kept
    assert (head.directory / "results" / "two" / "report.html").stat().st_size > 1000


def _start(record: Record) -> float:
    return record.phases[0].start


def _end(record: Record) -> float:
    return record.phases[-1].end


def test_a_finished_sweep_submitted_again_does_nothing(head: Head) -> None:
    before = {record.trial_key: record.started_at for record in records(head, "one")}
    again = head.call("submit", "one.yaml", "--storage", str(head.directory / "results"), "--follow", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["status"] == "SUCCEEDED"
    assert "nothing to do" in again.stderr
    assert {record.trial_key: record.started_at for record in records(head, "one")} == before
    listed = json.loads(head.call("cluster", "status", "--json").stdout)["jobs"]
    assert [(view["sweep"], view["status"]) for view in listed] == [
        ("one", "SUCCEEDED"),
        ("two", "SUCCEEDED"),
        ("two", "STOPPED"),
        ("one", "SUCCEEDED"),
    ]


def test_no_secret_is_written_or_printed(head: Head) -> None:
    """Last test on this cluster: everything is looked through, Ray's own logs and MLflow's database too."""
    canaries = (head.token.encode(), head.secret.encode())
    files = [path for path in head.directory.rglob("*") if path.is_file() and path != head.directory / "token"]
    assert any("job-driver-" in path.name for path in files)
    assert any(path.name == "mlflow.db" for path in files)
    found = [str(path) for path in files if any(canary in path.read_bytes() for canary in canaries)]
    said = "".join(head.said).encode()
    assert found == []
    assert not any(canary in said for canary in canaries)


def test_only_what_the_sweep_names_was_sent(head: Head) -> None:
    unpacked = list((head.directory / "ray").rglob("working_dir_files/_ray_pkg_*/rayscale-sweep"))
    assert unpacked
    for directory in unpacked:
        sweeps = {path.name for path in directory.glob("*.yaml")}
        assert sweeps in ({"one.yaml"}, {"two.yaml"})
        assert {path.name for path in directory.rglob("*")} - sweeps == {f"{name}.py" for name in MODULES}
