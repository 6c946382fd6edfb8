"""Shapiro and Wilk's test of normality by Royston's approximation, without the second that `import scipy.stats` takes.

W = (sum a_i x_(i))^2 / sum (x_i - mean)^2 with weights a from the expected order statistics of normal numbers, and a
transformation of 1 - W that is close to normal (Royston 1995, Applied Statistics 44, 547-551, algorithm AS R94).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from rayscale.analysis.distributions import normal_tail
from rayscale.analysis.kernel import FloatArray

# Royston's polynomials, lowest power first: the two outermost weights in 1 / sqrt(n), ...
_FIRST = (0.0, 0.221157, -0.147981, -2.07119, 4.434685, -2.706056)
_SECOND = (0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633)
# ... mean and log sd of the transformed 1 - W in n (up to 11 values), and in ln n (12 and more).
_MEAN_SMALL = (0.544, -0.39978, 0.025054, -6.714e-4)
_LOG_SD_SMALL = (1.3822, -0.77857, 0.062767, -0.0020322)
_MEAN = (-1.5861, -0.31082, -0.083751, 0.0038915)
_LOG_SD = (-0.4803, -0.082676, 0.0030302)


def shapiro_wilk(values: FloatArray) -> tuple[float, float]:
    """Test numbers for normality.

    Args:
        values: 3 to 5,000 numbers, not all equal; shape (n,).

    Returns:
        W and its p.
    """
    ordered = np.sort(values)
    centred = ordered - ordered.mean()
    n = len(ordered)
    W = min(1.0, float(weights(n) @ centred) ** 2 / float(centred @ centred))
    return W, _p(W, n)


def weights(n: int) -> FloatArray:
    """Weights of the ordered values.

    Args:
        n: Number of values, >= 3.

    Returns:
        Antisymmetric, of length 1; shape (n,).
    """
    if n == 3:
        return np.array([-1.0, 0.0, 1.0]) * math.sqrt(0.5)
    expected = special.ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))
    square = float(expected @ expected)
    outer = 2 if n > 5 else 1
    ends = [
        _polynomial(terms, 1 / math.sqrt(n)) + float(expected[-1 - i]) / math.sqrt(square)
        for i, terms in enumerate((_FIRST, _SECOND)[:outer])
    ]
    rest = square - 2 * sum(float(expected[-1 - i]) ** 2 for i in range(outer))
    found: FloatArray = expected * math.sqrt((1 - 2 * sum(end * end for end in ends)) / rest)
    for i, end in enumerate(ends):
        found[i], found[-1 - i] = -end, end
    return found


def _p(W: float, n: int) -> float:
    if n == 3:
        return min(1.0, max(0.0, 6 / math.pi * (math.asin(math.sqrt(W)) - math.asin(math.sqrt(0.75)))))
    if W >= 1.0:
        return 1.0
    y = math.log1p(-W)
    if n > 11:
        size = math.log(n)
        return normal_tail((y - _polynomial(_MEAN, size)) / math.exp(_polynomial(_LOG_SD, size)))
    limit = 0.459 * n - 2.273
    if y >= limit:
        return 0.0
    return normal_tail((-math.log(limit - y) - _polynomial(_MEAN_SMALL, n)) / math.exp(_polynomial(_LOG_SD_SMALL, n)))


def _polynomial(terms: tuple[float, ...], x: float) -> float:
    return math.fsum(term * x**power for power, term in enumerate(terms))
