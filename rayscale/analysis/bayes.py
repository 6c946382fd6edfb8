"""JZS Bayes factor of a paired comparison: how much likelier the data are under a difference than under none.

Rouder, Speckman, Sun, Morey & Iverson (2009), Psychonomic Bulletin & Review 16, 225-237: the standardised difference
has a Cauchy prior of scale r, written as a normal of variance g with g ~ inverse gamma(1/2, r^2/2),
BF10 = int (1 + n g)^(-1/2) (1 + t^2 / ((1 + n g) df))^(-n/2) p(g) dg / (1 + t^2 / df)^(-n/2), df = n - 1.
"""

from __future__ import annotations

import math

import numpy as np

DEFAULT_SCALE = math.sqrt(0.5)
"""The customary scale of the Cauchy prior ("medium")."""


def log10_bayes_factor(t: float, n: int, scale: float = DEFAULT_SCALE) -> float:
    """Decimal logarithm of the Bayes factor for a difference over none.

    Args:
        t: Paired t.
        n: Number of pairs, >= 2.
        scale: Scale r of the Cauchy prior on dz.

    Returns:
        log10 BF10, in range whatever t is; NaN if t is undefined.
    """
    if not math.isfinite(t) or n < 2:
        return math.nan
    # The integral over u = ln g: its integrand is smooth and falls exponentially on both sides.
    step = 0.05
    u = np.arange(2 * math.log(scale) - 8, 2 * math.log(scale) + 80 + math.log1p(t * t), step)
    g = np.exp(u)
    log_prior = math.log(scale / math.sqrt(2 * math.pi)) - 0.5 * u - scale * scale / (2 * g)
    square = t * t / (n - 1)
    log_ratio = -0.5 * np.log1p(n * g) + n / 2 * (math.log1p(square) - np.log1p(square / (1 + n * g)))
    terms = log_prior + log_ratio
    top = float(np.max(terms))
    return (top + math.log(step * float(np.sum(np.exp(terms - top))))) / math.log(10)
