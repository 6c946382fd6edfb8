"""Noncentral t and F by sums that keep their digits at large values; power, and their inversion for intervals.

Under an effect, t and F follow noncentral distributions. Power is their tail beyond the critical value; turned round,
the noncentralities under which an observed value is not extreme are a confidence interval (Steiger 2004,
Psychological Methods 9, 164-182).

scipy's `ncfdtr` gives NaN for some large effects, and its inverses (`nctdtrinc`, `ncfdtrinc`) are off or fail there (t
in the hundreds), which is where token-scale studies live. Both distributions are averages of a simple one over a smooth
density, and the trapezoid rule converges faster than any power on those, so a few hundred terms give about ten digits
whatever the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from rayscale.analysis.kernel import FloatArray

REACH = 10.0
"""Standard deviations after which a normal-like density is cut off (mass beyond: 1e-23)."""
STEPS_PER_SD = 4.0
"""Grid points per standard deviation: the trapezoid rule's error on a normal density is then exp(-2 pi^2 16)."""


def noncentral_t_cdf(t: float, df: float, delta: float) -> float:
    """Probability of a noncentral t value of at most t.

    P(T <= t) = P(Z + delta <= t S) with Z standard normal and S = sqrt(chi2_df / df): the average over S of a normal
    distribution or, for large t, over Z of a chi distribution, whichever is the smoother one.

    Args:
        t: The value, >= 0.
        df: Degrees of freedom, > 0.
        delta: Noncentrality.

    Returns:
        The probability, absolute error below 1e-6 (df = 1) and 1e-10 (df >= 5).
    """
    if t > 40 and t > math.sqrt(df / 2):
        z = np.arange(-REACH, REACH, 0.05)
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        size = np.maximum(z + delta, 0.0) / t
        return float(0.05 * np.sum(density * special.gammaincc(df / 2, df / 2 * size**2)))
    # u = ln S has a density proportional to exp(df (u - e^(2u) / 2)), smooth on the whole line.
    spread = 1 / math.sqrt(2 * df)
    step = min(spread, 1 / max(t, 1.0)) / STEPS_PER_SD
    u = np.arange(-REACH * spread - 33 / df, REACH * spread, step)
    weight = np.exp(df * (u - np.exp(2 * u) / 2 + 0.5))
    return float(np.sum(weight * special.ndtr(t * np.exp(u) - delta)) / np.sum(weight))


def noncentral_f_cdf(f: float, df1: float, df2: float, noncentrality: float) -> float:
    """Probability of a noncentral F value of at most f.

    The Poisson mixture sum_j Poisson(j; lambda/2) I_y(df1/2 + j, df2/2), y = df1 f / (df1 f + df2). For large lambda
    the sum over j is taken with a stride of a quarter of the Poisson's standard deviation.

    Args:
        f: The value, >= 0.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        noncentrality: lambda, >= 0.

    Returns:
        The probability.
    """
    mean = noncentrality / 2
    sd = math.sqrt(mean)
    stride = max(1, int(sd / STEPS_PER_SD))
    first = max(0, int(mean - REACH * sd - 1))
    j = np.arange(first, mean + REACH * sd + 40, stride)
    weight = _poisson_shape(j, mean)
    y = df1 * f / (df1 * f + df2)
    return float(np.sum(weight * special.betainc(df1 / 2 + j, df2 / 2, y)) / np.sum(weight))


def _poisson_shape(j: FloatArray, mean: float) -> FloatArray:
    """Poisson probabilities up to a factor, free of the cancellation of j ln(mean) - ln j! at large j."""
    if mean == 0:
        return np.where(j == 0, 1.0, 0.0)
    if mean < 150:
        return np.exp(j * math.log(mean) - mean - special.gammaln(j + 1))
    d = (j - mean) / mean
    correction = 1 / (12 * j) - 1 / (360 * j**3)  # Stirling's series
    return np.exp(-mean * ((1 + d) * np.log1p(d) - d) - correction) / np.sqrt(j)


