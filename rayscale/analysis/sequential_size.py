"""How much smaller the boundaries of a sequential F test must be, since a look at ten blocks is no Brownian motion.

`sequential` computes boundaries for a Brownian motion with known covariance. Real looks differ in two ways, both
towards too many rejections: variances are estimated anew at each look, so looks agree less than sums of the same data
do; and the Greenhouse-Geisser p is too small far out in its tail where levels vary unequally, just where early looks
need it. With five Pocock looks the type-I error was 0.053 (two levels) to 0.057 (sd of the levels as 1 : 1 : 4).

Cure: null sweeps are simulated with the looks as planned, for several covariances of the contrasts, and all nominal
levels are multiplied by the largest factor (at most 1) at which no covariance exceeds alpha. A sweep is stopped by the
factor f if its smallest ratio p / nominal over the looks is at most f, so f is simply the alpha-quantile of that ratio.
The seed is fixed: the same plan gives the same boundaries on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from scipy import special

from rayscale.analysis.kernel import FloatArray

_SEED = 2601
_SPREADS = (1.0, 0.3, 0.1, 0.03)
"""Variance of the other contrasts relative to the most variable one; 1 is sphericity, towards 0 a single t test."""


@cache
def small_sample_factor(numbers: tuple[int, ...], nominal: tuple[float, ...], alpha: float, dim: int) -> float:
    """Find the factor on the nominal levels with which the looks hold alpha in small samples, too.

    Args:
        numbers: Complete blocks at the looks, ascending, the first at least 2.
        nominal: Nominal level of each look, from `sequential.boundaries_of`.
        alpha: Type-I error over all looks.
        dim: df1 of the effect.

    Returns:
        A number in (0, 1]; 1 for a single look, which is the ordinary test.
    """
    if len(numbers) == 1:
        return 1.0
    smallest: dict[int, FloatArray] = {}
    for (n, sums, cross), level in zip(_null_sweeps(numbers, dim), nominal, strict=True):
        for index, scale in enumerate(_scales(dim)):
            ratio = _p_values(n, sums * scale, cross * np.outer(scale, scale)) / max(level, 1e-300)
            smallest[index] = np.minimum(smallest.get(index, np.inf), ratio)
    return min(1.0, *(float(np.quantile(ratio, alpha, method="lower")) for ratio in smallest.values()))


def _scales(dim: int) -> list[FloatArray]:
    """Standard deviations of the contrasts to try: one large one, and (from three on) falling ones."""
    if dim == 1:
        return [np.ones(1)]
    found = [np.array([1.0, *[math.sqrt(spread)] * (dim - 1)]) for spread in _SPREADS]
    if dim > 2:
        found += [np.sqrt(spread ** np.arange(dim)) for spread in (0.5, 0.2)]
    return found


def _null_sweeps(numbers: tuple[int, ...], dim: int) -> Iterator[tuple[int, FloatArray, FloatArray]]:
    """Yield each look's blocks with the sums and cross products of standard normal contrasts up to it."""
    sweeps = min(50_000, max(20_000, 400_000 // len(numbers)), max(2_000, 30_000_000 // dim**2))
    rng = np.random.default_rng(_SEED)
    sums, cross, seen = np.zeros((sweeps, dim)), np.zeros((sweeps, dim, dim)), 0
    for n in numbers:
        more_sums, more_cross = _blocks(rng, sweeps, n - seen, dim)
        sums, cross, seen = sums + more_sums, cross + more_cross, n
        yield n, sums, cross


def _blocks(rng: np.random.Generator, sweeps: int, count: int, dim: int) -> tuple[FloatArray, FloatArray]:
    """Sum and cross product of `count` rows, without drawing every row where there are many (Bartlett 1933)."""
    if count <= 2 * dim + 2:
        sums, cross = np.zeros((sweeps, dim)), np.zeros((sweeps, dim, dim))
        for _ in range(count):
            row = rng.standard_normal((sweeps, dim))
            sums += row
            cross += row[:, :, None] * row[:, None, :]
        return sums, cross
    sums = rng.standard_normal((sweeps, dim)) * math.sqrt(count)
    lower = np.zeros((sweeps, dim, dim))
    for i in range(dim):
        lower[:, i, i] = np.sqrt(rng.chisquare(count - 1 - i, sweeps))
        lower[:, i, :i] = rng.standard_normal((sweeps, i))
    wishart = lower @ lower.transpose(0, 2, 1)
    return sums, wishart + sums[:, :, None] * sums[:, None, :] / count


def _p_values(n: int, sums: FloatArray, cross: FloatArray) -> FloatArray:
    """Greenhouse-Geisser p of a look, from orthonormal contrasts; shape (sweeps,)."""
    dim = sums.shape[1]
    error = cross - sums[:, :, None] * sums[:, None, :] / n
    trace = np.trace(error, axis1=1, axis2=2)
    eps = np.clip(trace**2 / (dim * np.sum(error**2, axis=(1, 2))), 1 / dim, 1.0)
    f = (n - 1) * np.sum(sums**2, axis=1) / n / trace
    df1, df2 = dim * eps, (n - 1) * dim * eps
    p: FloatArray = special.betainc(df2 / 2, df1 / 2, df2 / (df2 + df1 * f))
    return p
