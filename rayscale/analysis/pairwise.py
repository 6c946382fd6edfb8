"""Pairs of levels: paired t with the pair's own error, effect sizes, intervals; and the pooled-error version beside it.

The two differ (separate error: df n - 1; pooled: the ANOVA's error, df (n - 1)(k - 1)); only the separate one is
valid without sphericity, so it leads.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from rayscale.analysis.distributions import f_tail, log10_f_tail, t_critical, t_two_sided
from rayscale.analysis.kernel import EPS, FloatArray, input_rounding, mean_and_sd
from rayscale.analysis.ranks import Wilcoxon, wilcoxon


@dataclass(frozen=True)
class Pair:
    """Lower level minus higher level. NaN where undefined.

    Attributes:
        lower: Index of the lower level.
        higher: Index of the higher level.
        mean_diff: Mean difference.
        sd_diff: Its standard deviation over subjects.
        t: Paired t.
        df: n - 1.
        p_raw: Two-sided p.
        log10_p_raw: Its decimal logarithm.
        ci: Interval of the mean difference.
        ci_bonferroni: The same, simultaneous over all pairs.
        cohen_dz: mean_diff / sd_diff.
        hedges_gz: dz times the exact small-sample factor.
        cohen_dav: mean_diff / root mean square of the two levels' sd.
        wilcoxon: Signed-rank test.
        constant: True if every subject has the same difference.
    """

    lower: int
    higher: int
    mean_diff: float
    sd_diff: float
    t: float
    df: int
    p_raw: float
    log10_p_raw: float
    ci: tuple[float, float]
    ci_bonferroni: tuple[float, float]
    cohen_dz: float
    hedges_gz: float
    cohen_dav: float
    wilcoxon: Wilcoxon
    constant: bool


def hedges_factor(df: float) -> float:
    """Exact bias correction of a standardised mean difference.

    Hedges (1981), Journal of Educational Statistics 6, 107-128: G(df/2) / (sqrt(df/2) G((df-1)/2)).

    Args:
        df: Degrees of freedom.

    Returns:
        A factor below 1; NaN for df < 2.
    """
    if df < 2:
        return math.nan
    return math.exp(float(special.gammaln(df / 2) - special.gammaln((df - 1) / 2))) / math.sqrt(df / 2)


def pairwise(values: FloatArray, alpha: float) -> list[Pair]:
    """Compare all pairs of levels.

    Args:
        values: Finite values, shape (n, k), levels in ascending order.
        alpha: Significance level; intervals have confidence 1 - alpha.

    Returns:
        One result per pair, in the order (0,1), (0,2), ..., (1,2), ...
    """
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    rounding = input_rounding(values)
    return [_compare(values, pair, alpha, len(pairs), rounding) for pair in pairs]


def _compare(values: FloatArray, pair: tuple[int, int], alpha: float, family: int, rounding: float) -> Pair:
    lower, higher = values[:, pair[0]], values[:, pair[1]]
    differences = lower - higher
    n, df = len(differences), len(differences) - 1
    mean, sd = mean_and_sd(differences)
    largest = float(np.max(np.abs(differences)))
    constant = float(np.max(np.abs(differences - mean))) <= 4 * (rounding + EPS * largest)
    sd = 0.0 if constant and n > 1 else sd
    se = sd / math.sqrt(n)
    usable = n > 1 and not constant
    t = mean / se if usable else math.nan
    dz = mean / sd if usable else math.nan
    spread = math.hypot(mean_and_sd(lower)[1], mean_and_sd(higher)[1]) / math.sqrt(2)
    half = se * t_critical(1 - alpha, df)
    wide = se * t_critical(1 - alpha / family, df)
    return Pair(
        lower=pair[0],
        higher=pair[1],
        mean_diff=mean,
        sd_diff=sd,
        t=t,
        df=df,
        p_raw=t_two_sided(t, df),
        log10_p_raw=log10_f_tail(t * t, 1, df),
        ci=(mean - half, mean + half),
        ci_bonferroni=(mean - wide, mean + wide),
        cohen_dz=dz,
        hedges_gz=dz * hedges_factor(df),
        cohen_dav=mean / spread if n > 1 and spread > 0 else math.nan,
        wilcoxon=wilcoxon(differences),
        constant=constant,
    )


def pooled_t(pair: Pair, rms_error: float, n: int, df: int) -> tuple[float, float]:
    """Compare a pair with the ANOVA's error instead of its own.

    Args:
        pair: The pair.
        rms_error: Square root of the error mean square.
        n: Number of subjects.
        df: Degrees of freedom of the error.

    Returns:
        t and its two-sided p; NaN without error variance.
    """
    if not rms_error > 0:
        return math.nan, math.nan
    t = pair.mean_diff / rms_error * math.sqrt(n / 2)
    return t, f_tail(t * t, 1, df)
