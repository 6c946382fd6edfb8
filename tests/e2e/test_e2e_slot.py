"""A slot killed in the middle of a trial: its trial comes again first, and standard output stays what `--json` says."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.ledger import Ledger

pytestmark = pytest.mark.e2e

CHANGES = (
    ("tokens: [512, 1024]", "tokens: [20_000, 20_032, 20_064]"),
    ("repetitions: 2", "repetitions: 1"),
    ("sequence_length: 32", "sequence_length: 32\n  max_epochs: 10"),
)


def parent_of(pid: int) -> int:
    stat = Path("/proc", str(pid), "stat").read_text(encoding="ascii")
    return int(stat.rpartition(")")[2].split()[1])


def trial_process(root: Path) -> int | None:
    """Find the process of a trial that is training."""
    for log in root.glob("trials/*/attempt-1/log.jsonl"):
        if '"train"' not in log.read_text(encoding="utf-8"):
            continue
        for process in Path("/proc").iterdir():
            try:
                links = [os.readlink(link) for link in (process / "fd").iterdir()] if process.name.isdigit() else []
            except OSError:
                continue
            if str(log) in links:
                return int(process.name)
    return None


def kill_slot(driver: subprocess.Popen[str], root: Path) -> None:
    """Kill the process that owns the fork server of the running trial."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()[1]
        trial = trial_process(root)
        if trial is not None:
            os.kill(parent_of(parent_of(trial)), signal.SIGKILL)
            return
        time.sleep(0.02)
    pytest.fail("no trial began")


def test_after_a_slots_death_the_block_goes_on_in_its_planned_order(tmp_path: Path) -> None:
    text = TINY
    for old, new in CHANGES:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "rayscale.cli", "run", "tiny.yaml", "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    ledger = Ledger(tmp_path / "results" / "tiny")
    try:
        kill_slot(driver, ledger.root)
        stdout, stderr = driver.communicate(timeout=150)
    finally:
        driver.kill()
    assert driver.returncode == 0, stderr
    assert json.loads(stdout)["completed"] == 3  # one JSON document and nothing else
    assert "Traceback" not in stderr
    assert "raylet" not in stderr
    assert "slot_died" in stderr
    records = ledger.records()
    assert [record.attempt for record in records] == [2, 1, 1]
    for earlier, later in itertools.pairwise(records):
        assert earlier.phases[-1].end <= later.phases[0].start
    first = ledger.failure(records[0].trial_key, 1)
    assert first is not None
    assert first.reason == "slot_died"