def f_critical(alpha: float, df1: float, df2: float) -> float:
    """Return the F that is exceeded with probability alpha when there is no effect.

    Args:
        alpha: Tail probability in (0, 1).
        df1: Numerator degrees of freedom, not necessarily whole.
        df2: Denominator degrees of freedom.

    Returns:
        The critical value; inf where alpha is so small that it leaves the range of a double.
    """
    x = float(special.betaincinv(df2 / 2, df1 / 2, alpha))
    return df2 / df1 * (1 / x - 1) if x > 0 else math.inf


def power_of_f(df1: float, df2: float, noncentrality: float, alpha: float) -> float:
    """Return the probability that the F test rejects.

    Args:
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        noncentrality: Lambda, >= 0.
        alpha: Significance level.

    Returns:
        Power in [alpha, 1].
    """
    critical = f_critical(alpha, df1, df2)
    if math.isinf(critical):
        return alpha
    missed = noncentral_f_cdf(critical, df1, df2, noncentrality)
    return min(1.0, max(alpha, 1.0 - missed))


def t_noncentrality(t: float, df: float, probability: float) -> float:
    """Find the noncentrality at which t has a given lower-tail probability.

    Args:
        t: Observed t.
        df: Degrees of freedom.
        probability: P(T <= t), in (0, 1).

    Returns:
        The noncentrality; NaN if t is undefined.
    """
    if not math.isfinite(t) or df < 1:
        return math.nan
    if t < 0:
        return -t_noncentrality(-t, df, 1 - probability)
    width = 2 + t / math.sqrt(df)
    return _falling_root(lambda delta: noncentral_t_cdf(t, df, delta), probability, t, width, -math.inf)


def f_noncentrality(f: float, df1: float, df2: float, probability: float) -> float:
    """Find the noncentrality at which F has a given lower-tail probability.

    Args:
        f: Observed F.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        probability: P(F' <= f), in (0, 1).

    Returns:
        lambda; 0 if even the central F is below the probability; NaN if F is undefined.
    """
    if not math.isfinite(f):
        return math.nan
    if noncentral_f_cdf(f, df1, df2, 0.0) <= probability:
        return 0.0
    start = math.sqrt(df1 * f)
    width = 2 + start / math.sqrt(df2)
    # The square root of lambda is nearly linear in the probit of the probability.
    root = _falling_root(lambda x: noncentral_f_cdf(f, df1, df2, x * x), probability, start, width, 0.0)
    return root * root


def _falling_root(cdf: Callable[[float], float], target: float, start: float, width: float, least: float) -> float:
    """Solve cdf(x) = target for a falling cdf: bracket, then the Illinois method on the probit scale."""

    def probit(x: float) -> float:
        return float(special.ndtri(min(max(cdf(x), 1e-300), 1 - 1e-16))) - aim

    aim = float(special.ndtri(target))
    low, high = max(least, start - width), start + width
    f_low, f_high = probit(low), probit(high)
    while f_low < 0 and low > least:
        width *= 2
        low = max(least, low - width)
        f_low = probit(low)
    while f_high > 0 and width < 1e150:
        width *= 2
        high += width
        f_high = probit(high)
    side = 0
    for _ in range(100):
        x = (low * f_high - high * f_low) / (f_high - f_low)
        value = probit(x)
        if abs(value) < 1e-12 or abs(high - low) <= 1e-13 * abs(x):
            break
        if value > 0:
            low, f_low, f_high = x, value, f_high / 2 if side == 1 else f_high
            side = 1
        else:
            high, f_high, f_low = x, value, f_low / 2 if side == -1 else f_low
            side = -1
    return x


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a monotonic function changes sign; scipy.optimize would cost its import.

    Args:
        function: With different signs at both ends.
        low: One end.
        high: The other end.

    Returns:
        The root, to the last digits of a double.
    """
    rising = function(high) > 0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high) or high - low <= 1e-14 * high:
            break
        if (function(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2
