"""The numerical heart: subjects x cells centred so that neither offsets, subject spread nor scale cost a digit.

Sums of squares by subtraction (total - subjects - effect) lose 4-6 digits for token counts near 1e12 or for subjects
that differ by 1e6 units while the noise is 3. So here (research: stats.md section 2, trap 7 and 8):

1. scale by a power of two (exact), so that 1e-160 or 1e160 neither underflow nor overflow when squared;
2. take within-subject differences D = Y - Y[:, :1]: what subjects have in common leaves before anything is summed;
3. centre D by column, by row, by column again; SS_error is the sum of squares of what remains.

A difference of two doubles need not be a double (1e12 - 0.1), nor need its distance from the mean be one. What either
subtraction rounds off is itself a double (Dekker 1971, Numerische Mathematik 18, 224-242): it is kept and added to
the small number that remains, so a level effect of 1e12 times the noise costs no digit of the noise.
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
        return square_in_units(sum_of_squares, self.exponent)

    @property
    def ss_subject(self) -> float:
        """Sum of squares between subjects, in input units squared."""
        return self.in_units(float(self.k * np.sum(self.subject_means**2)))


def square_in_units(square: float, exponent: int) -> float:
    """Give a square in units of 2**exponent back in input units squared.

    Args:
        square: In units of 2**(2 exponent).
        exponent: Binary exponent of the unit.

    Returns:
        The square; inf if it leaves the range of a double.
    """
    try:
        return math.ldexp(square, 2 * exponent)
    except OverflowError:
        return math.copysign(math.inf, square)


def input_rounding(values: FloatArray, top: float | None = None) -> float:
    """Bound the rounding that the values carry from being written as doubles.

    Whole numbers are exact; a decimal such as 0.1 is off by up to half a unit in its last place.

    Args:
        values: Finite values.
        top: A bound of their size where it is known; None looks for the largest.

    Returns:
        Absolute size, in the units of the values.
    """
    if top is None:
        top = max(float(np.max(values, initial=0.0)), -float(np.min(values, initial=0.0)))
    return 0.0 if top < 2**53 and _all_whole(values) else EPS * top


def _all_whole(values: FloatArray) -> bool:
    """Look at pieces of growing size: among decimals the first has one that is not whole."""
    first, rows = 0, 16
    while first < len(values):
        piece = values[first : first + rows]
        if not bool(np.all(piece == np.rint(piece))):
            return False
        first, rows = first + rows, min(8 * rows, 8192)
    return True


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
    parts = differences_of(values)
    row = parts.residual.mean(axis=1)
    residual = parts.residual - row[:, None]
    residual -= residual.mean(axis=0)
    subjects = parts.pivots + row
    return Centred(parts.exponent, parts.means, residual, subjects - column_means(subjects[:, None])[0], parts.floor)


@dataclass(frozen=True, eq=False)
class Differences:
    """Differences of all cells from each subject's first, their means taken off. In units of 2**exponent.

    Attributes:
        exponent: Binary exponent of the unit.
        means: Mean differences; shape (k,), the first is 0.
        residual: Differences minus their means; shape (n, k), the first column is 0.
        pivots: Each subject's first cell minus that of the first subject; shape (n,).
        floor: Size up to which a residual is rounding of the input, not noise of the study.
    """

    exponent: int
    means: FloatArray
    residual: FloatArray
    pivots: FloatArray
    floor: float


def differences_of(values: FloatArray) -> Differences:
    """Take within-subject differences and their means off, keeping what the two subtractions round off.

    Args:
        values: Finite values, shape (n >= 1, k >= 1).

    Returns:
        The differences; the residual has the full number of digits of its own size.
    """
    exponent = binary_exponent(values)
    scaled = np.ldexp(values, -exponent)
    differences, lost = _subtract(scaled, scaled[:, :1])
    # The second scaling serves data whose differences are tiny beside their offset.
    inner = binary_exponent(differences)
    differences, lost = np.ldexp(differences, -inner), np.ldexp(lost, -inner)
    rounding = EPS if input_rounding(values) else 0.0  # the scaled values are below 1
    with np.errstate(over="ignore"):
        rounding = float(np.ldexp(rounding, -inner))
        pivots = np.ldexp(scaled[:, 0] - scaled[0, 0], -inner)
    means = column_means(differences)
    residual, also_lost = _subtract(differences, means)
    residual += lost + also_lost
    rest = residual.mean(axis=0)
    residual -= rest
    floor = 8 * (rounding + EPS * float(np.max(np.abs(differences), initial=0.0)))
    return Differences(exponent + inner, means + rest, residual, pivots, floor)


def _subtract(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rounded a - b and what the rounding took: their sum is a - b exactly (Knuth's two-sum)."""
    difference = a - b
    part = difference - a
    return difference, (a - (difference - part)) - (b + part)


def binary_exponent(values: FloatArray) -> int:
    """Find the power of two above all values.

    Args:
        values: Finite values.

    Returns:
        e with max |values| in [2**(e-1), 2**e); 0 for all zeros.
    """
    return math.frexp(max(float(np.max(values, initial=0.0)), -float(np.min(values, initial=0.0))))[1]


def mean_and_sd(values: FloatArray) -> tuple[float, float]:
    """Two-pass mean and standard deviation (n - 1), free of offset and scale.

    Args:
        values: Finite values, shape (n,).

    Returns:
        Mean and sd; sd is NaN for a single value.
    """
    exponent = binary_exponent(values)
    scaled = np.ldexp(values, -exponent)
    pivot = float(scaled[0])
    shifted = scaled - pivot
    mean = float(column_means(shifted[:, None])[0])
    sd = math.sqrt(float(np.sum((shifted - mean) ** 2)) / (len(values) - 1)) if len(values) > 1 else math.nan
    return math.ldexp(pivot + mean, exponent), math.ldexp(sd, exponent)
