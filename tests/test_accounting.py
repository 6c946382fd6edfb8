"""Accounts of ledgers: against the records, with failed attempts, without traces; and where they are shown."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ledgers import example_spec, make_ledger

from rayscale.accounting import account_ledger, accounting_of, budget_state
from rayscale.analysis.accounting import add_accounts
from rayscale.analysis.accounting_tree import accounting_text, budget_lines
from rayscale.cli import run_command
from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Failure, Ledger
from rayscale.rendering import render_status

PRICES = {
    "grid_g_per_kwh": 380.0,
    "grid_source": "utility",
    "grid_year": 2024,
    "pue": 1.2,
    "price_per_kwh": 0.3,
    "price_per_gpu_hour": 1.2,
    "currency": "EUR",
    "regions": [
        {"name": "Quebec", "g_per_kwh": 3.9, "source": "x", "year": 2023},
        {"name": "West Virginia", "g_per_kwh": 893.0, "source": "x", "year": 2023},
    ],
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A GPU sweep of 3 x 3 trials with prices; one more attempt crashed, its counter 3 % above its power."""
    made = make_ledger(tmp_path_factory.mktemp("accounts"), example_spec(3, report=PRICES), estimated=False)
    key = made.read_plan().trials[0].trial_key
    crashed = made.new_attempt(key)
    directory = made.attempt_directory(key, crashed)
    trace = pq.read_table(made.attempt_directory(key, 1) / "power.parquet")
    column = trace.schema.get_field_index("energy_j")
    pq.write_table(
        trace.set_column(column, trace.schema.field(column), pc.multiply(trace.column(column), 1.03)),
        directory / "power.parquet",
    )
    made.write_failure(key, crashed, Failure("crashed", "killed by a test", "2026-01-10T10:00:00+00:00"))
    return made


def test_the_accounts_are_those_of_the_records(ledger: Ledger) -> None:
    """Trials, levels and sweep agree with sums made from the records directly, to 1e-9."""
    plan = ledger.read_plan()
    records = ledger.records(plan)
    found = account_ledger(ledger, plan)
    for record in records:
        account = found.trials[record.trial_key]
        for name, phase in record.energy.phases.items():
            assert account.parts[name].energy == pytest.approx(phase.energy_j, rel=1e-9)
            assert account.parts[name].seconds == pytest.approx(record.phase_seconds(name), rel=1e-9)  # type: ignore[arg-type]
        span = record.phases[-1].end - record.phases[0].start
        settling = account.parts["settling"].seconds
        assert account.total.seconds - settling == pytest.approx(span, rel=1e-9)
    train = math.fsum(record.energy.phases["train"].energy_j or 0 for record in records)
    assert found.sweep.parts["train"].energy == pytest.approx(train, rel=1e-9)
    assert found.sweep.operations.training == pytest.approx(math.fsum(r.training.flops for r in records), rel=1e-9)
    everything = add_accounts(found.levels.values())
    assert everything.total.energy_j == pytest.approx(found.sweep.total.energy_j, rel=1e-9)
    assert everything.total.seconds == pytest.approx(found.sweep.total.seconds, rel=1e-9)


def test_a_failed_attempt_is_paid_for(ledger: Ledger) -> None:
    found = account_ledger(ledger, ledger.read_plan())
    (lost,) = found.lost
    assert lost.reason == "crashed"
    assert lost.part.seconds > 1
    assert lost.part.energy is not None
    # the same trace as the accepted attempt, from its first sample to its last
    accepted = found.trials[lost.trial_key].total
    assert lost.part.energy == pytest.approx(accepted.energy_j, rel=0.05)
    assert found.sweep.parts["failed"] == lost.part


def test_attempts_are_measured_by_the_sweeps_own_thresholds(ledger: Ledger) -> None:
    """A counter that the sweep file does not believe is not what its failed attempts are charged by."""
    plan = ledger.read_plan()
    strict = plan.spec.energy.model_copy(update={"max_counter_deviation": 0.01})
    doubting = Plan(
        plan.spec, tuple(replace(one, spec=one.spec.model_copy(update={"energy": strict})) for one in plan.trials)
    )
    energies = [account_ledger(ledger, one).lost[0].part.energy_j for one in (plan, doubting)]
    assert energies[0] == pytest.approx(1.03 * energies[1], rel=1e-3)


@pytest.fixture
def older(ledger: Ledger, tmp_path: Path) -> Ledger:
    """The same ledger, its records made before they held the time outside phases."""
    copy = Ledger(shutil.copytree(ledger.root, tmp_path / ledger.name))
    for record in copy.records():
        energy = record.energy.model_copy(update={"outside": {}})
        copy.write_record(record.model_copy(update={"energy": energy}))
    return copy


def test_older_records_are_measured_from_their_traces(ledger: Ledger, older: Ledger) -> None:
    stored, measured = (account_ledger(one, one.read_plan()).sweep.parts for one in (ledger, older))
    for name in ("settling", "between"):
        assert measured[name].seconds == pytest.approx(stored[name].seconds, rel=1e-9)
        assert measured[name].energy == pytest.approx(stored[name].energy, rel=0.05)


def test_older_records_without_traces_have_no_energy_between_phases(ledger: Ledger, older: Ledger) -> None:
    for trace in older.root.rglob("power.parquet"):
        trace.unlink()
    found = account_ledger(older, older.read_plan())
    assert found.sweep.parts["between"].energy is None
    assert found.sweep.total.energy is None
    assert found.sweep.parts["train"].energy == pytest.approx(
        account_ledger(ledger, ledger.read_plan()).sweep.parts["train"].energy_j
    )
    assert found.lost[0].part.seconds == 0


