"""Marginal returns: what the next level of a factor buys, e.g. nats of held-out loss per additional kilojoule.

    return = mean(loss of the lower level - loss of the upper) / mean(resource of the upper - resource of the lower)

Both means are over blocks (repetitions), within which both levels share seed and device. The ratio's interval is
Fieller's (1954, Journal of the Royal Statistical Society B 16, 175-185), exact for normal differences:

    (rho - g s_ab/s_bb +- t/b sqrt(s_aa - 2 rho s_ab + rho^2 s_bb - g (s_aa - s_ab^2/s_bb))) / (1 - g),
    g = t^2 s_bb / b^2

with a, b the means and s the (co)variances of the means. Where g >= 1 the additional resource itself cannot be told
from 0 and no bounded interval exists: it is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.distributions import t_critical

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means.

    Attributes:
        value: numerator / denominator; None if the denominator is 0.
        ci: Fieller's interval; None where it is not bounded, or there are fewer than two blocks.
        n: Blocks.
    """

    value: float | None
    ci: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class MarginalReturn:
    """What a step from one level to the next buys.

    Attributes:
        lower: Label of the lower level.
        upper: Label of the upper level.
        gain: Mean fall of the loss. Units: nats per token.
        spent: Mean additional resource.
        ratio: gain / spent.
    """

    lower: str
    upper: str
    gain: float
    spent: float
    ratio: Ratio


def fieller(numerator: Array, denominator: Array, alpha: float = 0.05) -> Ratio:
    """Estimate a ratio of means of paired values.

    Args:
        numerator: One value per block. Shape (n,).
        denominator: The same blocks. Shape (n,).
        alpha: The interval has confidence 1 - alpha.

    Returns:
        The ratio.
    """
    n = len(numerator)
    a, b = float(np.mean(numerator)), float(np.mean(denominator))
    if b == 0 or n == 0:
        return Ratio(None, None, n)
    rho = a / b
    if n < 2:
        return Ratio(rho, None, n)
    covariance = np.cov(numerator, denominator, ddof=1) / n
    s_aa, s_ab, s_bb = float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])
    t = t_critical(1 - alpha, n - 1)
    g = t * t * s_bb / (b * b)
    if g >= 1:
        return Ratio(rho, None, n)
    shift = g * s_ab / s_bb if s_bb > 0 else 0.0
    rest = g * (s_aa - s_ab * s_ab / s_bb) if s_bb > 0 else 0.0
    half = t / abs(b) * math.sqrt(max(s_aa - 2 * rho * s_ab + rho * rho * s_bb - rest, 0.0))
    return Ratio(rho, ((rho - shift - half) / (1 - g), (rho - shift + half) / (1 - g)), n)


def marginal_return(
    labels: tuple[str, str], loss: tuple[Array, Array], resource: tuple[Array, Array], alpha: float = 0.05
) -> MarginalReturn:
    """Compare two levels.

    Args:
        labels: Lower and upper level.
        loss: Losses of the same blocks at both levels. Shape (n,) each.
        resource: The resource of the same trials.
        alpha: The interval has confidence 1 - alpha.

    Returns:
        The marginal return.
    """
    gain, spent = loss[0] - loss[1], resource[1] - resource[0]
    return MarginalReturn(*labels, float(gain.mean()), float(spent.mean()), fieller(gain, spent, alpha))
