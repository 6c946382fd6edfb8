"""Accounts add up, have the right dimensions, and invent nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.accounting import (
    OPERATIONS,
    Account,
    LostAttempt,
    Operations,
    Part,
    account_sweep,
    add_accounts,
    device_hours,
    operations_of,
    phase_parts,
    rule_6nd,
)
from rayscale.analysis.accounting_tree import account_tree, accounting_text, accounting_tree
from rayscale.analysis.grid import G_PER_KWH_OF_LB_PER_MWH, lookup
from rayscale.analysis.rates import Grid, Rates, bill, bill_of, rates_of
from rayscale.errors import InputError
from rayscale.record import Phase, PhaseEnergy, Record
from rayscale.spec import ReportSpec, SweepSpec

Specs = Callable[..., SweepSpec]
Records = Callable[..., list[Record]]

sizes = st.floats(0, 1e9, allow_subnormal=False)
parts = st.builds(Part.of, sizes, st.none() | sizes, st.none() | sizes)
accounts = st.builds(
    Account,
    st.builds(Operations, *(st.floats(0, 1e24) for _ in OPERATIONS)),
    st.dictionaries(st.sampled_from(["train", "eval", "warmup", "idle", "failed"]), parts, min_size=1),
    st.integers(0, 5),
    st.integers(0, 10**12),
)
RATES = Rates(1.2, "meter", 2024, (Grid("A", 400.0), Grid("B", 4.0), Grid("C", None)), 0.3, 2.5, "EUR")


@given(st.lists(accounts, min_size=1, max_size=8))
def test_sums_of_accounts_are_the_sums_of_their_numbers(found: list[Account]) -> None:
    """Trials add up to levels and sweep, and parts to the whole, whatever the grouping: to 1e-9."""
    whole = add_accounts(found)
    regrouped = add_accounts([add_accounts(found[:2]), add_accounts(found[2:])])
    for name in ("seconds", "energy_j", "bound_j", "unknown_s", "unbounded_s"):
        direct = math.fsum(getattr(part, name) for account in found for part in account.parts.values())
        for total in (whole.total, regrouped.total):
            assert getattr(total, name) == pytest.approx(direct, rel=1e-9, abs=1e-9)
    for name in OPERATIONS:
        direct = math.fsum(getattr(account.operations, name) for account in found)
        assert getattr(whole.operations, name) == pytest.approx(direct, rel=1e-9, abs=1e-9)
    assert (whole.total.energy is None) == any(part.unknown_s > 0 for one in found for part in one.parts.values())
    main = math.fsum(part.seconds for one in found for name, part in one.parts.items() if name in ("train", "eval"))
    assert whole.overhead.seconds + main == pytest.approx(whole.total.seconds, rel=1e-9, abs=1e-9)


@given(st.lists(accounts, min_size=1, max_size=6))
def test_carbon_and_money_of_the_trials_are_those_of_the_sweep(found: list[Account]) -> None:
    bills = [bill(one.total, RATES) for one in found]
    whole = bill(add_accounts(found).total, RATES)
    known = [one.facility_kwh for one in bills]
    assert (whole.facility_kwh is None) == (None in known)
    assert whole.device_cost == pytest.approx(math.fsum(one.device_cost or 0 for one in bills), rel=1e-9, abs=1e-9)
    assert whole.co2e_g["C"] is None
    if None not in known:
        for grid in ("A", "B"):
            direct = math.fsum(one.co2e_g[grid] or 0 for one in bills)
            assert whole.co2e_g[grid] == pytest.approx(direct, rel=1e-9, abs=1e-9)
        total = math.fsum(one.cost(RATES) or 0 for one in bills)
        assert whole.cost(RATES) == pytest.approx(total, rel=1e-9, abs=1e-9)


DIMENSIONS = {  # output: exponents of the units of time, energy, price of energy, price of time, intensity, PUE
    "device_hours": (1, 0, 0, 0, 0, 0),
    "energy_kwh": (0, 1, 0, 0, 0, 0),
    "bound_kwh": (0, 1, 0, 0, 0, 0),
    "facility_kwh": (0, 1, 0, 0, 0, 1),
    "electricity_cost": (0, 1, 1, 0, 0, 1),
    "device_cost": (1, 0, 0, 1, 0, 0),
    "co2e_g": (0, 1, 0, 0, 1, 1),
}


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("name", DIMENSIONS)
def test_dimensions(name: str, axis: int) -> None:
    """A unit k times smaller makes numbers k times larger exactly where the quantity has that unit."""
    k = 1.7

    def output(scales: list[float]) -> float:
        time, energy, kwh_price, hour_price, grams, pue = scales
        part = Part.of(7200.0 * time, 5e6 * energy, 1e5 * energy)
        rates = Rates(1.2 * pue, None, None, (Grid("A", 400.0 * grams),), 0.3 * kwh_price, 2.5 * hour_price)
        tree = account_tree(Account(parts={"train": part}, trials=1), rates)
        return tree[name]["A"] if name == "co2e_g" else tree[name]

    scaled = [k if index == axis else 1.0 for index in range(6)]
    assert output(scaled) / output([1.0] * 6) == pytest.approx(k ** DIMENSIONS[name][axis], rel=1e-12)


def test_absolute_units() -> None:
    """1 kW for 2 h is 2 kWh; at PUE 1.5 and 400 g/kWh that is 1.2 kg; at 0.30 per kWh and 2 per hour it costs 4.90."""
    rates = Rates(1.5, None, None, (Grid("A", 400.0),), 0.3, 2.0)
    tree = account_tree(Account(parts={"train": Part.of(7200.0, 7.2e6, 7.2e4)}, trials=1), rates)
    assert (tree["device_hours"], tree["energy_kwh"]) == (2.0, 2.0)
    assert tree["bound_kwh"] == pytest.approx(0.02)
    assert tree["facility_kwh"] == pytest.approx(3.0)
    assert tree["co2e_g"]["A"] == pytest.approx(1200.0)
    assert tree["cost"] == pytest.approx(0.9 + 4.0)


def test_the_numbers_of_a_large_model() -> None:
    """7e9 parameters x 1.4e12 tokens: 5.88e22 FLOP, and 108,889 device-hours at 150 TFLOP/s."""
    flops = rule_6nd(7e9, 1.4e12)
    assert flops == pytest.approx(5.88e22, rel=1e-15)
    assert round(device_hours(flops, 150.0)) == 108_889


def test_phases_equal_trials(make_spec: Specs, make_records: Records) -> None:
    """The span of an attempt is the sum of its parts, the gaps between phases among them."""
    record = make_records(make_spec())[0]
    phases = [
        Phase(name="idle", start=0.0, end=2.0),
        Phase(name="eval", start=2.5, end=3.0),
        Phase(name="train", start=3.0, end=9.0),
        Phase(name="eval", start=9.25, end=10.0),
    ]
    energies = {
        "idle": PhaseEnergy(duration_s=2.0, energy_j=10.0, bound_j=1.0),
        "eval": PhaseEnergy(duration_s=1.25, energy_j=20.0),
        "train": PhaseEnergy(duration_s=6.0, energy_j=600.0, bound_j=6.0),
    }
    energy = record.energy.model_copy(update={"phases": energies})
    found = phase_parts(record.model_copy(update={"phases": phases, "energy": energy}))
    assert {name: part.seconds for name, part in found.items()} == {
        "idle": 2.0,
        "eval": 1.25,
        "train": 6.0,
        "between": 0.75,
    }
    assert (found["eval"].energy, found["eval"].bound, found["between"].energy) == (20.0, None, None)


def test_operations_are_split(make_spec: Specs, make_records: Records) -> None:
    record = make_records(make_spec())[0]
    attention = record.model_copy(update={"training": record.training.model_copy(update={"flops": 1e13})})
    found = operations_of(attention)
    tokens = record.training.trained_tokens
    assert found.matmul == 6 * 1.5e6 * tokens
    assert found.matmul + found.attention == found.training == 1e13
    assert found.matmul + found.embedding == found.rule_6nd
    assert found.evaluation == pytest.approx(2 * 1024 * 1e13 / tokens / 3)  # before and after, a third of training


def test_levels_and_failed_attempts_make_the_sweep(make_spec: Specs, make_records: Records) -> None:
    records = make_records(make_spec())
    lost = LostAttempt(records[0].trial_key, 1, "crashed", records[0].condition, Part.of(30.0, 900.0, 9.0))
    found = account_sweep(records, [lost])
    assert found.sweep.total.seconds == pytest.approx(sum(r.phase_seconds("train") for r in records) + 30.0)
    assert found.sweep.total.energy == pytest.approx(
        sum(r.energy.phases["train"].energy_j or 0 for r in records) + 900.0
    )
    levels = add_accounts(found.levels.values())
    assert levels.total.energy_j == pytest.approx(found.sweep.total.energy_j, rel=1e-12)
    assert (
        (levels.trials, levels.tokens)
        == (found.sweep.trials, found.sweep.tokens)
        == (12, sum(r.training.trained_tokens for r in records))
    )
    tree = accounting_tree(found, Rates(), records)
    assert list(tree["levels"]) == ["tokens=500000", "tokens=1000000", "tokens=2000000"]
    assert tree["overhead"]["parts"] == {"failed": tree["sweep"]["parts"]["failed"]}
    assert tree["lost_attempts"][0]["reason"] == "crashed"
    assert tree["hardware"]["cpu"]["devices"] == 1
    json.dumps(tree, allow_nan=False)
    assert "failed and repeated attempts" in accounting_text(tree)


def test_nothing_is_invented(make_spec: Specs, make_records: Records) -> None:
    records = make_records(make_spec(), energy_j=None)
    tree = accounting_tree(account_sweep(records), Rates(), records)
    sweep = tree["sweep"]
    for name in ("energy_kwh", "bound_kwh", "facility_kwh", "cost", "electricity_cost", "device_cost", "host_kwh"):
        assert sweep[name] is None, name
    assert sweep["co2e_g"] == {}
    assert sweep["unknown_hours"] == sweep["device_hours"] > 0
    notes = " ".join(tree["notes"])
    for words in ("no cost", "no CO2e", "is not known", "PUE 1"):
        assert words in notes
    assert "n/a" in accounting_text(tree)


def test_a_price_without_energy_gives_no_cost() -> None:
    rates = Rates(price_per_kwh=0.3, price_per_gpu_hour=2.0)
    assert bill_of(1.0, None, rates).cost(rates) is None
    only_hours = replace(rates, price_per_kwh=None)
    assert bill_of(1.0, None, only_hours).cost(only_hours) == 2.0


DATA: dict[str, Any] = {
    "global_energy_mix.json": {"DEU": {"carbon_intensity": 380.95, "country_name": "Germany", "year": 2023}},
    "nordic_emissions.json": {"data": {"SE3": {"emission_factor": 27.0, "description": "Sweden 3", "year": 2025}}},
    "2023/usa_emissions.json": {"_source": {"name": "eGRID2023", "year": 2023}, "west virginia": {"emissions": 2000.0}},
    "2023/canada_energy_mix.json": {
        "quebec": {"coal": 0.0, "petroleum": 0.5, "naturalGas": 0.5, "hydro": 99.0, "total": 100.0}
    },
    "2023/china_provincial_emissions.json": {
        "data": {"CN-BJ": {"emission_factor": 555.4, "year": 2023, "names": ["beijing"]}}
    },
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files in the format of codecarbon 3.3."""
    for name, content in DATA.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("code", "grams", "year"),
    [
        ("DEU", 380.95, 2023),
        ("SWE/SE3", 27.0, 2025),
        ("USA/West Virginia", 2000 * G_PER_KWH_OF_LB_PER_MWH, 2023),
        ("CAN/quebec", 0.005 * (816.6885263 + 743.8415916), 2023),
        ("CHN/beijing", 555.4, 2023),
    ],
)
def test_grids_of_the_data_set(data: Path, code: str, grams: float, year: int) -> None:
    found = lookup(code, data)
    assert found.g_per_kwh == pytest.approx(grams, rel=1e-12)
    assert found.year == year
    assert found.source.startswith("codecarbon")


