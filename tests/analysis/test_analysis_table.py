from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rayscale.analysis.efficiency import METRICS, is_energy_column, mechanical_exponent
from rayscale.analysis.table import BASE_COLUMNS, ledger_frame, read_table
from rayscale.errors import InputError
from rayscale.record import Record, flatten
from rayscale.spec import ReportSpec, SweepSpec

Specs = Callable[..., SweepSpec]
Records = Callable[..., list[Record]]


def test_one_row_per_record_with_all_metrics(make_spec: Specs, make_records: Records) -> None:
    records = make_records(make_spec())
    report = ReportSpec(grid_g_per_kwh=400, price_per_kwh=0.3)
    frame = ledger_frame(records, {"j_per_nat": "energy_j / eval_loss"}, report)
    assert len(frame) == len(records)
    row, first = frame.iloc[0], flatten(records[0])
    assert row["inverse_perplexity"] == pytest.approx(math.exp(-first["eval_loss"]))
    assert row["joules_per_token"] == pytest.approx(first["energy_j"] / first["trained_tokens"])
    assert row["tokens_per_joule"] * row["joules_per_token"] == pytest.approx(1)
    expected = 0.1 / (first["perplexity"] * 2 * first["power_rms_w"] * first["duration_s"] / 60)
    assert row["pee"] == pytest.approx(expected)
    # constant power: W·min is 60 W·s, Wh is 3600
    assert row["pee_energy"] == pytest.approx(expected * 60)
    assert row["nats_per_kj"] == pytest.approx((8 - first["eval_loss"]) / first["energy_j"] * 1000)
    assert row["energy_delay_product"] == pytest.approx(first["energy_j"] * first["duration_s"])
    assert row["co2e_g"] == pytest.approx(first["energy_j"] / 3.6e6 * 400)
    assert row["cost"] == pytest.approx(first["energy_j"] / 3.6e6 * 0.3)
    assert row["j_per_nat"] == pytest.approx(first["energy_j"] / first["eval_loss"])


def test_missing_inputs_are_nan_never_zero(make_spec: Specs, make_records: Records) -> None:
    frame = ledger_frame(make_records(make_spec(), energy_j=None), {"u": "energy_j * 2"})
    energy = ("pee", "pee_energy", "joules_per_token", "tokens_per_joule", "nats_per_kj", "co2e_g", "cost")
    for name in (*energy, "mfu", "u"):
        assert frame[name].isna().all(), name
        assert frame[name].dtype == "float64", name
    assert frame["inverse_perplexity"].notna().all()


def test_zero_energy_divides_nothing(make_spec: Specs, make_records: Records) -> None:
    frame = ledger_frame(make_records(make_spec(), energy_j=0.0))
    assert frame["tokens_per_joule"].isna().all()
    assert (frame["joules_per_token"] == 0).all()


def test_columns_do_not_depend_on_the_data(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec({"tokens": [1000, 2000], "train.precision": ["fp32", "bf16"]})
    records = make_records(spec)
    assert set(BASE_COLUMNS) | {"train.precision"} == set(flatten(records[0]))
    assert set(ledger_frame([]).columns) == set(BASE_COLUMNS) | set(METRICS)
    assert set(ledger_frame(records).columns) == set(BASE_COLUMNS) | set(METRICS) | {"train.precision"}


def test_cost_needs_what_is_priced() -> None:
    row = {"energy_j": 3.6e6, "duration_s": 7200.0, "pue": 1.5, "price_per_kwh": 0.2, "price_per_gpu_hour": 2.0}
    assert METRICS["cost"].of(row) == pytest.approx(0.3 + 4.0)
    assert METRICS["cost"].of(row | {"price_per_kwh": None}) == pytest.approx(4.0)
    assert METRICS["cost"].of(row | {"energy_j": None}) is None
    assert METRICS["cost"].of({"energy_j": 1.0, "duration_s": 1.0, "pue": 1.0}) is None
    assert METRICS["co2e_g"].of(row | {"grid_g_per_kwh": 100}) == pytest.approx(150)


def test_which_measures_are_energy_and_which_trends_mechanical() -> None:
    assert {"energy_j", "power_rms_w", "idle_w", "net_energy_j"} <= {n for n in BASE_COLUMNS if is_energy_column(n)}
    assert not any(is_energy_column(name) for name in ("perplexity", "duration_s", "power_samples", "energy_method"))
    assert is_energy_column("pee")
    assert not is_energy_column("inverse_perplexity")
    assert mechanical_exponent("pee") == -1
    assert mechanical_exponent("energy_j") == 1
    assert mechanical_exponent("perplexity") is None


def test_wrong_user_metrics_are_all_reported(make_spec: Specs, make_records: Records) -> None:
    with pytest.raises(InputError) as caught:
        ledger_frame(make_records(make_spec()), {"pee": "1 + 1", "u": "energi_j * 2", "v": "steps / 2"})
    assert len(caught.value.problems) == 2
    assert "analysis.metrics.pee: `pee` is already a column" in caught.value.problems
    assert "did you mean `energy_j`" in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_reads_tables(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"s": ["a", "a", "b"], "tokens": ["500K", "1M", "500K"], "y": [1000000000000.1, 2.5, 3.0]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text(json.dumps(frame.to_dict("records")))
    found = read_table(path)
    assert found.to_dict("records") == frame.to_dict("records")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "a", "expected a table as .csv"),
        ("none.csv", None, "no such file"),
        ("t.csv", "", "cannot read the table"),
        ("t.csv", "a,b\n", "no rows"),
        ("t.json", "{", "cannot read the table"),
        ("t.json", "[1, 2]", "expected a JSON list of rows"),
        ("t.json", '{"a": [1], "b": [1, 2]}', "cannot read the table"),
        ("t.parquet", "no parquet", "cannot read the table"),
    ],
)
def test_unreadable_tables_are_one_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