def test_it_shows_in_json_text_and_report(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["analyze", str(ledger.root), "--json", "-", "--spend", "1kWh"]) == 0
    tree = json.loads(capsys.readouterr().out)
    sweep = tree["accounting"]["sweep"]
    assert sweep["co2e_g"]["stated"] == pytest.approx(sweep["energy_kwh"] * 1.2 * 380, rel=1e-9)
    ratio = sweep["co2e_g"]["West Virginia"] / sweep["co2e_g"]["Quebec"]
    assert ratio == pytest.approx(893 / 3.9, rel=1e-9)
    assert sweep["cost"] == pytest.approx(sweep["energy_kwh"] * 1.2 * 0.3 + sweep["device_hours"] * 1.2, rel=1e-9)
    assert tree["purchases"][0]["label"] == "50000"
    assert run_command(["analyze", str(ledger.root)]) == 0
    text = capsys.readouterr().out
    assert "What it took" in text
    assert "kg CO2e, grid Quebec" in text
    assert run_command(["report", str(ledger.root)]) == 0
    page = (ledger.root / "report.html").read_text(encoding="utf-8")
    for words in ("What the sweep took", "What the loss cost", "West Virginia", "pareto-energy", "utility"):
        assert words in page


def test_no_section_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    bare = make_ledger(tmp_path, example_spec(1))
    assert run_command(["report", str(bare.root)]) == 0
    page = (bare.root / "report.html").read_text(encoding="utf-8")
    assert "What the loss cost" not in page  # one block: no interval, no front
    assert "(grid: " not in page
    assert "table-grids" not in page


def test_status_shows_the_budget_while_running_and_after(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Spent is what the accounts say; an attempt without an end is told apart; what was not given is null."""
    sweep = account_ledger(ledger, ledger.read_plan()).sweep.total
    assert run_command(["status", str(ledger.root), "--json"]) == 0
    budget = json.loads(capsys.readouterr().out)["budget"]
    assert budget["gpu_hours"]["spent"] == pytest.approx(sweep.seconds / 3600, rel=1e-9)
    assert budget["kwh"]["spent"] == pytest.approx(sweep.energy_j / 3.6e6, rel=0.02)
    money = budget["kwh"]["spent"] * 1.2 * 0.3 + budget["gpu_hours"]["spent"] * 1.2
    assert budget["money"]["spent"] == pytest.approx(money, rel=1e-9)
    assert [budget[name]["cap"] for name in budget] == [None] * 3
    assert budget["gpu_hours"]["in_progress"] == 0
    assert run_command(["status", str(ledger.root)]) == 0
    assert "kWh (no cap)" in capsys.readouterr().out


def test_the_caps_show_in_text_and_report(ledger: Ledger) -> None:
    plan = plan_sweep(example_spec(3, report=PRICES, budget={"gpu_hours": 4, "money": 10}))
    tree = accounting_of(ledger, plan, ledger.records(plan))
    assert tree["budget"]["kwh"] == {"spent": pytest.approx(tree["sweep"]["energy_kwh"]), "cap": None}
    assert tree["budget"]["money"]["spent"] == pytest.approx(tree["sweep"]["cost"])
    line = f"budget: {tree['sweep']['device_hours']:.4g} of 4 device-hours, {tree['sweep']['cost']:.4g} of 10 EUR spent"
    assert line in accounting_text(tree)
    assert budget_lines(tree) == [line]
    assert budget_lines(accounting_of(ledger, ledger.read_plan(), ledger.records())) == []


def test_the_budget_counts_what_has_begun_apart(ledger: Ledger, tmp_path: Path) -> None:
    running = Ledger(shutil.copytree(ledger.root, tmp_path / ledger.name))
    capped = example_spec(3, report={"price_per_kwh": 0.3}, budget={"kwh": 2.0})
    plan = plan_sweep(capped)
    before = budget_state(running, plan)
    key = plan.trials[-1].trial_key
    source = running.attempt_directory(key, 1) / "power.parquet"
    shutil.copy(source, running.attempt_directory(key, running.new_attempt(key)) / "power.parquet")
    (running.root / "trials" / key / "record.json").unlink()
    shutil.rmtree(running.attempt_directory(key, 1))
    after = budget_state(running, plan)
    assert after["kwh"]["spent"] < before["kwh"]["spent"]  # type: ignore[operator]
    begun, missing = after["kwh"]["in_progress"], before["kwh"]["spent"] - after["kwh"]["spent"]  # type: ignore[operator]
    assert begun == pytest.approx(missing, rel=0.05)
    assert (after["kwh"]["cap"], after["money"]["cap"]) == (2.0, None)
    running.new_attempt(key)  # the one before was killed without a word
    assert budget_state(running, plan)["kwh"]["spent"] == pytest.approx(after["kwh"]["spent"] + begun, rel=1e-9)  # type: ignore[operator]
    text = render_status(running, plan, running.status(plan), None, {}, after)
    assert f"{after['kwh']['spent']:.4g} of 2 kWh" in text
    unknown = {**after, "kwh": {**after["kwh"], "spent": None}}
    assert "kWh not known for all of the time (cap 2)" in render_status(
        running, plan, running.status(plan), None, {}, unknown
    )
    assert "by attempts that have not ended" in text
