"""Tests and intervals that assume no distribution: permutation within blocks, bootstrap of whole blocks.

Permutation: if levels make no difference, the values of a block may be exchanged among its cells. Subject and total
sums of squares stay, so F grows with the effect's sum of squares alone, and only column sums are needed.
Bootstrap: blocks are drawn with replacement, never single cells; intervals are BCa (Efron 1987, JASA 82, 171-185).
Every draw comes from a generator seeded with a hash of the data: the same data give the same numbers everywhere.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rayscale.analysis.kernel import FloatArray, centre

RESAMPLES = 9_999
"""Customary number: p has a resolution of 1e-4, and (count + 1) / (resamples + 1) is a round number."""
EXACT_LIMIT = 50_000
"""Up to so many arrangements all of them are counted."""
WORK_LIMIT = 200_000_000
"""Largest resamples x blocks x levels; more is refused rather than started."""
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Permutation:
    """A permutation test.

    Attributes:
        p: Share of arrangements at least as extreme as the one observed (which counts among them).
        p_ci: 95 % interval for what all arrangements would give (Clopper-Pearson); p itself if exact.
        resamples: Number of arrangements looked at.
        exact: True if they are all there are.
    """

    p: float
    p_ci: tuple[float, float]
    resamples: int
    exact: bool


@dataclass(frozen=True)
class Bootstrap:
    """Statistics with BCa intervals; NaN where a statistic does not vary.

    Attributes:
        names: Names of the statistics.
        estimate: Their values on the data.
        low: Lower bounds.
        high: Upper bounds.
        resamples: Number of resamples.
    """

    names: tuple[str, ...]
    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    resamples: int


def data_seed(values: FloatArray) -> int:
    """Hash the data to a seed.

    Args:
        values: The data.

    Returns:
        A number in [0, 2**64).
    """
    digest = hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).digest()
    return int.from_bytes(digest[:8], "big")


def affordable(values: FloatArray, resamples: int) -> bool:
    """Say whether resampling so much data stays within a few seconds.

    Args:
        values: The data.
        resamples: Number of resamples.

    Returns:
        True up to `WORK_LIMIT`.
    """
    return values.size * resamples <= WORK_LIMIT


def permutation_test(values: FloatArray, resamples: int = RESAMPLES) -> Permutation:
    """Test for any difference between levels by exchanging the values within blocks.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).
        resamples: Number of random arrangements if there are too many to count all.

    Returns:
        The test; exact if there are at most `EXACT_LIMIT` arrangements (one block may be held still, since moving
        all blocks alike changes nothing).
    """
    within = _within(values)
    n, k = within.shape
    arrangements = math.factorial(k) ** (n - 1) if n * math.lgamma(k + 1) < 100 else math.inf
    exact = arrangements <= EXACT_LIMIT
    if exact:
        return count_reached(within, all_sums(within, np.array(list(itertools.permutations(range(k))))), exact=True)
    return count_reached(within, _random_sums(within, resamples), exact=False)


def count_reached(within: FloatArray, sums: Iterable[FloatArray], *, exact: bool) -> Permutation:
    """Count the arrangements whose effect is at least as large as the observed one.

    Args:
        within: The values as they are, without their block's part; shape (n, k).
        sums: Column sums of the arrangements, in parts of shape (arrangements, k).
        exact: Whether they are all there are.

    Returns:
        The test.
    """
    observed = float(np.sum(np.sum(within, axis=0) ** 2))
    reached = total = 0
    for part in sums:
        # An arrangement equal to the observed one differs from it by rounding only.
        reached += int(np.sum(np.sum(part**2, axis=-1) >= observed * (1 - 1e-9)))
        total += len(part)
    return _permutation(reached, total, exact)


def sign_flip_tests(differences: FloatArray, resamples: int = RESAMPLES) -> list[Permutation]:
    """Test paired differences by exchanging the two values of a block, which flips a difference's sign.

    Args:
        differences: Shape (n, pairs).
        resamples: Number of random arrangements if there are too many to count all.

    Returns:
        One two-sided test per pair.
    """
    n = len(differences)
    scaled = differences / np.maximum(np.max(np.abs(differences), axis=0), np.finfo(float).tiny)
    exact = n - 1 <= math.log2(EXACT_LIMIT)
    limit = np.abs(np.sum(scaled, axis=0)) - 1e-9 * np.sum(np.abs(scaled), axis=0)
    reached, total = np.zeros(scaled.shape[1], dtype=np.int64), 0
    for signs in _all_signs(n) if exact else _random_signs(n, resamples, data_seed(differences)):
        reached += np.sum(np.abs(signs @ scaled) >= limit, axis=0)
        total += len(signs)
    return [_permutation(int(count), total, exact) for count in reached]


def _all_signs(n: int) -> Iterator[FloatArray]:
    """Every combination of signs, the first block's held still."""
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=n - 1))).reshape(-1, n - 1)
    yield np.column_stack([np.ones(len(signs)), signs])


