from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.training.feed import Feed, stream_gather
from rayscale.training.order import IGNORED, Budget, RankRows, rank_rows, row_order, row_sequence, rows_in

lengths = st.integers(1, 40)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    micro = draw(st.integers(1, 5))
    return Budget(draw(st.integers(1, 3000)), draw(lengths), micro * draw(st.integers(1, 4)), micro)


def trained(budget: Budget, stream: np.ndarray, repetition: int = 0) -> list[int]:
    """Return the supervised targets of a budget in training order."""
    length = budget.sequence_length
    rows = row_sequence(11, repetition, rows_in(len(stream), length), budget.rows)
    feed = Feed(budget, rows, stream_gather(stream, length, torch.device("cpu")))
    found: list[int] = []
    for batch in feed:
        kept = [t[t != IGNORED].tolist() for _, t in batch.micro_batches]
        assert sum(map(len, kept)) == batch.targets
        found += [token for part in kept for token in part]
    return found


@given(budgets(), st.integers(50, 400))
@settings(max_examples=150, deadline=None)
def test_a_budget_trains_on_exactly_its_tokens(budget: Budget, stream_length: int) -> None:
    stream = np.arange(max(stream_length, budget.sequence_length + 1), dtype=np.uint16)
    assert len(trained(budget, stream)) == budget.tokens
    assert sum(budget.targets(step) for step in range(budget.steps)) == budget.tokens


@given(budgets(), st.integers(1, 3000))
@settings(max_examples=80, deadline=None)
def test_the_first_targets_of_a_larger_budget_are_those_of_the_smaller(budget: Budget, more: int) -> None:
    stream = np.arange(500, dtype=np.uint16)
    larger = Budget(budget.tokens + more, budget.sequence_length, budget.batch_size, budget.micro_batch_size)
    assert trained(larger, stream)[: budget.tokens] == trained(budget, stream)


@given(budgets(), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_targets_do_not_depend_on_batch_or_micro_batch(budget: Budget, micro: int) -> None:
    stream = np.arange(500, dtype=np.uint16)
    other = Budget(budget.tokens, budget.sequence_length, 2 * micro, micro)
    assert trained(other, stream) == trained(budget, stream)


@given(budgets())
@settings(max_examples=100, deadline=None)
def test_shapes_are_static_and_waste_is_below_a_micro_batch(budget: Budget) -> None:
    surplus = budget.processed_tokens - budget.tokens
    assert 0 <= surplus < budget.micro_batch_size * budget.sequence_length
    assert all(budget.computed_rows(step) % budget.micro_batch_size == 0 for step in range(budget.steps))


@given(st.integers(2, 2000), lengths)
@settings(deadline=None)
def test_rows_of_one_epoch_cover_every_target_once(stream_length: int, length: int) -> None:
    stream = np.arange(stream_length, dtype=np.uint32)
    rows = rows_in(stream_length, length)
    if rows == 0:
        assert stream_length < length + 1
        return
    budget = Budget(rows * length, length, 3, 3)
    assert sorted(trained(budget, stream)) == list(range(1, rows * length + 1))


def test_inputs_precede_their_targets() -> None:
    stream = np.arange(100, dtype=np.uint16)
    feed = Feed(Budget(30, 8, 2, 2), np.asarray([3, 0, 7, 1]), stream_gather(stream, 8, torch.device("cpu")))
    for batch in feed:
        for inputs, targets in batch.micro_batches:
            kept = targets != IGNORED
            assert torch.equal(inputs[kept] + 1, targets[kept])


def test_row_order_depends_on_study_repetition_and_epoch() -> None:
    orders = [row_order(*key, 1000).tolist() for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert row_order(1, 0, 0, 1000).tolist() == orders[0]


def test_row_order_is_the_same_on_every_machine() -> None:
    assert row_order(2601, 0, 0, 8).tolist() == [0, 5, 7, 1, 2, 6, 3, 4]


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 200), st.integers(0, 5))
@settings(deadline=None)
def test_every_epoch_visits_every_row_once_and_more_rows_only_continue(
    rows: int, count: int, more: int, repetition: int
) -> None:
    sequence = row_sequence(11, repetition, rows, count)
    assert row_sequence(11, repetition, rows, count + more)[:count].tolist() == sequence.tolist()
    for first in range(0, count, rows):
        epoch = sequence[first : first + rows].tolist()
        assert len(set(epoch)) == len(epoch)
        assert epoch == row_order(11, repetition, first // rows, rows)[: len(epoch)].tolist()
        assert len(epoch) < rows or sorted(epoch) == list(range(rows))


@given(st.integers(20, 300), lengths, st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_whole_epochs_train_on_every_target_equally_often(
    stream_length: int, length: int, epochs: int, batch: int
) -> None:
    rows = rows_in(stream_length, length)
    if rows == 0:
        return
    stream = np.arange(stream_length, dtype=np.uint16)
    found = trained(Budget(epochs * rows * length, length, batch, batch), stream)
    assert sorted(found) == sorted(list(range(1, rows * length + 1)) * epochs)


def supervised(part: RankRows, length: int) -> list[int]:
    """Return the targets of a device's rows on the stream 0, 1, 2, ...: the first ones in row-major order count."""
    targets = (part.rows.starts[:, None] + np.arange(1, length + 1)).reshape(-1)
    return targets[: part.rows.targets].tolist()


@given(budgets(), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_devices_share_the_same_steps(budget: Budget, world: int) -> None:
    length = budget.sequence_length
    stream = np.arange(500, dtype=np.uint16)
    row_ids = row_sequence(11, 0, rows_in(len(stream), length), budget.rows)
    together: list[int] = []
    for step in range(budget.steps):
        parts = [rank_rows(budget, step, row_ids, rank, world) for rank in range(world)]
        shapes = {len(part.rows.starts) for part in parts}
        assert len(shapes) == 1
        share = shapes.pop()
        assert share % budget.micro_batch_size == 0
        # No device could do with a micro-batch less.
        needed = -(-budget.targets(step) // length)
        assert (share - budget.micro_batch_size) * world < needed <= share * world
        assert {part.step_targets for part in parts} == {budget.targets(step)}
        assert sum(part.rows.targets for part in parts) == budget.targets(step)
        together += [target for part in parts for target in supervised(part, length)]
    assert together == trained(budget, stream)


@given(budgets())
@settings(max_examples=30, deadline=None)
def test_one_device_has_the_whole_step(budget: Budget) -> None:
    row_ids = row_sequence(11, 0, 50, budget.rows)
    for step in range(budget.steps):
        part, whole = rank_rows(budget, step, row_ids, 0, 1), budget.step_rows(step, row_ids)
        assert part.rows.starts.tolist() == whole.starts.tolist()
        assert part.rows.targets == part.step_targets == whole.targets


def test_a_device_that_is_not_there_is_refused() -> None:
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=r"expected a rank in \[0, 2\)"):
            rank_rows(Budget(8, 4, 2, 1), 0, np.arange(2), rank, 2)