@pytest.mark.parametrize("code", ["XXX", "USA/atlantis", "CAN/atlantis", "DEU/SE3", "CHN/x"])
def test_unknown_grids_are_refused_with_the_way_out(data: Path, code: str) -> None:
    with pytest.raises(InputError, match=r"report\.grid_g_per_kwh"):
        lookup(code, data)


def test_pounds_per_megawatt_hour() -> None:
    """1 lb = 0.45359237 kg exactly, so 1 lb/MWh = 453.59237 g / 1000 kWh."""
    assert pytest.approx(453.59237 / 1000, rel=1e-15) == G_PER_KWH_OF_LB_PER_MWH


def test_rates_of_a_sweep_file_keep_source_and_year() -> None:
    report = ReportSpec.model_validate(
        {
            "grid_g_per_kwh": 380,
            "grid_source": "utility",
            "grid_year": 2024,
            "country": "DE",
            "pue": 1.3,
            "pue_source": "operator",
            "regions": [
                {"name": "Quebec", "g_per_kwh": 3.9, "source": "x", "year": 2023},
                {"name": "?", "code": "XXX"},
            ],
        }
    )
    rates = rates_of(report)
    assert [(grid.name, grid.g_per_kwh) for grid in rates.grids] == [("DE", 380.0), ("Quebec", 3.9), ("?", None)]
    assert (rates.grids[0].source, rates.grids[0].year) == ("utility", 2024)
    assert any("no CO2e for ?" in note for note in rates.notes())
    with pytest.raises(ValueError, match="either `g_per_kwh`"):
        ReportSpec.model_validate({"regions": [{"name": "x"}]})
    with pytest.raises(ValueError, match="a different name"):
        ReportSpec.model_validate({"country": "DE", "regions": [{"name": "DE", "g_per_kwh": 1.0}]})
