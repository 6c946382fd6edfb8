"""A cap on device-hours stops a running sweep at a block boundary; a higher cap continues it. Real Ray, real trials."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.accounting import account_ledger
from rayscale.ledger import Ledger
from rayscale.sweep.stopping import open_stopping

pytestmark = pytest.mark.e2e


def run(directory: Path, repetitions: int, cap_hours: float | None) -> tuple[dict, str]:
    text = TINY.replace("  repetitions: 2", f"  repetitions: {repetitions}")
    # Most of a trial is its two idle phases, whose length does not hang on what else this machine does.
    text = text.replace("idle: 40ms", "idle: 400ms")
    budget = "" if cap_hours is None else f"budget: {{gpu_hours: {cap_hours!r}}}\n"
    (directory / "tiny.yaml").write_text(text + budget, encoding="utf-8")
    command = [sys.executable, "-m", "rayscale.cli", "run", "tiny.yaml", "--json", "--no-report"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=directory)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), " ".join(result.stderr.split())


def hours(ledger: Ledger) -> float:
    return account_ledger(ledger, ledger.read_plan()).sweep.total.seconds / 3600


def test_the_cap_stops_the_sweep_before_it_is_reached_and_a_higher_one_continues(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results" / "tiny")
    run(tmp_path, 2, None)  # 2 blocks say what a block takes here and now
    cap = hours(ledger) * 2.2

    planned = 14  # far more than the cap allows, also when the machine gets faster meanwhile
    document, said = run(tmp_path, planned, cap)
    done = len(ledger.records())
    assert 4 < done < 2 * planned
    assert done % 2 == 0, "it stops at a block boundary"
    assert document["completed"] == done - 4
    assert document["failed"] == {}
    assert "gpu_hours are spent" in document["stopped"]
    assert "the sweep stops here" in said
    assert hours(ledger) <= cap
    again = open_stopping(ledger.read_plan(), ledger, print)
    assert not again.may_start(0), "the same cap again starts nothing"
    assert "gpu_hours are spent" in str(again.stopped())

    document, _ = run(tmp_path, done // 2 + 1, 100 * cap)
    assert document["stopped"] is None
    assert len(ledger.records()) == done + 2
