"""Prices of a study: arithmetic by hand, bases in their order, ranges that hold what a ledger then shows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import example_spec, make_ledger

from rayscale.accounting import account_ledger
from rayscale.analysis.rates import Grid, Rates
from rayscale.cli import run_command
from rayscale.design import Plan, plan_sweep
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.planning import Estimate, plan_document, trial_flops
from rayscale.pricing.basis import assumed_basis, basis_from_records, calibrated_basis, earlier_records, find_basis
from rayscale.pricing.document import price_document
from rayscale.pricing.hardware import HARDWARE, Range
from rayscale.pricing.price import Basis, price_beforehand, price_of, trial_price
from rayscale.pricing.text import stated_rates
from rayscale.rendering import render_plan

PLAN = plan_sweep(example_spec(4))
EXACT = Basis(
    kind="assumed",
    source="test",
    train_rate=Range.exact(1e12),
    eval_rate=Range.exact(2e12),
    busy_w=Range.exact(300.0),
    idle_w=Range.exact(50.0),
    load_s=Range.exact(3.0),
)
RATES = Rates(1.2, None, None, (Grid("A", 400.0), Grid("B", None)), 0.3, 2.0)


@pytest.fixture(scope="module")
def a100(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """4 blocks on a simulated A100, of a model whose FLOPs are those of the simulated records."""
    shape = {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 230}
    return make_ledger(tmp_path_factory.mktemp("priced"), example_spec(4, model={"config": shape}), estimated=False)


def test_a_trial_by_hand() -> None:
    trial = next(trial for trial in PLAN.trials if trial.tokens == 50_000)
    flops = trial_flops(trial)
    price = trial_price(trial, EXACT)
    assert flops is not None
    assert price is not None
    train = flops / 1e12
    warmup = flops / 50_000 * 4 * 128 * 2 / 1e12
    evaluation = 2 * flops / 50_000 / 3 * 16_384 / 2e12
    assert {name: value.typical for name, value in price.seconds.items()} == pytest.approx(
        {"train": train, "warmup": warmup, "eval": evaluation, "idle": 2.0, "load": 3.0}
    )
    assert price.joules == Range.exact(pytest.approx((train + warmup + evaluation) * 300 + 5.0 * 50))


def distilling(**teacher: object) -> Plan:
    """Three token counts with and without a teacher that the sweep trains itself."""
    treatments = {"plain": {}, "taught": {f"model.distill_from.{name}": value for name, value in teacher.items()}}
    design = {"factors": {"tokens": [12_500, 25_000]}, "treatments": treatments, "repetitions": 2}
    return plan_sweep(example_spec(2, design=design))


def test_a_teacher_and_its_training_are_priced() -> None:
    """Its forward passes in `train`; its own training once for all trials, and not again in further repetitions."""
    shape = {"tokens": 40_000, "config.hidden_size": 256}
    plan = distilling(**shape)
    taught = next(trial for trial in plan.trials if trial.condition["treatment"] == "taught")
    plain = next(one for one in plan.trials if one.condition == {**taught.condition, "treatment": "plain"})
    teacher = {"model": {"config": {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4}}}
    own = next(trial for trial in plan_sweep(example_spec(1, **teacher)).trials if trial.tokens == 25_000)
    per_token = trial_flops(own) / 25_000  # type: ignore[operator]
    prices = [trial_price(trial, EXACT) for trial in (taught, plain)]
    assert None not in prices
    more = prices[0].seconds["train"].typical - prices[1].seconds["train"].typical  # type: ignore[union-attr]
    assert more == pytest.approx(per_token / 3 * taught.tokens / 1e12, rel=1e-9)
    before = price_beforehand(plan.trials, EXACT)
    assert before is not None
    expected = per_token * 40_000 + per_token / 3 * 16_384  # its training and one evaluation
    assert before.seconds["beforehand"].typical == pytest.approx(expected / 1e12, rel=1e-9)
    assert before.joules == before.seconds["beforehand"].times(300.0)
    document = price_document(plan, EXACT, RATES)
    totals = document["totals"]
    assert totals["seconds"]["beforehand"] == asdict(before.seconds["beforehand"])
    seconds = sum(value["typical"] for value in totals["seconds"].values())
    assert totals["device_hours"]["typical"] == pytest.approx(seconds / 3600, rel=1e-12)
    assert "beforehand" not in document["more_repetitions"]["seconds"]
    assert any("nothing if it is cached" in note for note in document["notes"])
    assert price_beforehand(PLAN.trials, EXACT) is None


def test_the_plan_shows_teachers_and_models_trained_beforehand() -> None:
    plan = distilling(tokens=40_000)
    estimate = Estimate(
        1e-4, 5.0, 15.0, "a calibration", flops_per_token=trial_flops(PLAN.trials[0]) / PLAN.trials[0].tokens
    )  # type: ignore[operator]
    document = plan_document(plan, estimate, None)
    rows, totals = document["trials"], document["totals"]
    for row in rows:
        taught = row["condition"]["treatment"] == "taught"
        assert row["teacher_flops"] == (pytest.approx(row["flops"] / 3) if taught else 0.0)
        assert row["time_s"] == pytest.approx(5.0 + 1e-4 * row["tokens"] * (4 / 3 if taught else 1.0))
    assert totals["teacher_flops"] == pytest.approx(sum(row["teacher_flops"] for row in rows))
    (model,) = totals["beforehand"]["models"]
    assert (model["role"], model["tokens"]) == ("teacher", 40_000)
    assert totals["beforehand"]["time_s"] == pytest.approx(1e-4 * (40_000 + 16_384 / 3))
    assert totals["time_s"] == pytest.approx(sum(row["time_s"] for row in rows) + totals["beforehand"]["time_s"])
    text = render_plan(document)
    assert "FLOPs of a teacher's forward passes" in text
    assert "teacher on 40K tokens" in text


def test_shared_trunks_are_priced_once() -> None:
    """500K/1M/2M with 20 % cooldown run 500K + 600K + 1.2M tokens a block, and 2.4M more for 4M (4M less 1.6M)."""
    train = {"schedule": "wsd", "cooldown": 0.2, "batch_size": 2, "share_prefix": True}
    design = {"factors": {"tokens": ["500K", "1M", "2M"]}, "repetitions": 2}
    shared, apart = (
        price_document(plan_sweep(example_spec(2, design=design, train=train | {"share_prefix": share})), EXACT, RATES)
        for share in (True, False)
    )

    def train_s(document: dict, part: str) -> float:
        return document[part]["seconds"]["train"]["typical"]

    assert train_s(shared, "totals") / train_s(apart, "totals") == pytest.approx(2.3 / 3.5, rel=1e-3)
    assert train_s(shared, "more_repetitions") == pytest.approx(5 * train_s(shared, "totals"), rel=1e-9)
    assert train_s(shared, "next_level") / train_s(apart, "next_level") == pytest.approx(2.4 / 4, rel=1e-3)


def test_the_table_of_a_plan_keeps_keys_whole() -> None:
    factors = {"tokens": [12_500, 25_000], "model.config.hidden_size": [64, 128]}
    plan = plan_sweep(example_spec(2, design={"factors": factors, "repetitions": 2}))
    text = render_plan(plan_document(plan, None, None))
    assert all(trial.trial_key in text for trial in plan.trials)
    assert "hidden_size=128" in text
    assert "…" not in text


def test_a_teacher_on_the_hub_is_said_to_be_left_out() -> None:
    design = {"factors": {"tokens": [12_500]}, "treatments": {"taught": {"model.distill_from": "nobody/nothing"}}}
    plan = plan_sweep(example_spec(2, design={**design, "repetitions": 2}))
    notes = price_document(plan, EXACT, RATES)["notes"]
    assert any("only known to the hub" in note for note in notes)
    assert plan_document(plan, None, None)["trials"][0]["teacher_flops"] is None


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10))
def test_dimensions(rate: float, watts: float, money: float) -> None:
    """Twice the rate halves the computing time; energy goes with power; costs with prices and PUE."""
    base = price_of(PLAN.trials, EXACT)
    faster = price_of(PLAN.trials, replace(EXACT, train_rate=Range.exact(1e12 * rate)))
    assert base is not None
    assert faster is not None
    assert faster.seconds["train"].typical == pytest.approx(base.seconds["train"].typical / rate, rel=1e-9)
    assert faster.seconds["idle"] == base.seconds["idle"]
    hotter = price_of(PLAN.trials, replace(EXACT, busy_w=Range.exact(300 * watts), idle_w=Range.exact(50 * watts)))
    assert hotter is not None
    assert hotter.joules.typical == pytest.approx(base.joules.typical * watts, rel=1e-9)  # type: ignore[union-attr]
    dear = replace(RATES, price_per_kwh=0.3 * money, price_per_gpu_hour=2.0 * money)
    costs = [price_document(PLAN, EXACT, rates)["totals"]["cost"]["typical"] for rates in (RATES, dear)]
    assert costs[1] == pytest.approx(costs[0] * money, rel=1e-9)


def test_the_document_adds_up() -> None:
    document = price_document(PLAN, EXACT, RATES, effect=0.25)
    totals = document["totals"]
    seconds = sum(value["typical"] for value in totals["seconds"].values())
    assert totals["device_hours"]["typical"] == pytest.approx(seconds / 3600, rel=1e-12)
    kwh = totals["energy_kwh"]["typical"]
    assert totals["co2e_g"] == {
        "A": dict.fromkeys(("low", "typical", "high"), pytest.approx(kwh * 1.2 * 400)),
        "B": None,
    }
    assert totals["cost"]["typical"] == pytest.approx(kwh * 1.2 * 0.3 + seconds / 3600 * 2.0)
    assert document["more_repetitions"]["trials"] == 30
    assert document["more_repetitions"]["device_hours"]["typical"] == pytest.approx(
        totals["device_hours"]["typical"] * 10 / 4, rel=1e-9
    )
    assert (document["next_level"]["tokens"], document["next_level"]["trials"]) == (100_000, 4)
    power = document["power"]
    assert power["power"] == pytest.approx(0.124, abs=0.03)
    assert 0.25 < power["smallest_effect"] < 2
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("key", HARDWARE)
def test_assumptions_are_shown_and_make_ranges(key: str) -> None:
    basis = assumed_basis(key, PLAN)
    known = basis.assumptions
    assert basis.train_rate.typical == pytest.approx(known["peak_tflops"] * known["mfu"]["typical"] * 1e12)
    assert basis.busy_w is not None
    assert basis.busy_w.high == HARDWARE[key].board_w
    totals = price_document(PLAN, basis, Rates())["totals"]
    for name in ("device_hours", "energy_kwh"):
        assert totals[name]["low"] < totals[name]["typical"] < totals[name]["high"]
    assert totals["cost"] is None
    assert any("assumed, not measured" in note for note in basis.notes)


def test_an_earlier_ledger_is_preferred_and_prices_itself(a100: Ledger) -> None:
    """Priced by its own trials, a sweep takes what its accounts say, within the quantiles and 2 % in the middle."""
    plan = a100.read_plan()
    basis = find_basis(plan, "a100", a100.root.parent)
    assert basis is not None
    assert basis.kind == "ledger"
    price = price_of(plan.trials, basis)
    assert price is not None
    parts = account_ledger(a100, plan).sweep.parts
    for name in ("train", "eval", "load"):
        assert 0.99 * price.seconds[name].low <= parts[name].seconds <= 1.01 * price.seconds[name].high, name
    assert price.seconds["train"].typical == pytest.approx(parts["train"].seconds, rel=0.02)
    assert price.joules is not None
    assert price.joules.low * 0.95 < account_ledger(a100, plan).sweep.total.energy_j < price.joules.high * 1.05


def test_a_model_that_a_trial_trained_beforehand_is_not_its_loading(a100: Ledger) -> None:
    """Every record says what the teacher took; the one that trained it has that in its `load` phase."""
    plan, records = a100.read_plan(), a100.records()
    plain = basis_from_records(records, plan)
    made = {"training": {"teacher": {"training_s": 80.0}, "pretrain": None}}
    taught = [record.model_copy(update={"environment": {**record.environment, **made}}) for record in records]
    load = next(phase for phase in taught[0].phases if phase.name == "load")
    longer = [
        phase.model_copy(update={"end": phase.end + 80.0}) if phase.name == "load" else phase
        for phase in taught[0].phases
    ]
    assert load.end - load.start < 80
    taught[0] = taught[0].model_copy(update={"phases": longer})
    found = basis_from_records(taught, plan)
    assert found.load_s.high == pytest.approx(plain.load_s.high, rel=1e-6)


def test_what_lies_beside_ledgers_is_passed_over(a100: Ledger) -> None:
    """A first run leaves mlflow.db there."""
    beside = a100.root.parent / "mlflow.db"
    beside.write_bytes(b"SQLite format 3")
    (a100.root.parent / "mlartifacts").mkdir(exist_ok=True)
    assert len(earlier_records(a100.root.parent, a100.read_plan(), lambda name: "A100" in name)) == 12


def test_ledgers_of_other_hardware_are_not_taken(a100: Ledger) -> None:
    basis = find_basis(a100.read_plan(), "h100", a100.root.parent)
    assert basis is not None
    assert basis.kind == "assumed"
    assert earlier_records(a100.root.parent, PLAN, lambda name: "h100" in name.lower()) == []


def test_another_models_rate_is_warned_about(a100: Ledger) -> None:
    big = plan_sweep(example_spec(2, model={"config": {"model_type": "llama", "hidden_size": 1024}}))
    assert any("another size" in note for note in basis_from_records(a100.records(), big).notes)


def test_a_calibration_keeps_its_total() -> None:
    estimate = Estimate(seconds_per_token=1e-4, overhead_s=5.0, watts=15.0, source="a calibration")
    basis = calibrated_basis(estimate, PLAN)
    assert basis is not None
    for trial in PLAN.trials:
        price = trial_price(trial, basis)
        assert price is not None
        assert price.total_s.typical == pytest.approx(estimate.trial_s(trial.tokens), rel=0.02)


def test_a_model_that_is_only_known_to_the_hub_has_no_price() -> None:
    spec = example_spec(2, model={"pretrained": "nobody/nothing"})
    plan: Plan = plan_sweep(spec)
    document = price_document(plan, EXACT, RATES)
    assert document["totals"]["device_hours"] is None
    assert "no price" in document["notes"][0]


def test_a_cap_that_the_plan_will_reach_is_said() -> None:
    totals = price_document(PLAN, EXACT, RATES)["totals"]
    hours, money = totals["device_hours"]["typical"], totals["cost"]["typical"]
    caps = {"gpu_hours": 0.5 * hours, "money": 2 * money}
    plan = plan_sweep(example_spec(4, budget=caps, report={"price_per_kwh": 0.3}))
    first = price_document(plan, EXACT, RATES)["notes"][0]
    assert first.startswith("budget.gpu_hours")
    assert "will end the sweep early" in first
    notes = price_document(plan, replace(EXACT, train_rate=Range(1e10, 1e12, 1e14)), RATES)["notes"]
    assert "may end" in next(note for note in notes if "money" in note)


def test_stated_rates_go_before_the_files() -> None:
    rates = stated_rates(RATES, ["1.5/h", "0.4 / kWh"], None, 100.0)
    assert (rates.price_per_gpu_hour, rates.price_per_kwh) == (1.5, 0.4)
    assert [grid.g_per_kwh for grid in rates.grids] == [100.0, 400.0, None]
    for wrong in ("1.5", "x/h", "1/day"):
        with pytest.raises(InputError, match="--price"):
            stated_rates(RATES, [wrong], None, None)


def test_corners_of_ranges() -> None:
    assert asdict(Range(1, 2, 4).per(8)) == {"low": 2, "typical": 4, "high": 8}
    assert Range(1, 2, 3) + Range(1, 1, 1) == Range(2, 3, 4)
    assert Range(1, 2, 3) * Range(2, 2, 2) == Range(2, 4, 6)


def test_the_command(a100: Ledger, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--storage", str(a100.root.parent), "--no-calibrate"]
    asked = ["--hardware", "a100", "--price", "1.2/h", "--grid", "380", "--effect", "0.3"]
    assert run_command(["plan", str(tiny_file), *options, *asked]) == 0
    text = capsys.readouterr().out
    for words in ("ledger quickstart on NVIDIA A100", "10 more repetitions", "a level of 2.048K tokens", "power for f"):
        assert words in text
    assert run_command(["plan", str(tiny_file), *options, *asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["price"]["totals"]["cost"]["typical"] > 0
    assert document["totals"]["time_s"] is None  # the times of this machine are not those of an A100
    assert run_command(["plan", str(tiny_file), *options, "--hardware", "z80"]) == 2
    assert "--hardware z80: expected this, a10g" in capsys.readouterr().err
    assert run_command(["plan", str(tiny_file), *options, "--hardware", "h200", "--country", "XYZ"]) == 0
    assert "no CO2e for XYZ" in capsys.readouterr().out
