"""Data-parallel training with gloo: the losses of one process, whatever the number of ranks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import tiny_session, tiny_spec
from training_rank import add_up_rank, rank_spec, train_rank

from rayscale.sweep.forkserver import ForkServer
from rayscale.training.feed import Feed, stream_gather
from rayscale.training.order import IGNORED, Budget, processed_tokens, row_sequence
from rayscale.training.preload import PRELOAD
from rayscale.training.ranks import Ranks, join

TOKENS = 645
"""Ten full steps of 64 targets, and a last one of 5 that a second rank has no part in."""


@pytest.fixture(scope="module")
def forks() -> ForkServer:
    server = ForkServer(["rayscale.trial", *PRELOAD])
    assert server.missing() == []
    return server


SETTINGS = [
    {"micro_batch_size": 1},
    {"micro_batch_size": 2, "grad_clip": None},
    {"micro_batch_size": 1, "parallel": "fsdp"},
    {"parallel": "fsdp", "grad_clip": None, "checkpointing": True},
]


@pytest.mark.parametrize("train", SETTINGS)
def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path, forks: ForkServer, train: dict[str, Any]) -> None:
    alone = tiny_session(tmp_path, rank_spec(train, 1), TOKENS)
    before = alone.evaluate().loss
    alone.warmup()
    expected = alone.train(lambda _: None)
    with ThreadPoolExecutor(2) as pool:
        two = list(pool.map(lambda rank: forks.call(train_rank, str(tmp_path), rank, 2, TOKENS, train), range(2)))
    assert replace(two[0], held=0) == replace(two[1], held=0)
    whole = sum(weight.nbytes for weight in alone.engine.model.parameters())
    assert two[0].held == pytest.approx(whole / 2 if train.get("parallel") == "fsdp" else whole, rel=0.1)
    np.testing.assert_allclose(two[0].losses, expected.losses, rtol=0, atol=1e-5)
    assert len(expected.losses) == 11
    assert two[0].before == before  # to the last bit: nothing has been trained yet
    assert two[0].after == pytest.approx(alone.evaluate().loss, abs=1e-5)
    assert two[0].trained == TOKENS
    assert two[0].nonzero == pytest.approx(alone.nonzero_params(), abs=2)


def test_a_single_rank_is_the_plain_trial_to_the_last_bit(tmp_path: Path, forks: ForkServer) -> None:
    alone = tiny_session(tmp_path, tiny_spec(), TOKENS)
    alone.warmup()
    expected = alone.train(lambda _: None).losses.tolist()
    one = forks.call(train_rank, str(tmp_path), 0, 1, TOKENS, {})
    assert (one.losses, one.after) == (expected, alone.evaluate().loss)


def test_tensors_of_every_size_and_type_are_added_up(tmp_path: Path, forks: ForkServer) -> None:
    with ThreadPoolExecutor(2) as pool:
        two = list(pool.map(lambda rank: forks.call(add_up_rank, str(tmp_path), rank, 2), range(2)))
    assert two[0] == two[1] == [[1.0, 1.0], [3.0, 3.0], [1.0, 5.0], [30.0, 30.0], [1.0, 1.0]]


def test_a_session_that_has_begun_cannot_join(tmp_path: Path) -> None:
    session = tiny_session(tmp_path, tiny_spec())
    session.advance(lambda _: None, 1)
    with pytest.raises(ValueError, match="at step 1"):
        join(session, Ranks(0, 2))


@given(
    tokens=st.integers(1, 400),
    length=st.integers(1, 9),
    micro=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 4),
)
def test_the_ranks_together_train_each_target_once(
    tokens: int, length: int, micro: int, accumulation: int, world: int
) -> None:
    import torch

    budget = Budget(tokens, length, micro * accumulation, micro)
    stream = np.arange(500, dtype=np.uint16)
    ids = row_sequence(1, 0, 40, budget.rows)
    gather = stream_gather(stream, length, torch.device("cpu"))
    feeds = [Feed(budget, ids, gather, rank, world) for rank in range(world)]
    alone = Feed(budget, ids, gather)
    trained = processed = 0
    for step in range(budget.steps):
        whole = [
            t for _, targets in alone.batch(step).micro_batches for t in targets.flatten().tolist() if t != IGNORED
        ]
        shares = [feed.batch(step) for feed in feeds]
        assert {share.targets for share in shares} == {budget.targets(step)}
        assert len({len(share.micro_batches) for share in shares}) == 1
        found = [t for share in shares for _, targets in share.micro_batches for t in targets.flatten().tolist()]
        assert [t for t in found if t != IGNORED] == whole
        trained += sum(t != IGNORED for t in found)
        processed += len(found)
    assert trained == tokens
    assert processed == processed_tokens(budget, world)


@given(count=st.integers(0, 40), world=st.integers(1, 6))
def test_evaluation_is_shared_out_once_and_equally_often(count: int, world: int) -> None:
    turns = [list(Ranks(rank, world).turns(count)) for rank in range(world)]
    assert len({len(one) for one in turns}) == 1
    assert sorted(index for one in turns for index, counts in one if counts) == list(range(count))
