"""The executed order of runs: verdicts, warnings, balance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.cells import Cells
from rayscale.analysis.mixed_design import LongRows
from rayscale.analysis.order import OrderCheck, check_order


def design(n: int, shape: tuple[int, ...]) -> Cells:
    levels = tuple(tuple(str(i) for i in range(size)) for size in shape)
    names = ("a", "b")[: len(shape)]
    values = np.zeros((n, int(np.prod(shape))))
    return Cells(names, levels, tuple(f"s{i}" for i in range(n)), values, values.size, 0)


def check(runs: list[tuple[int, int]], n: int, shape: tuple[int, ...], device: list[int] | None = None) -> OrderCheck:
    """Check runs given as (subject, cell) in the order of execution."""
    subject, cell = (np.array(column) for column in zip(*runs, strict=True))
    devices = None if device is None else np.array(device)
    rows = LongRows(np.zeros(len(runs)), subject, cell, devices, ("x", "y"), np.arange(len(runs), dtype=float))
    return check_order(design(n, shape), rows)


@pytest.mark.parametrize(("n", "k"), [(2, 2), (4, 3), (50, 3), (10, 6)])
def test_level_after_level_is_loud(n: int, k: int) -> None:
    found = check([(subject, level) for level in range(k) for subject in range(n)], n, (k,))
    assert found.verdict == "level_after_level"
    assert found.loud
    assert found.sentence.startswith("WARNING")
    assert "not a repeated-measures experiment" in found.sentence
    assert found.explained["a"] == pytest.approx(1 - (n**2 - 1) / ((n * k) ** 2 - 1))


def test_an_outer_loop_over_one_of_two_factors_is_found() -> None:
    rng = np.random.default_rng(0)
    runs = [(s, 3 * a + b) for a in range(2) for s in range(8) for b in rng.permutation(3)]
    found = check(runs, 8, (2, 3))
    assert found.verdict == "level_after_level"
    assert "(a explains" in found.sentence
    assert found.explained["b"] < 0.1


def test_level_after_level_on_each_of_two_parallel_devices_is_found() -> None:
    runs, device = [], []
    for level in range(3):
        for subject in range(10):
            runs.append((subject, level))
            device.append(subject % 2)
    assert check(runs, 10, (3,), device).verdict == "level_after_level"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(2, 5))
def test_random_order_within_blocks_is_never_refused(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [(s, int(level)) for s in range(n) for level in rng.permutation(k)]
    found = check(runs, n, (k,))
    assert not found.loud
    assert found.consecutive == found.n_blocks == n
    assert np.sum(list(found.positions.values()), axis=0).tolist() == [n] * k


def test_parallel_devices_keep_their_blocks_apart() -> None:
    """Two devices run side by side: their runs alternate in time, yet each device's blocks are consecutive."""
    rng = np.random.default_rng(3)
    queues = [[(2 * b + d, int(c)) for b in range(6) for c in rng.permutation(3)] for d in range(2)]
    runs = [run for pair in zip(*queues, strict=True) for run in pair]
    found = check(runs, 12, (3,), [0, 1] * 18)
    assert (found.verdict, found.consecutive, found.n_blocks) == ("varied_within_blocks", 12, 12)


def test_same_order_in_every_block() -> None:
    found = check([(s, c) for s in range(6) for c in (2, 0, 1)], 6, (3,))
    assert found.verdict == "same_order_in_every_block"
    assert found.positions == {"0": [0, 6, 0], "1": [0, 0, 6], "2": [6, 0, 0]}
    assert found.balance_p is not None


def test_counterbalanced() -> None:
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)] * 3
    found = check([(s, c) for s, order in enumerate(orders) for c in order], 9, (3,))
    assert found.verdict == "counterbalanced"
    assert found.balance_p == pytest.approx(1.0)


def test_two_blocks_that_agree_by_chance_prove_nothing() -> None:
    assert check([(s, c) for s in range(2) for c in range(2)], 2, (2,)).verdict == "unknown"


def test_interleaved_subjects() -> None:
    """All first halves, then all second halves: levels vary, but a block's runs lie far apart."""
    rng = np.random.default_rng(1)
    orders = [rng.permutation(4) for _ in range(10)]
    runs = [(s, int(orders[s][part])) for part in range(4) for s in range(10)]
    assert check(runs, 10, (4,)).verdict == "subjects_interleaved"


def test_without_an_order_nothing_is_claimed() -> None:
    rows = LongRows(np.zeros(6), np.repeat([0, 1], 3), np.tile([0, 1, 2], 2), order=np.zeros(6))
    found = check_order(design(2, (3,)), rows)
    assert (found.verdict, found.loud) == ("unknown", False)
    assert found.tree()["position_balance_p"] is None


def test_balance_p_holds_its_level() -> None:
    """Anderson's test under random order: about 5 % below 0.05 (1,000 sweeps of 30 blocks of 3)."""
    rng = np.random.default_rng(11)
    below = 0
    for _ in range(1000):
        runs = [(s, int(c)) for s in range(30) for c in rng.permutation(3)]
        below += check(runs, 30, (3,)).balance_p < 0.05
    assert 25 <= below <= 80
