"""Rows of trials that share a trunk: marked, explained, and summed over their parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rayscale.analysis.accounting import trial_account
from rayscale.analysis.run import analyze_records
from rayscale.analysis.table import BASE_COLUMNS, ledger_frame
from rayscale.analysis.text import render_text
from rayscale.record import Record, flatten
from rayscale.segments import Segment, Sharing, with_sharing
from rayscale.spec import SweepSpec

Records = Callable[..., list[Record]]
Specs = Callable[..., SweepSpec]
ANALYSIS = {"dv": ["joules_per_token", "perplexity", "mine"], "metrics": {"slow": "duration_s * 2", "mine": "slow + 1"}}


def share(records: list[Record]) -> list[Record]:
    """Let each record's training have begun with a part of half its tokens that another trial ran."""

    def shared(record: Record) -> Record:
        energy, half = record.energy.phases["train"], record.training.trained_tokens // 2
        trunk = Segment(trial_key="other", first_token=0, last_token=half, duration_s=2.0, energy_j=100.0, idle_w=5.0)
        own = Segment(
            trial_key=record.trial_key,
            first_token=half,
            last_token=record.training.trained_tokens,
            duration_s=record.phase_seconds("train"),
            energy_j=energy.energy_j,
            idle_w=5.0,
        )
        return record.model_copy(update={"sharing": Sharing(segments=[trunk, own], segment_tokens=half)})

    return [shared(record) for record in records]


def test_measures_of_time_and_energy_are_marked_as_dependent_and_losses_are_not(
    make_spec: Specs, make_records: Records
) -> None:
    spec = make_spec(analysis=ANALYSIS)
    tree = analyze_records(share(make_records(spec)), spec)
    for dv, independent in (("joules_per_token", False), ("perplexity", True), ("mine", False)):
        result = tree["results"][dv]
        assert result["shared_prefix"]["independent"] is independent
        assert result["shared_prefix"]["rows"] == 12
        assert result["plain"][0].startswith("WARNING: the rows of") is not independent
        assert any("12 of 12 trials began" in note for note in result["notes"])
    text = " ".join(render_text(tree).split())
    for dv in ("joules_per_token", "mine"):
        assert text.count(f"WARNING: the rows of {dv} are not independent") == 2  # before the numbers, and among them


def test_without_sharing_nothing_is_said(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(analysis=ANALYSIS)
    records = make_records(spec)
    result = analyze_records(records, spec)["results"]["joules_per_token"]
    assert "shared_prefix" not in result
    assert not any("share_prefix" in note for note in result["notes"])
    row = flatten(records[0])
    assert row["shared_prefix"] is False
    assert row["segment_tokens"] == row["trained_tokens"]
    assert row["segment_energy_j"] == row["energy_j"]


def test_trials_that_missed_their_state_are_named(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(analysis=ANALYSIS)
    records = share(make_records(spec))
    sharing = records[3].sharing
    assert sharing is not None
    records[3] = records[3].model_copy(update={"sharing": sharing.model_copy(update={"note": "gone"})})
    notes = analyze_records(records, spec)["results"]["perplexity"]["notes"]
    assert any(records[3].trial_key in note and "1 of them" in note for note in notes)


def test_a_row_adds_up_its_parts(make_spec: Specs, make_records: Records) -> None:
    record = make_records(make_spec(), peak=100.0)[0]
    plain, row = flatten(record), flatten(share([record])[0])
    assert set(plain) == set(row)
    assert set(BASE_COLUMNS) <= set(row) | {"trial_key"}
    assert row["duration_s"] == pytest.approx(plain["duration_s"] + 2.0)
    assert row["energy_j"] == pytest.approx(plain["energy_j"] + 100.0)
    assert row["segment_s"] == row["train_s"] == plain["duration_s"]
    assert row["segment_energy_j"] == plain["energy_j"]
    assert row["net_energy_j"] == pytest.approx(row["energy_j"] - 5.0 * row["duration_s"])
    assert row["mfu"] == pytest.approx(record.training.flops / row["duration_s"] / 1e12 / 100.0)
    assert row["tokens_per_s"] == pytest.approx(row["trained_tokens"] / row["duration_s"])
    assert row["energy_bound_j"] is None  # a part without a bound leaves the sum without one


def test_power_over_parts_is_weighted_by_time() -> None:
    parts = [
        Segment(trial_key="a", first_token=0, last_token=10, duration_s=1.0, energy_j=10.0, integral_j=10.0, rms_w=10),
        Segment(trial_key="b", first_token=10, last_token=40, duration_s=3.0, energy_j=90.0, integral_j=90.0, rms_w=30),
    ]
    row: dict[str, Any] = {"trained_tokens": 40, "duration_s": 3.0, "energy_j": 90.0, "mfu": None}
    whole = with_sharing(row, Sharing(segments=parts, segment_tokens=30))
    assert whole["power_mean_w"] == 25.0
    assert whole["power_rms_w"] == pytest.approx(math.sqrt((100 + 3 * 900) / 4))
    assert whole["net_energy_j"] is None


def test_the_table_of_an_empty_ledger_has_the_columns() -> None:
    columns = ledger_frame([]).columns
    assert {"shared_prefix", "segment_tokens", "segment_s", "segment_energy_j"} <= set(columns)


def test_the_account_of_a_sweep_counts_a_trunk_once(make_spec: Specs, make_records: Records) -> None:
    record = make_records(make_spec())[0]
    whole, half = trial_account(record), trial_account(share([record])[0])
    assert half.tokens == whole.tokens // 2
    assert half.operations.training == pytest.approx(whole.operations.training / 2)
    assert half.operations.evaluation == whole.operations.evaluation
    assert half.parts == whole.parts  # time and energy of the phases are what was run
