"""Permutation test of an interaction between within factors: exact, since each block gives its own main effects up.

Values of a block cannot simply be exchanged among its cells to test an interaction, as that would mix main effects in.
But an interaction of A and B is what remains of a block's a x b table when its own row and column means are taken off
(with further factors averaged over), and that remainder does not contain any main effect, neither the average one nor
the block's own. Without interaction it is made of errors alone. Relabelling the rows of the table, or its columns,
turns it into the remainder of the relabelled errors; so if errors may be relabelled so (they are exchangeable, which is
less than independent and normal), every such arrangement was as likely as the one observed, and p is exact. This is
restricted permutation (Edgington & Onghena 2007, Randomization Tests) within blocks, not the approximate exchange of
the residuals of a fitted model.

    block's table   4 7 6      less its row and column means    -.5  .5  0     rows, columns relabelled
                    3 4 5  ->                                    .5 -.5  0  -> at random in each block

The sum of squares of all remainders stays, so F grows with that of their mean alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.resampling import (
    EXACT_LIMIT,
    RESAMPLES,
    Permutation,
    all_sums,
    count_reached,
    data_seed,
    drawn_sums,
)

METHOD = (
    "levels of each factor relabelled at random within every block, after the block's own main effects are taken off "
    "(exact restricted permutation)"
)

_LARGEST_TABLE = 720
"""Relabellings of one block that are tabled; beyond it each factor's are drawn by themselves."""


def interaction_test(
    values: FloatArray, shape: Sequence[int], axes: Sequence[int], resamples: int = RESAMPLES
) -> Permutation:
    """Test an interaction by relabelling levels within blocks.

    Args:
        values: Finite values, the last factor varying fastest; shape (n >= 2, cells).
        shape: Levels per factor.
        axes: Factors that interact, at least two.
        resamples: Number of random arrangements if there are too many to count all.

    Returns:
        The test; exact if there are at most `EXACT_LIMIT` arrangements (one block is held still).
    """
    remainder = _remainders(values, shape, axes)
    sizes = [shape[axis] for axis in axes]
    rng = np.random.default_rng(data_seed(remainder))
    if math.prod(math.factorial(size) for size in sizes) > _LARGEST_TABLE:
        return count_reached(remainder, _free_sums(remainder, sizes, resamples, rng), exact=False)
    orders = _distinct_orders(sizes)
    if len(remainder) * math.log(len(orders)) < 50 and len(orders) ** (len(remainder) - 1) <= EXACT_LIMIT:
        return count_reached(remainder, all_sums(remainder, orders), exact=True)
    return count_reached(remainder, drawn_sums(remainder, orders, resamples, rng), exact=False)


def _remainders(values: FloatArray, shape: Sequence[int], axes: Sequence[int]) -> FloatArray:
    """Each block's table of the interacting factors without its own lower-order effects, of size 1; (n, cells)."""
    n = len(values)
    offset = (values - values[:, :1]).reshape(n, *shape)
    floor = 1e-13 * float(np.max(np.abs(offset)))
    others = tuple(axis + 1 for axis in range(len(shape)) if axis not in axes)
    table: FloatArray = np.asarray(offset.mean(axis=others) if others else offset, dtype=np.float64)
    for axis in [*range(1, table.ndim)] * 2:  # the second round takes off what rounding has left
        table = np.asarray(table - table.mean(axis=axis, keepdims=True), dtype=np.float64)
    largest = float(np.max(np.abs(table)))
    flat: FloatArray = table.reshape(n, -1)
    return flat / largest if largest > floor else np.zeros_like(flat)


def _distinct_orders(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Relabellings of a table, as orders of its cells; those that do the same to every remainder once."""
    cells = np.arange(math.prod(sizes)).reshape(sizes)
    orders = [cells[np.ix_(*labels)].ravel() for labels in itertools.product(*(_permutations(k) for k in sizes))]
    projector: FloatArray = np.ones((1, 1))
    for size in sizes:
        projector = np.asarray(np.kron(projector, np.eye(size) - 1 / size), dtype=np.float64)
    seen = {np.round(projector[order], 9).tobytes(): order for order in reversed(orders)}
    return np.array(list(reversed(seen.values())))


def _permutations(size: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(size)))


def _free_sums(
    remainder: FloatArray, sizes: Sequence[int], resamples: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Column sums of random arrangements where there are too many relabellings for a table."""
    n, cells = remainder.shape
    chunk = max(1, 1_000_000 // remainder.size)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        table = np.broadcast_to(remainder.reshape(n, *sizes), (size, n, *sizes))
        for axis, levels in enumerate(sizes):
            labels = np.argsort(rng.random((size, n, levels)), axis=2)
            spread = [levels if place == axis else 1 for place in range(len(sizes))]
            table = np.take_along_axis(table, labels.reshape(size, n, *spread), axis=axis + 2)
        yield table.reshape(size, n, cells).sum(axis=1)
