"""Sweeps handed to a real cluster (`ray up`, token on): alone, one after the other, telling no secret.

One keeps its ledger in a bucket (a real S3 API on loopback, credentials in the head's environment), one on its disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from buckets import KEY, SECRET, bucket
from head import Head, running_head
from tiny import TINY

from rayscale.cluster.jobs import open_jobs
from rayscale.cluster.sockets import listeners
from rayscale.cluster.token import Token
from rayscale.ledger import Ledger
from rayscale.record import Record
from rayscale.storage import Storage, join

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        find_spec("opencensus") is None, reason="the head needs ray[default]: pip install -e '.[cluster]'"
    ),
]

MODULES = ("json", "random", "torch", "ray", "typing")
"""Names of corpus files that would hide modules if they came onto the workers' import path."""


@dataclass(frozen=True)
class Lab:
    """The cluster and where its sweeps keep their ledgers: one in a bucket, the other on the head's disk."""

    head: Head
    bucket: str

    def storage(self, name: str) -> str:
        return self.bucket if name == "one" else str(self.head.directory / "results")

    def ledger(self, name: str) -> Ledger:
        return Ledger(join(self.storage(name), name))

    def submit(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        result = self.head.call("submit", f"{name}.yaml", "--storage", self.storage(name), *arguments)
        assert result.returncode == 0, result.stderr
        return result

    def await_records(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 200
        while len(self.ledger(name).completed()) < count:
            assert time.monotonic() < deadline, f"{name} does not get on: {self.head.said[-2:]}"
            time.sleep(0.1)

    def await_line(self, job: str, text: str) -> None:
        """Wait until a job has said something."""
        deadline = time.monotonic() + 120
        jobs = open_jobs(self.head.address, Token(self.head.token, "this test"))
        while text not in (said := jobs.logs(job)):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def started(self, name: str) -> dict[str, str]:
        """Return when each finished trial began."""
        return {record.trial_key: record.started_at for record in self.ledger(name).records()}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with bucket() as address, running_head() as running:
        (running.directory / "one.yaml").write_text(_sweep("one", 2), encoding="utf-8")
        (running.directory / "two.yaml").write_text(_sweep("two", 6), encoding="utf-8")
        (running.directory / "three.yaml").write_text(_sweep("three", 8), encoding="utf-8")
        for number, name in enumerate(MODULES):
            (running.directory / f"{name}.py").write_text(
                "".join(f"value_{line} = {line * number}\n" for line in range(400)), encoding="utf-8"
            )
        yield Lab(running, address)


@pytest.fixture(scope="module")
def head(lab: Lab) -> Head:
    return lab.head


def _sweep(name: str, repetitions: int) -> str:
    text = TINY.replace("name: tiny", f"name: {name}").replace("repetitions: 2", f"repetitions: {repetitions}")
    synthetic = "synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}"
    assert synthetic in text
    return text.replace(synthetic, 'files: ["*.py"]\n  tokenizer: bytes\n  held_out: 0.2')


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


def test_ray_exec_reaches_the_node_that_ray_up_made(head: Head) -> None:
    told = head.launch("exec", ". ~/.profile; rayscale node-resources --host test")
    assert told.returncode == 0, told.stderr
    assert '{"cpu:test-0": 1}' in told.stdout


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


def test_two_sweeps_run_one_after_the_other_and_a_stopped_one_is_resumed(lab: Lab, head: Head) -> None:
    first, second = lab.submit("one").stdout.strip(), lab.submit("two").stdout.strip()
    assert lab.submit("two").stdout.strip() == second  # the same again, while it is there, is the same job
    lab.await_records("one", 1)
    open_sockets = listeners(head.pids())
    assert len(open_sockets) > 8
    assert [socket for socket in open_sockets if not socket.loopback] == []
    queue = {
        view["job"]: view["waits_for"] for view in json.loads(head.call("cluster", "status", "--json").stdout)["jobs"]
    }
    assert queue == {first: None, second: f"sweep one (job {first})"}

    lab.await_records("two", 1)
    one, two = lab.ledger("one"), lab.ledger("two")
    assert len(one.records()) == 4
    assert {"plan.json", "report.html", "analysis.json"} <= set(one.storage.list(""))
    assert max(_end(record) for record in one.records()) < min(_start(record) for record in two.records())
    assert "no device is up yet; asked for 2 devices" in head.call("cluster", "logs", first).stdout
    waited = head.call("cluster", "logs", second).stdout
    assert f"waiting for sweep one (job {first}), which has the cluster" in waited

    assert head.call("cluster", "stop", second).stdout == f"{second}: STOPPED\n"
    ended = head.call("cluster", "logs", second).stdout
    assert f"stopped: {len(two.completed())} of 12 trials are completed" in ended
    assert f"Continue with: rayscale cluster resume {second}\n" in ended
    kept = lab.started("two")
    assert 1 <= len(kept) < 12
    (head.directory / "two.yaml").unlink()  # it goes on with what was sent
    resumed = head.call("cluster", "resume", "two").stdout.strip()
    assert resumed != second
    lab.await_line(resumed, "completed before")
    with head.by_hand("three.yaml") as run:
        assert await_wait(run) == f"waiting for sweep two (job {resumed}), which has the cluster\n"
        followed = head.call("cluster", "logs", resumed, "--follow")
        check_stop_by_hand(lab, run)
    assert followed.returncode == 0, followed.stderr
    after = lab.started("two")
    assert len(after) == 12
    assert {key: after[key] for key in kept} == kept
    assert "report.html" in two.storage.list("")
    assert f"rayscale analyze two.yaml --storage {lab.storage('two')}" in followed.stdout


def await_wait(run: subprocess.Popen[str]) -> str | None:
    """Return the line by which a run says whom it waits for."""
    assert run.stderr is not None
    return next((line for line in run.stderr if line.startswith("waiting for sweep")), None)


def check_stop_by_hand(lab: Lab, run: subprocess.Popen[str]) -> None:
    """When its turn has come, a run by hand trains; on SIGTERM it ends as on Ctrl-C and leaves nothing behind."""
    three = Ledger(lab.head.directory / "by-hand" / "three")
    deadline = time.monotonic() + 120
    while not three.completed() and run.poll() is None:
        assert time.monotonic() < deadline, "the run by hand does not get on"
        time.sleep(0.05)
    assert lab.head.actors()
    run.terminate()
    _, said = run.communicate(timeout=60)
    lab.head.said.append(said)
    assert run.returncode == 130, said
    kept = len(three.completed())
    assert 1 <= kept < 16
    assert "the cluster is free\n" in said
    assert f"stopped: {kept} of 16 trials are completed and kept. Continue with: rayscale run three.yaml" in said
    while left := lab.head.actors():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _start(record: Record) -> float:
    return record.phases[0].start


def _end(record: Record) -> float:
    return record.phases[-1].end


def test_a_finished_sweep_submitted_again_does_nothing(lab: Lab, head: Head) -> None:
    before = lab.started("one")
    again = lab.submit("one", "--follow", "--json")
    assert json.loads(again.stdout)["status"] == "SUCCEEDED"
    assert "nothing to do" in again.stderr
    assert lab.started("one") == before
    listed = json.loads(head.call("cluster", "status", "--json").stdout)["jobs"]
    assert [(view["sweep"], view["status"]) for view in listed] == [
        ("one", "SUCCEEDED"),
        ("two", "SUCCEEDED"),
        ("two", "STOPPED"),
        ("one", "SUCCEEDED"),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk that only one process sees needs root")
def test_a_disk_that_the_nodes_do_not_see_is_refused(head: Head) -> None:
    with head.by_hand("three.yaml", private=True) as run:
        _, stderr = run.communicate(timeout=120)
    head.said.append(stderr)
    assert run.returncode == 3, stderr
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith(f"{head.directory}/by-hand/three: node ")
    assert "does not see this directory; expected --storage s3://" in last


def test_only_what_the_sweep_names_was_sent(head: Head) -> None:
    unpacked = list(head.directory.rglob("working_dir_files/_ray_pkg_*/rayscale-sweep"))
    assert unpacked
    for directory in unpacked:
        sweeps = {path.name for path in directory.glob("*.yaml")}
        assert sweeps in ({"one.yaml"}, {"two.yaml"})
        assert {path.name for path in directory.rglob("*")} - sweeps == {f"{name}.py" for name in MODULES}


def test_no_secret_is_written_or_printed(lab: Lab, head: Head) -> None:
    """After all sweeps: everything is looked through, Ray's own logs and MLflow's database too."""
    canaries = (head.token.encode(), KEY.encode(), SECRET.encode())
    files = [path for path in head.directory.rglob("*") if path.is_file() and path.name not in ("token", "auth_token")]
    assert any("job-driver-" in path.name for path in files)
    assert any(path.name == "mlflow.db" for path in files)
    written = {str(path): path.read_bytes() for path in files} | dict(_objects(lab.ledger("one").storage, ""))
    assert any(name.endswith("record.json") for name in written)
    found = [name for name, content in written.items() if any(canary in content for canary in canaries)]
    said = "".join(head.said).encode()
    assert found == []
    assert not any(canary in said for canary in canaries)


def _objects(storage: Storage, path: str) -> Iterator[tuple[str, bytes]]:
    """Yield everything in the bucket below a path."""
    for name in storage.list(path):
        below = f"{path}/{name}".lstrip("/")
        if storage.list(below):
            yield from _objects(storage, below)
        else:
            yield f"s3://{below}", storage.read(below) or b""


def test_ray_down_ends_it(head: Head) -> None:
    """Last test on this cluster."""
    assert len(head.pids()) > 5
    down = head.launch("down", "--yes")
    assert down.returncode == 0, down.stderr
    assert head.pids() == []
