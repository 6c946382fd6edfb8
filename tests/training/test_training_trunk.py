"""A trunk shared by the budgets of a repetition: the same weights, bit for bit, from fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import tiny_session, tiny_spec

from rayscale.spec import SweepSpec
from rayscale.training.optim import learning_rate, trunk_steps
from rayscale.training.order import Budget
from rayscale.training.session import Session, StepLog

WSD = {"schedule": "wsd", "share_prefix": True, "warmup_tokens": 100}
BUDGETS = (700, 1400, 2803)


def wsd_spec(**train: object) -> SweepSpec:
    return tiny_spec(design={"factors": {"tokens": list(BUDGETS)}}, train={**WSD, **train})


def weights(session: Session) -> list[torch.Tensor]:
    return [value.clone() for value in session.engine.model.state_dict().values()]


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"warmup_steps": 0},
        {"micro_batch_size": 2, "cooldown_shape": "linear", "min_lr_ratio": 0.0},
        {"precision": "bf16-pure"},
    ],
)
def test_the_weights_are_those_of_a_trial_that_shares_nothing(tmp_path: Path, train: dict[str, object]) -> None:
    spec, state = wsd_spec(**train), None
    for tokens in BUDGETS:
        alone = tiny_session(tmp_path, spec, tokens)
        alone.warmup()
        expected = alone.train(lambda _: None)
        shared = tiny_session(tmp_path, spec, tokens)
        shared.warmup()
        if state is not None:
            shared.take_trunk(state, "me")
            assert 0 < shared.steps_taken_over < shared.branch_step
        shared.advance(lambda _: None, shared.branch_step)
        state = tmp_path / "states" / f"{tokens}.pt"
        shared.keep_trunk(state, "me")
        assert [path.name for path in state.parent.iterdir() if path.name.startswith(".")] == []
        trained = shared.train(lambda _: None)
        assert trained.loss_digest == expected.loss_digest
        assert trained.trained_tokens == expected.trained_tokens == tokens
        assert all(torch.equal(one, other) for one, other in zip(weights(shared), weights(alone), strict=True))
        assert shared.evaluate() == alone.evaluate()


def test_progress_counts_the_tokens_taken_over(tmp_path: Path) -> None:
    small = tiny_session(tmp_path, wsd_spec(), BUDGETS[0])
    small.advance(lambda _: None, small.branch_step)
    small.keep_trunk(tmp_path / "state.pt", "me")
    large = tiny_session(tmp_path, wsd_spec(), BUDGETS[1])
    logs: list[StepLog] = []
    large.take_trunk(tmp_path / "state.pt", "me")
    large.train(logs.append)
    assert logs[-1].tokens == BUDGETS[1]
    own = BUDGETS[1] - small.branch_step * large.train_feed.budget.step_tokens
    ends = [0.0, *(log.elapsed_s for log in logs)]  # however often a busy machine made it log
    counted = sum(log.tokens_per_s * (end - start) for log, start, end in zip(logs, ends, ends[1:], strict=False))
    assert counted == pytest.approx(own, rel=0.05)


def test_a_state_of_another_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    small = tiny_session(tmp_path, wsd_spec(), BUDGETS[0])
    small.advance(lambda _: None, small.branch_step)
    small.keep_trunk(tmp_path / "state.pt", "me")
    (tmp_path / "noise.pt").write_bytes(b"no state at all")
    torch.save({"version": 0}, tmp_path / "old.pt")
    large = tiny_session(tmp_path, wsd_spec(), BUDGETS[1])
    before = weights(large)
    for name, identity, reason in (
        ("state.pt", "somebody else", "another run"),
        ("noise.pt", "me", "no readable state"),
        ("old.pt", "me", "version"),
    ):
        with pytest.raises(ValueError, match=reason):
            large.take_trunk(tmp_path / name, identity)
    with pytest.raises(OSError, match="gone"):
        large.take_trunk(tmp_path / "gone.pt", "me")
    assert large.steps_done == large.steps_taken_over == 0
    assert all(torch.equal(one, other) for one, other in zip(weights(large), before, strict=True))


def test_a_state_past_the_branch_is_refused(tmp_path: Path) -> None:
    large = tiny_session(tmp_path, wsd_spec(), BUDGETS[1])
    large.advance(lambda _: None, large.branch_step)
    large.keep_trunk(tmp_path / "state.pt", "me")
    with pytest.raises(ValueError, match="up to the branch"):
        tiny_session(tmp_path, wsd_spec(), BUDGETS[0]).take_trunk(tmp_path / "state.pt", "me")


@given(
    small=st.integers(1, 5000),
    more=st.integers(1, 5000),
    batch=st.integers(1, 8),
    length=st.sampled_from([8, 16, 33]),
    cooldown=st.floats(0.001, 1.0),
    warmup=st.integers(0, 3000),
)
def test_no_larger_budget_sees_other_rates_or_targets_on_the_trunk(
    small: int, more: int, batch: int, length: int, cooldown: float, warmup: int
) -> None:
    train = tiny_spec(train={"schedule": "wsd", "cooldown": cooldown, "warmup_tokens": warmup}).train
    one, other = (Budget(tokens, length, batch, batch) for tokens in (small, small + more))
    shared = trunk_steps(train, one)
    assert 0 <= shared <= min(one.steps - 1, trunk_steps(train, other))
    for step in range(shared):
        places = [(step * b.step_tokens, step * b.step_tokens + b.targets(step)) for b in (one, other)]
        assert places[0] == places[1]
        rates = {learning_rate(train, *place, b.tokens) for place, b in zip(places, (one, other), strict=True)}
        assert len(rates) == 1


@given(tokens=st.integers(1, 20_000), batch=st.integers(1, 8), cooldown=st.floats(0.001, 1.0))
def test_the_trunk_is_as_long_as_the_rates_allow(tokens: int, batch: int, cooldown: float) -> None:
    train = tiny_spec(train={"schedule": "wsd", "cooldown": cooldown, "min_lr_ratio": 0.0}).train
    budget = Budget(tokens, 16, batch, batch)
    step = trunk_steps(train, budget)
    last = step == budget.steps - 1
    middle = (step + 0.5) * budget.step_tokens
    assert last or middle > tokens * (1 - cooldown) * (1 - 1e-12)
