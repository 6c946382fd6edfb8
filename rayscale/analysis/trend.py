"""Trend over ordered levels: orthogonal polynomials on any scores, and the log-log slope of each subject.

A measure divided by time or energy falls like tokens^-1 by construction, so its slope is tested against its mechanical
null as well as against 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import f_tail, t_critical, t_two_sided
from rayscale.analysis.kernel import FloatArray, mean_and_sd
from rayscale.analysis.moments import moments


@dataclass(frozen=True)
class Trend:
    """One polynomial degree. NaN where undefined.

    Attributes:
        degree: 1 linear, 2 quadratic, ...
        SS: Sum of squares of the contrast.
        F_own: F with the contrast's own error, df (1, n - 1).
        p_own: Its p.
        F_pooled: F with the ANOVA's error.
        p_pooled: Its p.
    """

    degree: int
    SS: float
    F_own: float
    p_own: float
    F_pooled: float
    p_pooled: float


@dataclass(frozen=True)
class Slope:
    """Slope of ln(measure) over ln(level), one per subject, summarised."""

    mean: float
    sd: float
    se: float
    df: int
    t_vs_0: float
    p_vs_0: float
    t_vs_minus1: float
    p_vs_minus1: float
    ci: tuple[float, float]
    slopes: tuple[float, ...]


def polynomial_contrasts(scores: Sequence[float]) -> FloatArray:
    """Orthonormal polynomial contrasts on given scores.

    Args:
        scores: Distinct scores of the k levels.

    Returns:
        Shape (k, k - 1): columns of degree 1 to k - 1.
    """
    x = np.asarray(scores, dtype=float)
    x = (x - x.mean()) / np.max(np.abs(x - x.mean()))
    basis = [np.full(len(x), 1 / math.sqrt(len(x)))]
    for _ in range(1, len(x)):
        column = basis[-1] * x
        for _ in range(2):  # twice is enough (Kahan-Parlett) for orthogonality to the last digit
            column = column - sum(np.dot(column, earlier) * earlier for earlier in basis)
        basis.append(column / np.linalg.norm(column))
    contrasts = np.column_stack(basis[1:])
    # The sign is free; the highest level gets a positive weight in the linear contrast and so in all of them.
    return contrasts * np.where(contrasts[int(np.argmax(x))] < 0, -1.0, 1.0)


def polynomial_trend(values: FloatArray, scores: Sequence[float]) -> list[Trend]:
    """Split the effect into polynomial degrees.

    Args:
        values: Finite values, shape (n, k).
        scores: Position of each level.

    Returns:
        Degrees 1 to k - 1.
    """
    parts = moments(values)
    contrasts = polynomial_contrasts(scores)
    n, k = parts.n, parts.k
    effect = (parts.means - parts.means.mean()) @ contrasts
    pooled = float(np.sum(parts.errors(contrasts) ** 2)) / ((n - 1) * (k - 1))
    found = []
    for j in range(contrasts.shape[1]):
        ss = n * float(effect[j]) ** 2
        own = float(np.sum(parts.errors(contrasts[:, j : j + 1]) ** 2)) / (n - 1)
        F_own = ss / own if own > 0 else math.nan
        F_pooled = ss / pooled if pooled > 0 else math.nan
        p_own, p_pooled = f_tail(F_own, 1, n - 1), f_tail(F_pooled, 1, (n - 1) * (k - 1))
        found.append(Trend(j + 1, parts.in_units(ss), F_own, p_own, F_pooled, p_pooled))
    return found


def loglog_slope(values: FloatArray, levels: Sequence[float], alpha: float) -> Slope:
    """Fit ln(measure) = a + b ln(level) to each subject and test b over subjects.

    Args:
        values: Positive values, shape (n >= 2, k >= 2).
        levels: Positive levels.
        alpha: The interval has confidence 1 - alpha.

    Returns:
        Summary of the slopes; t and p are NaN if all slopes are equal.
    """
    x = np.log(np.asarray(levels, dtype=float))
    x = x - x.mean()
    y = np.log(values)
    slopes = (y - y[:, :1]) @ x / float(x @ x)
    mean, sd = mean_and_sd(slopes)
    n = len(slopes)
    se = sd / math.sqrt(n)
    t_0, t_1 = (mean / se, (mean + 1) / se) if sd > 0 else (math.nan, math.nan)
    half = se * t_critical(1 - alpha, n - 1)
    return Slope(
        mean=mean,
        sd=sd,
        se=se,
        df=n - 1,
        t_vs_0=t_0,
        p_vs_0=t_two_sided(t_0, n - 1),
        t_vs_minus1=t_1,
        p_vs_minus1=t_two_sided(t_1, n - 1),
        ci=(mean - half, mean + half),
        slopes=tuple(float(slope) for slope in slopes),
    )
