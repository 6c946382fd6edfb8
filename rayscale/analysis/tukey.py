"""Tukey's honestly significant difference within subjects: the studentised range of the cell means.

P(Q > q) = E[1 - W(q S)] with W the distribution of the range of k standard normals and S = sqrt(chi2_df / df).
R's `ptukey` takes the expectation with the composite 16-point rule of Copenhaver & Holland (1988), Journal of
Statistical Computation and Simulation 30, 1-15, and leaves out where the density is below e^-30; what that rule loses
is added here, so that small p values are R's, and upper bounds (`p_bonferroni` keeps all its digits).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from rayscale.analysis.kernel import FloatArray

RESOLUTION = 1e-8
"""Below it p is dominated by what the rule loses and only an upper bound."""
SMALLEST = 1e-14
"""No p is given below it: the absolute precision of the sum."""

_PANELS = ((100.0, 1.0), (800.0, 0.5), (5000.0, 0.25), (25000.0, 0.125))
"""Half-width of a panel by degrees of freedom."""


def tukey_p(t: float, levels: int, df: float) -> float:
    """Adjust the p of a pair of means for all pairs.

    Args:
        t: t of the pair with the pooled error; q = sqrt(2) |t|.
        levels: Number of means, >= 2.
        df: Degrees of freedom of the error.

    Returns:
        The adjusted p; NaN if t is undefined.
    """
    if not math.isfinite(t) or df < 1:
        return math.nan
    q = math.sqrt(2) * abs(t)
    s, weight = _rule(df)
    tail = float(np.sum(weight * range_tail(q * s, levels)))
    return min(1.0, max(SMALLEST, tail + lost_mass(df)))


def _rule(df: float) -> tuple[FloatArray, FloatArray]:
    """Nodes S and weights of the expectation: the trapezoid rule over ln S, whose density is smooth everywhere."""
    spread = 1 / math.sqrt(2 * df)
    u = np.arange(-10 * spread - 33 / df, 10 * spread, spread / 4)
    weight = np.exp(df * (u - np.exp(2 * u) / 2 + 0.5))
    return np.exp(u), weight / np.sum(weight)


def lost_mass(df: float) -> float:
    """Probability that the published rule leaves out, over u = 2 S^2.

    Args:
        df: Degrees of freedom.

    Returns:
        The mass, 0 for the few degrees of freedom where the rule's error has other reasons, and beyond its range.
    """
    if not 16 <= df <= _PANELS[-1][0]:
        return 0.0
    half = next(width for limit, width in _PANELS if df <= limit)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    u = (half * (2 * np.arange(1, 51) - 1)[:, None] + half * nodes).ravel()
    constant = df / 2 * math.log(df) - df * math.log(2) - float(special.gammaln(df / 2)) + math.log(half)
    log_density = constant + (df / 2 - 1) * np.log(u) - u * df / 4
    kept = np.tile(weights, 50)[log_density >= -30] * np.exp(log_density[log_density >= -30])
    return max(0.0, 1 - float(np.sum(kept)))


def range_tail(x: FloatArray, levels: int) -> FloatArray:
    """Probability that the range of independent standard normals exceeds x.

    k * integral of phi(z) (Phi(z)^(k-1) - (Phi(z) - Phi(z - x))^(k-1)) dz: a sum of positive terms, so small tails keep
    their relative precision.

    Args:
        x: Ranges, >= 0, shape (m,).
        levels: k >= 2.

    Returns:
        Shape (m,).
    """
    step = 0.1
    z = np.arange(-8.0, 8.0 + min(float(np.max(x)), 16.0), step)
    inside = special.ndtr(z)
    share = np.minimum(special.ndtr(z - x[:, None]) / inside, 1.0)
    with np.errstate(divide="ignore"):
        lost = -np.expm1((levels - 1) * np.log1p(-share))
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * inside ** (levels - 1)
    return np.minimum(1.0, levels * step * np.sum(density * lost, axis=1))
