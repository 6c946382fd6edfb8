"""The noncentral F distribution as planning needs it: power, and the noncentrality that a published F allows.

Under an effect, F follows F'(df1, df2, lambda). Power is its tail beyond the critical value; turned round, the lambdas
under which an observed F is not extreme are a confidence interval (Steiger 2004, Psychological Methods 9, 164-182).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special


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


def noncentral_f_cdf(F: float, df1: float, df2: float, noncentrality: float) -> float:
    """Return the probability of a smaller F under an effect.

    scipy's series gives NaN for a few values far in the lower tail (seen: df 3, 504, lambda 1352, where the probability
    is about 1e-120); there Severo & Zelen's normal approximation serves (Abramowitz & Stegun 26.6.27).

    Args:
        F: The value, >= 0.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        noncentrality: Lambda, >= 0.

    Returns:
        A probability.
    """
    exact = float(special.ncfdtr(df1, df2, noncentrality, F))
    if not math.isnan(exact):
        return exact
    ratio = (df1 * F / (df1 + noncentrality)) ** (1 / 3)
    spread = 2 * (df1 + 2 * noncentrality) / (9 * (df1 + noncentrality) ** 2)
    distance = ratio * (1 - 2 / (9 * df2)) - (1 - spread)
    return float(special.ndtr(distance / math.sqrt(spread + 2 / (9 * df2) * ratio**2)))


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


def noncentrality_bound(F: float, df1: float, df2: float, probability: float) -> float:
    """Return the lambda under which a smaller F than the observed one has the given probability.

    Args:
        F: Observed value, >= 0.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        probability: 0.95 gives the lower, 0.05 the upper end of a 90 % interval.

    Returns:
        Lambda; 0 where even without an effect a smaller F is less probable than that.
    """

    def excess(noncentrality: float) -> float:
        return noncentral_f_cdf(F, df1, df2, noncentrality) - probability

    if excess(0.0) <= 0:
        return 0.0
    high = max(1.0, df1 * F)
    while excess(high) > 0:
        high *= 2
    return bisect(excess, 0.0, high)


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
