from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayscale.spec import TrainSpec
from rayscale.training.optim import build_optimizer, learning_rate

schedules = st.sampled_from(["constant", "cosine", "wsd", "wsd linear"])


def settings(schedule: str, warmup: int = 0, low: float = 0.1) -> TrainSpec:
    name, _, shape = schedule.partition(" ")
    train = {"schedule": name, "cooldown_shape": shape or "1-sqrt", "warmup_tokens": warmup, "min_lr_ratio": low}
    return TrainSpec.model_validate({"learning_rate": 2.0, **train})


@given(schedules, st.integers(1, 10_000), st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 512))
def test_rates_stay_between_zero_and_the_peak(name: str, budget: int, warmup: int, low: float, step: int) -> None:
    train = settings(name, warmup, low)
    rates = [learning_rate(train, a, min(budget, a + step), budget) for a in range(0, budget, step)]
    assert all(0 <= rate <= 2.0 for rate in rates)
    if warmup == 0:
        assert rates == sorted(rates, reverse=True)
        assert min(rates) >= 2.0 * low - 1e-12


@given(schedules, st.integers(1000, 5000), st.integers(1, 5000))
def test_budgets_share_their_warm_up(name: str, budget: int, more: int) -> None:
    if name == "cosine":
        return  # its horizon is the budget; only the linear rise itself is shared, tested below
    train = settings(name, warmup=500)
    assert learning_rate(train, 0, 100, budget) == learning_rate(train, 0, 100, budget + more)


def test_shapes() -> None:
    cosine = settings("cosine")
    assert learning_rate(cosine, 0, 0, 1000) == pytest.approx(2.0)
    assert learning_rate(cosine, 500, 500, 1000) == pytest.approx(2.0 * 0.55)
    assert learning_rate(cosine, 1000, 1000, 1000) == pytest.approx(0.2)
    wsd = settings("wsd")
    assert learning_rate(wsd, 790, 800, 1000) == 2.0
    assert learning_rate(wsd, 850, 850, 1000) == pytest.approx(2.0 * (1 - 0.9 * 0.5))
    assert learning_rate(wsd, 1000, 1000, 1000) == pytest.approx(0.2)
    linear = settings("wsd linear")
    assert learning_rate(linear, 790, 800, 1000) == 2.0
    assert learning_rate(linear, 850, 850, 1000) == pytest.approx(2.0 * (1 - 0.9 * 0.25))
    assert learning_rate(linear, 1000, 1000, 1000) == pytest.approx(0.2)
    assert learning_rate(settings("constant", warmup=100), 40, 60, 1000) == pytest.approx(1.0)


def test_only_matrices_decay_and_every_parameter_is_trained() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3))
    groups = build_optimizer(model, TrainSpec(weight_decay=0.3)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert all(decay[id(p)] == (0.3 if p.ndim == 2 else 0.0) for p in model.parameters())
