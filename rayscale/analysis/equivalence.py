"""Two one-sided tests: is a difference shown to be smaller than a margin that was declared beforehand?

Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680. A test that finds no difference
does not show that there is none; this one can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayscale.analysis.distributions import t_critical, t_two_sided


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of one mean difference. NaN where undefined.

    Attributes:
        low: Lower margin, in units of the measure.
        high: Upper margin.
        t_lower: t against the lower margin.
        t_upper: t against the upper margin.
        df: n - 1.
        p_lower: One-sided p that the difference is above the lower margin.
        p_upper: One-sided p that it is below the upper margin.
        p: The larger one: p of equivalence.
        ci: Interval of confidence 1 - 2 alpha; equivalence at alpha is shown if it lies within the margins.
    """

    low: float
    high: float
    t_lower: float
    t_upper: float
    df: int
    p_lower: float
    p_upper: float
    p: float
    ci: tuple[float, float]


def equivalence(mean_diff: float, sd_diff: float, n: int, low: float, high: float, alpha: float = 0.05) -> Equivalence:
    """Test a mean difference for equivalence.

    Args:
        mean_diff: Mean difference.
        sd_diff: Standard deviation of the differences.
        n: Number of pairs.
        low: Lower margin, e.g. -0.05.
        high: Upper margin, above `low`.
        alpha: Significance level.

    Returns:
        The tests; t and p are NaN without spread.
    """
    df, se = n - 1, sd_diff / math.sqrt(n)
    t_lower, t_upper = ((mean_diff - bound) / se if se > 0 else math.nan for bound in (low, high))
    p_lower, p_upper = _upper_tail(t_lower, df), _upper_tail(-t_upper, df)
    half = se * t_critical(1 - 2 * alpha, df)
    return Equivalence(
        low=low,
        high=high,
        t_lower=t_lower,
        t_upper=t_upper,
        df=df,
        p_lower=p_lower,
        p_upper=p_upper,
        p=math.nan if math.isnan(p_lower) else max(p_lower, p_upper),
        ci=(mean_diff - half, mean_diff + half),
    )


def _upper_tail(t: float, df: int) -> float:
    half = t_two_sided(t, df) / 2
    return half if t > 0 else 1 - half
