"""What each level looks like: n, mean, sd, standard error, interval, range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import t_critical
from rayscale.analysis.kernel import FloatArray, mean_and_sd


@dataclass(frozen=True)
class Description:
    """One level over subjects. sd, se and ci are NaN for a single subject."""

    n: int
    mean: float
    sd: float
    se: float
    ci: tuple[float, float]
    median: float
    min: float
    max: float


def describe(column: FloatArray, alpha: float) -> Description:
    """Describe one level.

    Args:
        column: Finite values, one per subject, at least one.
        alpha: The interval of the mean (from the level's own sd) has confidence 1 - alpha.

    Returns:
        The description.
    """
    n = len(column)
    mean, sd = mean_and_sd(column)
    se = sd / math.sqrt(n)
    half = se * t_critical(1 - alpha, n - 1)
    return Description(
        n=n,
        mean=mean,
        sd=sd,
        se=se,
        ci=(mean - half, mean + half),
        median=float(np.median(column)),
        min=float(np.min(column)),
        max=float(np.max(column)),
    )
