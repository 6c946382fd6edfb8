"""The caps of a sweep, on ledgers that tests write: what is counted, what is reckoned, when it stops."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from ledgers import example_spec, make_ledger

from rayscale.accounting import Spending, account_ledger
from rayscale.analysis.accounting import Part
from rayscale.analysis.rates import Rates, amounts
from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Failure, Ledger
from rayscale.planning import Estimate
from rayscale.spec import SweepSpec
from rayscale.sweep.budget import MARGIN, BudgetStopping
from rayscale.sweep.stopping import NeverStopping, open_stopping

HOUR_PRICE = 2.0


def budgeted(**caps: float) -> SweepSpec:
    return example_spec(6, budget=caps, report={"price_per_gpu_hour": HOUR_PRICE})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """All 6 blocks of 3 trials."""
    return make_ledger(tmp_path_factory.mktemp("budget"), budgeted(), estimated=False)


@pytest.fixture
def half(finished: Ledger, tmp_path: Path) -> Ledger:
    """The first 3 blocks."""
    ledger = Ledger(shutil.copytree(finished.root, tmp_path / finished.name))
    for trial in ledger.read_plan().trials:
        if trial.block >= 3:
            shutil.rmtree(ledger.root / "trials" / trial.trial_key)
    return ledger


def gate(ledger: Ledger, lines: list[str] | None = None, estimate: Estimate | None = None, **caps: float) -> Any:
    plan = plan_sweep(budgeted(**caps))
    say = (lines if lines is not None else []).append
    return BudgetStopping(plan, ledger, NeverStopping(), say, lambda _: estimate)


def spent(ledger: Ledger) -> dict[str, float | None]:
    return amounts(account_ledger(ledger, ledger.read_plan()).sweep.total, Rates(price_per_gpu_hour=HOUR_PRICE))


@pytest.mark.parametrize("name", ["gpu_hours", "kwh", "money"])
def test_a_block_that_would_exceed_a_cap_does_not_start(half: Ledger, name: str) -> None:
    """3 blocks are spent: a cap of 4.5 blocks lets one more begin, one of 3.5 blocks none."""
    block = (spent(half)[name] or 0.0) / 3
    assert gate(half, **{name: 4.5 * block}).may_start(0)
    assert not gate(half, **{name: 4.5 * block}).may_start(1)
    lines: list[str] = []
    tight = gate(half, lines, **{name: 3.5 * block})
    assert not tight.may_start(0)
    assert not tight.may_start(0)
    assert len(lines) == 1
    assert f"budget.{name} continues it" in lines[0]
    assert tight.stopped() == lines[0]
    assert gate(half, **{name: 100 * block}).stopped() is None


def test_failed_attempts_count(half: Ledger) -> None:
    plan = half.read_plan()
    key = plan.trials[0].trial_key
    before = Spending(half, plan)
    before.refresh()
    attempt = half.new_attempt(key)
    trace = half.attempt_directory(key, attempt - 1) / "power.parquet"
    shutil.copy(trace, half.attempt_directory(key, attempt))
    after = Spending(half, plan)
    after.refresh()
    half.write_failure(key, attempt, Failure("crashed", "by a test", "2026-01-01T00:00:00+00:00"))
    again = Spending(half, plan)
    again.refresh()
    assert again.total.seconds > before.total.seconds + 1
    assert again.total.energy_j > before.total.energy_j
    assert again.total.seconds == pytest.approx(account_ledger(half, plan).sweep.total.seconds, rel=1e-9)


def test_a_new_level_is_reckoned_by_its_tokens(half: Ledger) -> None:
    spec = budgeted(gpu_hours=1e9)
    longer = spec.model_copy(
        update={"design": spec.design.model_copy(update={"factors": {"tokens": [50_000, 200_000]}})}
    )
    plan: Plan = plan_sweep(longer)
    stopping = BudgetStopping(plan, half, NeverStopping(), lambda _: None, lambda _: None)
    stopping.may_start(0)
    block = stopping._block
    assert block is not None
    largest = max(
        part.seconds
        for key, part in stopping._spending.accepted.items()
        if half.record(key).training.trained_tokens == 50_000  # type: ignore[union-attr]
    )
    assert block.seconds == pytest.approx(MARGIN * largest * (1 + 4), rel=1e-9)


def test_the_first_block_is_checked_against_a_calibration(tmp_path: Path) -> None:
    empty = Ledger(tmp_path / "quickstart")
    slow = Estimate(seconds_per_token=1.0, overhead_s=0.0, watts=10.0, source="test")
    assert not gate(empty, None, slow, gpu_hours=1.0).may_start(0)
    assert gate(empty, None, slow, gpu_hours=100.0).may_start(0)
    unknown = gate(empty, gpu_hours=1.0)
    assert unknown.may_start(0)
    assert not unknown.may_start(1)  # one block at a time until something is known


def test_a_shared_trunk_is_reckoned_once(tmp_path: Path) -> None:
    """500 + 600 + 1,200 s a block instead of 500 + 1,000 + 2,000 (20 % cooldown), and no more after the first one."""
    design = {"factors": {"tokens": [500_000, 1_000_000, 2_000_000]}, "repetitions": 3, "seed": 1}
    train = {"schedule": "wsd", "share_prefix": True, "cooldown": 0.2, "batch_size": 2}
    data = {"corpus": "python-stdlib", "tokenizer": "bytes", "sequence_length": 100}
    spec = example_spec(3, design=design, train=train, data=data, budget={"gpu_hours": 1e9})
    estimate = Estimate(seconds_per_token=1e-3, overhead_s=0.0, watts=None, source="test")
    rule = BudgetStopping(plan_sweep(spec), Ledger(tmp_path / "shared"), NeverStopping(), print, lambda _: estimate)
    assert rule.may_start(0)
    assert rule._block is not None
    assert rule._block.seconds == pytest.approx(MARGIN * 2300)


def test_energy_that_is_not_known_ends_a_sweep_with_a_cap_on_it(half: Ledger) -> None:
    for trace in half.root.rglob("power.parquet"):
        trace.unlink()
    for trial in half.read_plan().trials[:3]:
        record = half.record(trial.trial_key)
        assert record is not None
        blank = {name: phase.model_copy(update={"energy_j": None}) for name, phase in record.energy.phases.items()}
        half.write_record(record.model_copy(update={"energy": record.energy.model_copy(update={"phases": blank})}))
    assert "is not known" in gate(half, kwh=1e9).stopped()
    assert gate(half, gpu_hours=1e9).stopped() is None


def test_a_little_unknown_time_is_filled_in() -> None:
    rates = Rates()
    part = Part(seconds=100.0, energy_j=9900.0, unknown_s=1.0)
    assert amounts(part, rates)["kwh"] == pytest.approx(10_000 / 3.6e6)
    assert amounts(Part(seconds=100.0, energy_j=9000.0, unknown_s=10.0), rates)["kwh"] is None


def test_a_finished_sweep_is_not_stopped_by_its_budget(finished: Ledger) -> None:
    assert gate(finished, gpu_hours=1e-9).stopped() is None


def test_it_wraps_the_stop_rule_and_leaves_the_ledger_out_of_pickles(half: Ledger) -> None:
    plan = plan_sweep(budgeted(gpu_hours=1.0))
    rule = open_stopping(plan, half, lambda _: None)
    assert isinstance(rule, BudgetStopping)
    assert isinstance(pickle.loads(pickle.dumps(rule)), NeverStopping)
    assert isinstance(copy.copy(rule), NeverStopping)
    assert isinstance(open_stopping(plan_sweep(budgeted()), half, lambda _: None), NeverStopping)


def test_a_cap_on_money_needs_a_price() -> None:
    with pytest.raises(ValueError, match=r"budget\.money"):
        example_spec(6, budget={"money": 1.0})
