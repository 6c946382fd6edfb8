"""The synthetic ledgers of `tests/ledgers.py`, and counting rows of MLflow's database."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

TABLES = ("runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets", "experiments")


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def count_rows() -> Callable[[Path], dict[str, int]]:
    def count(database: Path) -> dict[str, int]:
        with closing(sqlite3.connect(database)) as connection:
            return {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES}

    return count


@pytest.fixture(scope="session")
def write_log() -> Callable[..., None]:
    """Write the progress lines that a trial would have left."""

    def write(ledger, trial_key: str, steps: int = 8) -> None:
        train = next(phase for phase in ledger.record(trial_key).phases if phase.name == "train")
        lines = [{"event": "phase", "t": train.start, "name": "train"}]
        for step in range(1, steps + 1):
            at = train.start + (train.end - train.start) * step / steps
            lines.append(
                {"event": "step", "t": at, "step": step, "tokens": 64 * step, "loss": 7 / step, "tokens_per_s": 9e3}
            )
        path = ledger.attempt_directory(trial_key, 1) / "log.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return write
