"""Tests on ranks, with ties: Friedman, Kendall's W, Iman-Davenport, Page's trend, Wilcoxon's signed ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import chi2_tail, normal_tail
from rayscale.analysis.kernel import FloatArray


@dataclass(frozen=True)
class Friedman:
    """Friedman's test with tie correction. NaN where all values of every subject are tied.

    Attributes:
        chi2: Tie-corrected statistic.
        df: k - 1.
        p: Chi-squared tail.
        kendall_W: Concordance, chi2 / (n (k - 1)).
        iman_davenport_F: (n - 1) chi2 / (n (k - 1) - chi2), with k - 1 and (n - 1)(k - 1) df; NaN when W = 1.
    """

    chi2: float
    df: int
    p: float
    kendall_W: float
    iman_davenport_F: float


@dataclass(frozen=True)
class Page:
    """Page's test of an ordered alternative, asymptotic, without tie correction.

    Attributes:
        L_ascending: Sum of position x rank sum, levels ascending.
        p_ascending: One-sided p that the measure rises.
        L_descending: The same for levels descending.
        p_descending: One-sided p that the measure falls.
    """

    L_ascending: float
    p_ascending: float
    L_descending: float
    p_descending: float


@dataclass(frozen=True)
class Wilcoxon:
    """Wilcoxon's signed-rank test, normal approximation with tie correction.

    Attributes:
        V: Sum of the ranks of positive differences, zeros dropped.
        p_normal: Two-sided p without continuity correction, zeros dropped.
        p_continuity: The same with continuity correction.
        p_pratt: Two-sided p, zeros ranked and then left out (Pratt 1959), without continuity correction.
    """

    V: float
    p_normal: float
    p_continuity: float
    p_pratt: float


def average_ranks(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rank values from 1, ties sharing their mean rank.

    Args:
        values: Shape (m,).

    Returns:
        The ranks, and the size of each group of ties.
    """
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group], counts.astype(float)


def friedman(values: FloatArray) -> tuple[Friedman, Page]:
    """Test for differences between levels on ranks within subjects.

    Friedman (1937), JASA 32, 675-701; ties as in Hollander & Wolfe; Iman & Davenport (1980),
    Communications in Statistics A 9, 571-595; Page (1963), JASA 58, 216-230.

    Args:
        values: Shape (n, k >= 2).

    Returns:
        Friedman's and Page's tests.
    """
    n, k = values.shape
    sums, ties = _rank_sums(values)
    below = n * k * (k + 1) - ties / (k - 1)
    chi2 = 12 * float(np.sum((sums - n * (k + 1) / 2) ** 2)) / below if below > 0 else math.nan
    rest = n * (k - 1) - chi2
    imd = (n - 1) * chi2 / rest if rest > 1e-9 * n * k else math.nan
    result = Friedman(chi2, k - 1, chi2_tail(chi2, k - 1), chi2 / (n * (k - 1)), imd)
    return result, _page(sums, n, k)


def _rank_sums(values: FloatArray) -> tuple[FloatArray, float]:
    """Column sums of the average ranks within rows, and the sum of c^3 - c over all groups of c tied values."""
    k = values.shape[1]
    sums, ties = np.zeros(k), 0.0
    for j in range(k):
        # Rank = 1 + how many are smaller + half of how many others are equal; each of c tied values adds c^2 - 1.
        equal = np.sum(values == values[:, j : j + 1], axis=1)
        smaller = np.sum(values < values[:, j : j + 1], axis=1)
        sums[j] = float(np.sum(smaller)) + float(np.sum(equal + 1)) / 2
        ties += float(np.sum(equal**2 - 1))
    return sums, ties


def _page(sums: FloatArray, n: int, k: int) -> Page:
    position = np.arange(1, k + 1)
    up, down = float(np.sum(position * sums)), float(np.sum(position[::-1] * sums))
    mean, sd = n * k * (k + 1) ** 2 / 4, math.sqrt(n * k**2 * (k + 1) ** 2 * (k - 1) / 144)
    return Page(up, normal_tail((up - mean) / sd), down, normal_tail((down - mean) / sd))


def wilcoxon(differences: FloatArray) -> Wilcoxon:
    """Test whether paired differences are symmetric around zero.

    Ties are differences that are equal as floating-point numbers, as in R: 5.5 - 5.4 and 5.4 - 5.3 are not.

    Args:
        differences: One per subject.

    Returns:
        The statistic and three p values; NaN if all differences are zero.
    """
    size = np.abs(differences)
    zeros = int(np.sum(size == 0))
    m, rest = len(size), len(size) - zeros
    if rest == 0:
        return Wilcoxon(0.0, math.nan, math.nan, math.nan)
    nonzero, positive = size > 0, differences > 0
    ranks, counts = average_ranks(size[nonzero])
    ties = float(np.sum(counts**3 - counts)) / 48
    V = float(np.sum(ranks[positive[nonzero]]))
    shift, var = V - rest * (rest + 1) / 4, rest * (rest + 1) * (2 * rest + 1) / 24 - ties
    pratt = float(np.sum((ranks + zeros)[positive[nonzero]])) - (m * (m + 1) - zeros * (zeros + 1)) / 4
    pratt_var = (m * (m + 1) * (2 * m + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24 - ties
    sd = math.sqrt(var) if var > 0 else math.nan
    return Wilcoxon(
        V=V,
        p_normal=_two_sided(abs(shift) / sd),
        p_continuity=_two_sided(max(0.0, abs(shift) - 0.5) / sd),
        p_pratt=_two_sided(abs(pratt) / math.sqrt(pratt_var)) if pratt_var > 0 else math.nan,
    )


def _two_sided(z: float) -> float:
    return min(1.0, 2 * normal_tail(z))
