"""A sweep on a running cluster of several nodes: blocks stay on their device, nodes are lost and join in the middle."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_host import LOOPBACK, cluster_host
from test_e2e_sweep import open_doors
from tiny import TINY

from rayscale.ledger import Ledger
from rayscale.record import Record
from rayscale.sweep.fleet import TOKEN

pytestmark = pytest.mark.e2e

CHANGES = (("[512, 1024]", "[512, 1024, 1536]"), ("repetitions: 2", "repetitions: 5"), ("idle: 40ms", "idle: 300ms"))
COMMAND = [sys.executable, "-m", "rayscale.cli", "run", "tiny.yaml", "--json", "--no-report"]


def write_sweep(directory: Path, *changes: tuple[str, str]) -> Ledger:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (directory / "tiny.yaml").write_text(text, encoding="utf-8")
    return Ledger(directory / "results" / "tiny")


@contextmanager
def driver(directory: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """Run the sweep on the cluster."""
    disk = {"RAYSCALE_CACHE": str(directory / "disk-driver"), "RAY_ADDRESS": address}  # as in a job of the cluster
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | LOOPBACK | disk,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def device_of(record: Record) -> str:
    return str(record.environment["binding"]["device"])


def await_attached(ledger: Ledger, process: subprocess.Popen[str]) -> None:
    """Wait until the run asks the nodes whether they see its ledger; one that comes from now on joins it."""
    deadline = time.monotonic() + 120
    while ledger.storage.read(TOKEN) is None and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)


def await_unfinished_block(ledger: Ledger, device: str, process: subprocess.Popen[str]) -> int:
    """Wait until a device has finished the first trial of a block, and no more than that."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if ledger.storage.read("plan.json"):
            begun: dict[int, list[str]] = defaultdict(list)
            for record in ledger.records():
                begun[record.block].append(device_of(record))
            for block, devices in begun.items():
                if devices == [device]:
                    return block
        time.sleep(0.02)
    pytest.fail(f"no block on {device}: {process.communicate()[1]}")


def test_a_lost_node_costs_its_block_only_and_a_joining_node_is_used(tmp_path: Path) -> None:
    doors = open_doors()
    ledger = write_sweep(tmp_path, *CHANGES)
    with cluster_host(tmp_path) as cluster:
        address = cluster.tell("add", "a", "2", "cpu:a-0")
        cluster.tell("add", "b", "2", "cpu:b-0")
        with driver(tmp_path, address) as process:
            await_attached(ledger, process)
            cluster.tell("add", "c", "2", "cpu:c-0")
            block = await_unfinished_block(ledger, "cpu:b-0", process)
            assert open_doors() <= doors  # nothing we start listens beyond loopback
            cluster.tell("kill", "b")
            before = {record.trial_key: record for record in ledger.records()}
            stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert (document["planned"], document["before"], document["completed"]) == (15, 0, 15)
    after = {record.trial_key: record for record in ledger.records()}
    check_blocks(list(after.values()))
    assert "cpu:c-0" in {device_of(record) for record in after.values()}
    check_redone(ledger, block, before, after)
    with sqlite3.connect(tmp_path / "results" / "mlflow.db") as database:
        runs = database.execute(
            "select tags.value, status from runs join tags using (run_uuid) where tags.key = 'rayscale.trial_key'"
        ).fetchall()
    assert sorted(runs) == sorted((key, "FINISHED") for key in after)
    assert f"block {block}: cpu:b-0 is gone" in stderr
    assert re.search(r"cpu:c-0 on \S+ joins", stderr)


def check_blocks(records: list[Record]) -> None:
    """Each block sits on one device, in its planned order, in the analysis too."""
    blocks: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        blocks[record.block].append(record)
    for block in blocks.values():
        assert len(block) == 3
        assert len({device_of(record) for record in block}) == 1
        assert len({record.device.uuid for record in block}) == 1  # the column that the analysis reads
        assert all(record.environment["binding"]["by"] == "resource" for record in block)
        ordered = sorted(block, key=lambda record: record.phases[0].start)
        assert [record.run_order for record in ordered] == sorted(record.run_order for record in block)


def check_redone(ledger: Ledger, block: int, before: dict[str, Record], after: dict[str, Record]) -> None:
    """The lost block was done again as a whole, and nothing else was."""
    for key, record in before.items():
        if record.block != block:
            assert after[key] == record
            continue
        assert device_of(after[key]) != "cpu:b-0"
        assert after[key].attempt > record.attempt
        kept = ledger.storage.read(f"trials/{key}/attempt-{record.attempt}/superseded.json")
        assert kept is not None
        assert Record.from_json(kept.decode()) == record
    assert any(record.block == block for record in before.values())
