"""What sharing a trunk saves, before anything is run."""

from __future__ import annotations

import pytest

from rayscale.design import plan_sweep
from rayscale.planning import Estimate, plan_document
from rayscale.rendering import render_plan
from rayscale.sharing import branch_tokens, run_tokens
from rayscale.spec import SweepSpec


def spec_of(share: bool, cooldown: float = 0.2, factors: dict[str, list[float]] | None = None) -> SweepSpec:
    tree = {
        "name": "shared",
        "design": {"factors": {"tokens": ["500K", "1M", "2M"], **(factors or {})}, "repetitions": 3},
        "model": {"preset": "tiny"},
        "data": {"corpus": "python-stdlib", "tokenizer": "bytes", "sequence_length": 100},
        "train": {"schedule": "wsd", "cooldown": cooldown, "share_prefix": share, "batch_size": 2},
        "resources": {"gpus": 0},
    }
    return SweepSpec.model_validate(tree)


def test_34_percent_of_the_tokens_are_saved_on_500k_1m_2m_at_20_percent_cooldown() -> None:
    document = plan_document(plan_sweep(spec_of(True)), Estimate(1e-6, 10.0, 20.0, "test"), None)
    totals = document["totals"]
    assert totals["tokens"] == 3 * 3_500_000
    # 500K; then 1M - 400K and 2M - 800K
    assert totals["run_tokens"] == 3 * (500_000 + 600_000 + 1_200_000)
    assert totals["saved_share"] == pytest.approx(0.343, abs=0.001)
    assert [row["segment_tokens"] for row in document["trials"][:3]] == [500_000, 600_000, 1_200_000]
    assert totals["time_s"] == pytest.approx(9 * 10.0 + totals["run_tokens"] * 1e-6)
    assert totals["energy_kwh"] == pytest.approx(totals["run_tokens"] * 1e-6 * 20.0 / 3.6e6)
    assert "6.9M tokens are run, 34% are saved" in render_plan(document)


def test_without_sharing_all_tokens_are_run() -> None:
    document = plan_document(plan_sweep(spec_of(False)), None, "no estimate")
    assert document["totals"]["run_tokens"] == document["totals"]["tokens"]
    assert document["totals"]["saved_share"] == 0.0
    assert "shared trunks" not in render_plan(document)


def test_trunks_of_further_factors_are_apart() -> None:
    plan = plan_sweep(spec_of(True, factors={"train.learning_rate": [1e-3, 2e-3]}))
    run = run_tokens(plan)
    for rate in (1e-3, 2e-3):
        block = [trial for trial in plan.blocks()[0] if trial.condition["train.learning_rate"] == rate]
        assert [run[trial.trial_key] for trial in block] == [500_000, 600_000, 1_200_000]


def test_a_schedule_that_is_all_cooldown_shares_nothing() -> None:
    plan = plan_sweep(spec_of(True, cooldown=1.0))
    assert all(branch_tokens(trial) == 0 for trial in plan.trials)
    assert sum(run_tokens(plan).values()) == sum(trial.tokens for trial in plan.trials)
