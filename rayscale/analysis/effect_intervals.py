"""Intervals of standardised effects from noncentral distributions, and effect sizes from F alone.

Steiger (2004), Psychological Methods 9, 164-182; Smithson (2003), Confidence Intervals. An interval of partial eta
squared turns the noncentrality lambda of F into lambda / (lambda + df2), as R's effectsize does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from rayscale.analysis.noncentral import f_noncentrality, t_noncentrality


@dataclass(frozen=True)
class EffectFromF:
    """Effect sizes that F and its degrees of freedom imply.

    Attributes:
        partial_eta2: df1 F / (df1 F + df2).
        partial_epsilon2: df1 (F - 1) / (df1 F + df2).
        partial_omega2: df1 (F - 1) / (df1 (F - 1) + df1 + df2 + 1).
    """

    partial_eta2: float
    partial_epsilon2: float
    partial_omega2: float


def effect_from_f(F: float, df1: float, df2: float) -> EffectFromF:
    """Compute effect sizes from F alone.

    Args:
        F: The F value.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.

    Returns:
        The effect sizes; NaN if F is undefined.
    """
    whole = df1 * F + df2
    return EffectFromF(df1 * F / whole, df1 * (F - 1) / whole, df1 * (F - 1) / (df1 * (F - 1) + df1 + df2 + 1))


def partial_eta2_interval(F: float, df1: float, df2: float, confidence: float) -> tuple[float, float]:
    """Two-sided interval of partial eta squared.

    Args:
        F: The F value.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        confidence: E.g. 0.95.

    Returns:
        (lo, hi); lo is 0 where the test is not significant at (1 - confidence) / 2; NaN if F is undefined.
    """
    tail = (1 - confidence) / 2
    low, high = (f_noncentrality(F, df1, df2, probability) for probability in (1 - tail, tail))
    return low / (low + df2), high / (high + df2)


def cohen_dz_interval(t: float, n: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of dz = mean difference / sd of differences.

    Args:
        t: Paired t.
        n: Number of pairs.
        confidence: E.g. 0.95.

    Returns:
        (lo, hi); NaN if t is undefined.
    """
    tail = (1 - confidence) / 2
    low, high = (t_noncentrality(t, n - 1, probability) for probability in (1 - tail, tail))
    return low / math.sqrt(n), high / math.sqrt(n)


def cohen_dz_interval_as_r(t: float, n: int, confidence: float, exact: tuple[float, float]) -> tuple[float, float]:
    """Interval of dz as R's effectsize gives it.

    R's `pt` takes a normal approximation (Abramowitz & Stegun 26.7.10) beyond a noncentrality of 37.62, where its sum
    underflows. There the interval is off by up to a percent (its 95 % cover 95.1 %), so the exact one is
    kept beside it.

    Args:
        t: Paired t.
        n: Number of pairs.
        confidence: E.g. 0.95.
        exact: What `cohen_dz_interval` gives.

    Returns:
        (lo, hi), equal to `exact` up to a noncentrality of 37.62.
    """
    z = -float(special.ndtri((1 - confidence) / 2))
    shrink = 1 / (4 * (n - 1))
    half = z * math.sqrt(1 + 2 * shrink * t * t)
    low, high = ((t * (1 - shrink) + side * half) / math.sqrt(n) for side in (-1, 1))
    limit = 37.62 / math.sqrt(n)
    return low if abs(exact[0]) > limit else exact[0], high if abs(exact[1]) > limit else exact[1]