def _random_signs(n: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Random signs, a chunk at a time: thousands of blocks would else take all memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    for start in range(0, resamples, chunk):
        drawn = rng.integers(0, 2, size=(min(chunk, resamples - start), n), dtype=np.int8)
        yield 2 * drawn.astype(np.float64) - 1


def bootstrap(values: FloatArray, pairs: list[tuple[int, int]], confidence: float, resamples: int) -> Bootstrap:
    """Bootstrap means and pairs over blocks.

    Squared effect sizes are left out: their resamples are biased upwards so much that no such interval is right.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).
        pairs: Pairs of columns.
        confidence: E.g. 0.95.
        resamples: Number of resamples.

    Returns:
        Statistics `mean.<column>`, `mean_diff.<pair>`, `cohen_dz.<pair>` by index.
    """
    n = len(values)
    rng = np.random.default_rng(data_seed(values))
    chunk = max(1, _CHUNK // n)
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    replicates = np.concatenate([_statistics(values, pairs, _drawn_counts(rng, n, size)) for size in sizes])
    names = [f"mean.{j}" for j in range(values.shape[1])]
    names += [f"{kind}.{index}" for kind in ("mean_diff", "cohen_dz") for index in range(len(pairs))]
    estimate = _statistics(values, pairs, np.ones((1, n)))[0]
    left_out = _statistics(values, pairs, 1 - np.eye(n)) if n <= 2000 else None
    low, high = _bca(estimate, replicates, left_out, confidence)
    return Bootstrap(tuple(names), estimate, low, high, resamples)


def _drawn_counts(rng: np.random.Generator, n: int, size: int) -> FloatArray:
    """How often each block is in each of `size` resamples."""
    drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * size).reshape(size, n).astype(float)


def _within(values: FloatArray) -> FloatArray:
    """Values minus their block's mean, in the kernel's units."""
    parts = centre(values)
    return parts.residual + (parts.means - parts.means.mean())


def all_sums(within: FloatArray, orders: NDArray[np.int64]) -> Iterator[FloatArray]:
    """Give the column sums of every arrangement, the first block held still: built up block by block.

    Args:
        within: Shape (n, k).
        orders: The orders that a block may take; shape (orders, k).

    Yields:
        All sums at once; shape (orders^(n-1), k).
    """
    sums = within[:1]
    for block in within[1:]:
        sums = (sums[:, None, :] + block[orders]).reshape(-1, within.shape[1])
    yield sums


def _random_sums(within: FloatArray, resamples: int) -> Iterator[FloatArray]:
    """Column sums of random arrangements, a chunk at a time."""
    n, k = within.shape
    rng = np.random.default_rng(data_seed(within))
    if k <= 5:
        yield from drawn_sums(within, np.array(list(itertools.permutations(range(k)))), resamples, rng)
        return
    chunk = max(1, _CHUNK // within.size)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        yield np.sum(rng.permuted(np.broadcast_to(within, (size, n, k)), axis=2), axis=1)


def drawn_sums(
    within: FloatArray, orders: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Give the column sums of random arrangements, each block's order drawn from a table.

    Looking up drawn orders is much faster than shuffling every block.

    Args:
        within: Shape (n, k).
        orders: The orders that a block may take; shape (orders, k).
        resamples: Number of arrangements.
        rng: Source of chance.

    Yields:
        A chunk of sums; shape (chunk, k).
    """
    arranged, n = within[:, orders], len(within)
    chunk = max(1, _CHUNK // within.size)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, len(orders), size=(n, size))
        sums = np.zeros((size, within.shape[1]))
        for block in range(n):
            sums += arranged[block][drawn[block]]
        yield sums


def _permutation(reached: int, total: int, exact: bool) -> Permutation:
    if exact:
        return Permutation(reached / total, (reached / total, reached / total), total, True)
    low = float(special.betaincinv(reached, total - reached + 1, 0.025)) if reached else 0.0
    high = float(special.betaincinv(reached + 1, total - reached, 0.975)) if reached < total else 1.0
    return Permutation((reached + 1) / (total + 1), (low, high), total, False)


def _statistics(values: FloatArray, pairs: list[tuple[int, int]], counts: FloatArray) -> FloatArray:
    """All statistics for every row of counts (how often each block is drawn); shape (rows, statistics)."""
    parts = centre(values)
    total = counts.sum(axis=1, keepdims=True)
    pivot = values.mean(axis=0)
    differences = np.column_stack([np.ldexp(values[:, i] - values[:, j], -parts.exponent) for i, j in pairs])
    means = counts @ (values - pivot) / total + pivot
    mean_diff = counts @ differences / total
    # The variance about the data's own mean first, so that an offset of the differences costs no digits.
    spread = differences - differences.mean(axis=0)
    variance = counts @ spread**2 / total - (mean_diff - differences.mean(axis=0)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        dz = mean_diff / np.sqrt(np.maximum(variance, 0.0) * total / (total - 1))
    return np.column_stack([means, np.ldexp(mean_diff, parts.exponent), dz])


def _bca(
    estimate: FloatArray, replicates: FloatArray, left_out: FloatArray | None, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Bias-corrected and accelerated percentiles of each column; without leave-one-out values no acceleration."""
    low, high = np.full(len(estimate), math.nan), np.full(len(estimate), math.nan)
    for j, value in enumerate(estimate):
        column = np.sort(replicates[:, j])
        if not math.isfinite(value) or not np.all(np.isfinite(column)) or column[0] == column[-1]:
            continue
        below = float(np.mean(column < value) + np.mean(column == value) / 2)
        if not 0 < below < 1:
            continue
        bias = float(special.ndtri(below))
        acceleration = 0.0 if left_out is None else _acceleration(left_out[:, j])
        for bounds, z in ((low, special.ndtri((1 - confidence) / 2)), (high, special.ndtri((1 + confidence) / 2))):
            shrink = 1 - acceleration * (bias + z)
            if shrink > 0:  # otherwise the formula leaves its range, and there is no such bound
                bounds[j] = np.quantile(column, float(special.ndtr(bias + (bias + z) / shrink)))
    return low, high


def _acceleration(left_out: FloatArray) -> float:
    """Skewness of the influence of single blocks, over 6."""
    influence = left_out.mean() - left_out
    largest = float(np.max(np.abs(influence)))
    if not 0 < largest < math.inf:
        return 0.0
    influence = influence / largest  # keeps the cubes in range
    return float(np.sum(influence**3)) / (6 * float(np.sum(influence**2)) ** 1.5)
