"""Tail probabilities that keep their digits where p leaves the range of double precision.

Everything rests on the regularised incomplete beta function I_x(a, b): P(F > f) = I_x(df2/2, df1/2) with
x = df2 / (df2 + df1 f), and P(|t| > |t0|) is the F tail at t0^2 with (1, df) degrees of freedom.
"""

from __future__ import annotations

import math

from scipy import special

LN10 = math.log(10.0)
_SAFE_P = 1e-280
"""Above it the direct p is accurate and its logarithm is taken; below it the logarithm is computed itself."""


def f_tail(f: float, df1: float, df2: float) -> float:
    """Probability of a larger F.

    Args:
        f: The F value, >= 0.
        df1: Numerator degrees of freedom, not necessarily whole.
        df2: Denominator degrees of freedom.

    Returns:
        P(F > f); 0.0 if it is below the smallest double (`log10_f_tail` still has it); NaN if undefined.
    """
    if not (math.isfinite(f) and df1 > 0 and df2 > 0):
        return math.nan
    return float(special.betainc(df2 / 2, df1 / 2, df2 / (df2 + df1 * f)))


def log10_f_tail(f: float, df1: float, df2: float) -> float:
    """Decimal logarithm of the probability of a larger F, without underflow.

    Args:
        f: The F value, >= 0.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.

    Returns:
        log10 P(F > f); NaN if undefined.
    """
    p = f_tail(f, df1, df2)
    if math.isnan(p) or p > _SAFE_P:
        return math.log10(p) if p > 0 else math.nan
    a, b = df2 / 2, df1 / 2
    # ln x and ln(1-x) from the ratio itself: 1 - x would lose the digits of a small x or of a small F.
    ratio = df1 * f / df2
    log_x, log_1mx = -math.log1p(ratio), -math.log1p(1 / ratio)
    head = a * log_x + b * log_1mx - math.log(a) - float(special.betaln(a, b))
    return (head + math.log(_beta_fraction(a, b, math.exp(log_x)))) / LN10


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) by Lentz's method (DLMF 8.17.22).

    It converges fast for x < (a + 1) / (a + b + 2), which every tail small enough to get here satisfies.
    """
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or tiny)
            c = (1.0 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def t_two_sided(t: float, df: float) -> float:
    """Two-sided p of a t value.

    Args:
        t: The t value.
        df: Degrees of freedom.

    Returns:
        P(|T| > |t|); NaN if undefined.
    """
    return f_tail(t * t, 1.0, df)


def t_critical(confidence: float, df: float) -> float:
    """Half-width factor of a two-sided interval.

    Args:
        confidence: E.g. 0.95.
        df: Degrees of freedom.

    Returns:
        The t quantile at (1 + confidence) / 2; NaN without degrees of freedom.
    """
    # The lower tail keeps the digits of a confidence near one.
    return -float(special.stdtrit(df, (1 - confidence) / 2)) if df > 0 else math.nan


def chi2_tail(x: float, df: float) -> float:
    """Probability of a larger chi-squared value; NaN if undefined."""
    return float(special.chdtrc(df, x)) if df > 0 and math.isfinite(x) else math.nan


def normal_tail(z: float) -> float:
    """Probability of a larger standard normal value."""
    return float(special.ndtr(-z))
