"""Ledgers in an object store: a real S3 API on loopback (moto's server), leases, and what addresses are refused."""

from __future__ import annotations

import contextlib
import json
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import make_ledger

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import Failure, Ledger
from rayscale.locks import LEASE_NAME, LEASE_S, lease, lease_holder
from rayscale.storage import LocalStorage, ObjectStorage, Storage, join, open_storage


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a bucket of a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    with contextlib.redirect_stdout(None), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "canary-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        from pyarrow.fs import S3FileSystem

        files = S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        files.create_dir("studies")
        yield f"s3://studies/lab?{options}"
        server.stop()


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Storage:
    return LocalStorage(tmp_path) if request.param == "local" else open_storage(join(s3, tmp_path.name))


def test_what_is_written_is_read_and_listed(storage: Storage) -> None:
    assert storage.read("trials/a/record.json") is None
    assert storage.list("trials") == []
    storage.write("trials/a/record.json", b"{}")
    storage.write("trials/b/attempt-1/log.jsonl", b"x" * 300_000)
    storage.write("trials/a/record.json", b'{"again": 1}')
    assert storage.read("trials/a/record.json") == b'{"again": 1}'
    assert storage.read("trials/b/attempt-1/log.jsonl") == b"x" * 300_000
    assert storage.list("trials") == ["a", "b"]
    assert storage.list("trials/b") == ["attempt-1"]


def test_a_reader_never_sees_a_part_of_an_object(s3: str, tmp_path: Path) -> None:
    old, new = b"a" * 12_000_000, b"b" * 12_000_000  # more than one part of a multipart upload
    address = join(s3, tmp_path.name)
    open_storage(address).write("big", old)
    writer = threading.Thread(target=lambda: open_storage(address).write("big", new))
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(open_storage(address).read("big"))
    writer.join()
    assert seen <= {old, new}
    assert open_storage(address).read("big") == new


def test_storage_travels_as_its_address(s3: str) -> None:
    storage = open_storage(s3)
    storage.write("here", b"1")
    there = pickle.loads(pickle.dumps(storage))
    assert isinstance(there, ObjectStorage)
    assert there.read("here") == b"1"


def test_ledger_in_a_bucket_holds_what_one_in_a_directory_holds(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "node-a"))
    local = make_ledger(tmp_path / "local")
    plan = local.read_plan()
    remote = Ledger(join(s3, f"{tmp_path.name}/{local.name}"))
    remote.write_plan(plan, local.environment())
    for record in local.records():
        attempt = remote.new_attempt(record.trial_key)
        source = local.attempt_directory(record.trial_key, record.attempt)
        for path in source.iterdir() if source.is_dir() else []:
            (remote.attempt_directory(record.trial_key, attempt) / path.name).write_bytes(path.read_bytes())
        remote.publish_attempt(record.trial_key, attempt)
        remote.write_record(record)
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "node-b"))  # another machine: nothing on its disk
    other = Ledger(remote.location)
    assert other.name == local.name
    assert [record.to_json() for record in other.records()] == [record.to_json() for record in local.records()]
    assert other.status().completed == local.status().completed > 0
    first = local.records()[0]
    fetched = other.fetched_attempt(first.trial_key, 1)
    assert fetched.is_relative_to(tmp_path / "node-b")
    wanted = {path.name for path in local.attempt_directory(first.trial_key, first.attempt).iterdir()}
    assert wanted <= {path.name for path in fetched.iterdir()}


def test_attempts_are_counted_from_any_machine(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = join(s3, f"{tmp_path.name}/sweep")
    for number, node in enumerate(("a", "b", "c"), start=1):
        monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / node))
        ledger = Ledger(address)
        assert ledger.new_attempt("key") == number
        ledger.write_failure("key", number, Failure("crashed", "why", "now"))
    assert ledger.attempts("key") == [1, 2, 3]
    assert [ledger.failure("key", n) for n in (1, 2, 3)] == [Failure("crashed", "why", "now")] * 3


def test_the_folders_of_several_devices_travel_too(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "node-a"))
    ledger = Ledger(join(s3, f"{tmp_path.name}/two"))
    directory = ledger.attempt_directory("key", ledger.new_attempt("key"))
    for name in ("power.parquet", "power-0/power.parquet", "power-1/power.parquet"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(name.encode())
    ledger.publish_attempt("key", 1)
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "node-b"))
    fetched = Ledger(ledger.location).fetched_attempt("key", 1)
    assert fetched != directory
    found = {path.relative_to(fetched).as_posix(): path.read_bytes().decode() for path in fetched.rglob("*.parquet")}
    assert found == {name: name for name in ("power.parquet", "power-0/power.parquet", "power-1/power.parquet")}


def test_second_run_of_a_sweep_in_a_bucket_is_refused_by_name(s3: str, tmp_path: Path) -> None:
    first, second = (Ledger(join(s3, f"{tmp_path.name}/sweep")) for _ in range(2))
    assert second.lock_holder() is None
    with first.lock():
        assert "pid" in str(second.lock_holder())
        with pytest.raises(EnvironmentUnusableError, match="being run by pid"), second.lock():
            pass
    assert second.lock_holder() is None
    with second.lock():
        pass


def test_lease_left_behind_lapses(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    now = time.time()
    left = {"token": "other", "holder": "pid 1 on gone", "renewed": now}
    storage.write(LEASE_NAME, json.dumps(left).encode())
    with pytest.raises(EnvironmentUnusableError, match="pid 1 on gone"), lease(storage, "x", settle_s=0):
        pass
    later = now + LEASE_S + 1
    assert lease_holder(storage, lambda: later) is None
    with lease(storage, "x", clock=lambda: later, settle_s=0):
        assert "pid" in str(lease_holder(storage, lambda: later))


def test_of_two_that_start_at_once_the_last_writer_stays(tmp_path: Path) -> None:
    class Overtaken(LocalStorage):
        """Somebody else writes the lease right after us."""

        def write(self, path: str, content: bytes) -> None:
            super().write(path, content)
            other = {"token": "other", "holder": "pid 2 on elsewhere", "renewed": time.time()}
            super().write(path, json.dumps(other).encode())

    with (
        pytest.raises(EnvironmentUnusableError, match="pid 2 on elsewhere"),
        lease(Overtaken(tmp_path), "x", settle_s=0),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/x", "expected a directory, s3://bucket/prefix or gs://bucket/prefix"),
        ("s3:///prefix", "expected s3://bucket/prefix"),
        ("s3://canary-key:canary-secret@bucket/x", "carries credentials"),
        ("s3://bucket/x?secret_key=canary-secret", "carries credentials"),
    ],
)
def test_addresses_that_are_refused(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        open_storage(address)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("what", ["read", "write"])
def test_store_that_refuses_is_one_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = open_storage(f"file://{tmp_path}/file/x")
    calls = {
        "read": lambda: storage.read("plan.json"),
        "write": lambda: storage.write("y", b""),
    }
    with pytest.raises(EnvironmentUnusableError) as caught:
        calls[what]()
    assert len(str(caught.value).splitlines()) == 1
    assert f"cannot {what}" in str(caught.value)
