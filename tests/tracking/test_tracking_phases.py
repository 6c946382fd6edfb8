"""Where a trial's time went is in three places: the ledger's table, MLflow, the figure of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import example_spec, make_ledger

from rayscale.record import flatten
from rayscale.report.plot_budget import budget, time_budget
from rayscale.tracking.trial_content import trial_content, trial_state

PARTS = {
    "import_s": "import",
    "build_s": "build",
    "data_s": "data",
    "compile_s": "compile",
    "warmup_s": "warm-up",
    "train_s": "train",
    "eval_s": "eval",
}


def test_every_part_of_a_trials_time_is_in_the_table_mlflow_and_the_report(tmp_path: Path) -> None:
    spec = example_spec(2)
    ledger = make_ledger(tmp_path, spec)
    plan, records = ledger.read_plan(), ledger.records()
    trial, record = plan.trials[0], ledger.record(plan.trials[0].trial_key)
    assert record is not None
    row = flatten(record)
    points = trial_content(ledger, trial, trial_state(ledger, trial.trial_key, active=False), spec).points
    sent = {point.key: point.value for point in points}
    drawn = budget("all", [record])
    for column, part in PARTS.items():
        assert row[column] is not None
        assert sent[column] == pytest.approx(row[column])
        expected = record.phase_seconds("eval") if part == "eval" else row[column]  # drawn: before and after training
        assert drawn.seconds[part] == pytest.approx(expected)
    assert drawn.total >= sum(row[column] for column in PARTS)
    legend = {text.get_text() for text in time_budget([budget("all", records)]).legends[0].get_texts()}
    assert legend >= {part for column, part in PARTS.items() if row[column] > 0}
    assert "train" in legend
