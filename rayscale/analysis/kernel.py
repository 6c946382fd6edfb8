"""The numerical heart: subjects x cells centred so that neither offsets, subject spread nor scale cost a digit.

Sums of squares by subtraction (total - subjects - effect) lose 4-6 digits for token counts near 1e12 or for subjects
that differ by 1e6 units while the noise is 3. So here (research: stats.md section 2, trap 7 and 8):

1. scale by a power of two (exact), so that 1e-160 or 1e160 neither underflow nor overflow when squared;
2. take within-subject differences D = Y - Y[:, :1]: what subjects have in common leaves before anything is summed;
3. centre D by column, by row, by column again; SS_error is the sum of squares of what remains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Centred:
    """A complete subjects x cells array, taken apart. All arrays are in units of 2**exponent.

    Attributes:
        exponent: Binary exponent of the unit.
        means: Cell means minus the mean over subjects of the first cell; shape (k,).
        residual: Doubly centred differences; shape (n, k).
        subject_means: Each subject's mean over the cells, the grand mean taken off; shape (n,).
        floor: Size up to which a residual is rounding of the input, not noise of the study.
    """

    exponent: int
    means: FloatArray
    residual: FloatArray
    subject_means: FloatArray
    floor: float

    @property
    def n(self) -> int:
        """Number of subjects."""
        return self.residual.shape[0]

    @property
    def k(self) -> int:
        """Number of cells."""
        return self.residual.shape[1]

    def in_units(self, sum_of_squares: float) -> float:
        """Give a sum of squares back in the units of the input; inf if it leaves the range of a double."""
        try:
            return math.ldexp(sum_of_squares, 2 * self.exponent)
        except OverflowError:
            return math.copysign(math.inf, sum_of_squares)

    @property
    def ss_subject(self) -> float:
        """Sum of squares between subjects, in input units squared."""
        return self.in_units(float(self.k * np.sum(self.subject_means**2)))


def input_rounding(values: FloatArray) -> float:
    """Bound the rounding that the values carry from being written as doubles.

    Whole numbers are exact; a decimal such as 0.1 is off by up to half a unit in its last place.

    Args:
        values: Finite values.

    Returns:
        Absolute size, in the units of the values.
    """
    top = float(np.max(np.abs(values), initial=0.0))
    whole = top < 2**53 and bool(np.all(values == np.rint(values)))
    return 0.0 if whole else EPS * top


def column_means(values: FloatArray) -> FloatArray:
    """Mean of each column, with one correction step, so that the columns of `values - means` sum to zero."""
    means = values.mean(axis=0)
    return means + (values - means).mean(axis=0)


def centre(values: FloatArray) -> Centred:
    """Take subjects x cells apart.

    Args:
        values: Finite values, shape (n >= 1, k >= 1).

    Returns:
        The centred parts.
    """
    exponent = _exponent(values)
    scaled = np.ldexp(values, -exponent)
    differences = scaled - scaled[:, :1]
    # The second scaling serves data whose differences are tiny beside their offset.
    inner = _exponent(differences)
    differences = np.ldexp(differences, -inner)
    rounding = EPS if input_rounding(values) else 0.0  # the scaled values are below 1
    with np.errstate(over="ignore"):
        rounding = float(np.ldexp(rounding, -inner))
        pivots = np.ldexp(scaled[:, 0] - scaled[0, 0], -inner)
    means = column_means(differences)
    residual = differences - means
    row = residual.mean(axis=1)
    residual = residual - row[:, None]
    residual -= residual.mean(axis=0)
    subjects = pivots + differences.mean(axis=1)
    return Centred(
        exponent=exponent + inner,
        means=means,
        residual=residual,
        subject_means=subjects - column_means(subjects[:, None])[0],
        floor=8 * (rounding + EPS * float(np.max(np.abs(differences), initial=0.0))),
    )


def _exponent(values: FloatArray) -> int:
    """Return e with max |values| in [2**(e-1), 2**e); 0 for all zeros."""
    return math.frexp(float(np.max(np.abs(values), initial=0.0)))[1]


def mean_and_sd(values: FloatArray) -> tuple[float, float]:
    """Two-pass mean and standard deviation (n - 1), free of offset and scale.

    Args:
        values: Finite values, shape (n,).

    Returns:
        Mean and sd; sd is NaN for a single value.
    """
    exponent = _exponent(values)
    scaled = np.ldexp(values, -exponent)
    pivot = float(scaled[0])
    shifted = scaled - pivot
    mean = float(column_means(shifted[:, None])[0])
    sd = math.sqrt(float(np.sum((shifted - mean) ** 2)) / (len(values) - 1)) if len(values) > 1 else math.nan
    return math.ldexp(pivot + mean, exponent), math.ldexp(sd, exponent)
