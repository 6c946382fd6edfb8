r"""All that an analysis of variance needs of a table, in one reading of it: means and a triangle of the noise.

With Z the (n x p) within-subject differences to the first of k = p + 1 cells, their means off, everything follows from
n, the means and the triangle R of Z = Q R. Contrasts C of the cells that sum to zero have effects m C and errors
Z C[1:], and |Z c| = |R c|, so SS, epsilons, Mauchly, Hotelling and trends are sums over a p x p triangle.

    subjects ->  | 8192 rows | 8192 rows | ...   each piece: differences, minus the first piece's means, Z'Z and sums
                   guess means                   end: Z'Z less n times the guess's miss; R by Cholesky

Squares of the differences cost digits where noise in one direction is small beside noise in another, or beside the
means. The sums themselves tell: they bound what was lost (`_LOSSLESS`, `_FAR`). Where the bound is not met, or noise
may be rounding of the input, the table is taken apart by `kernel.differences_of` and triangulated without squaring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.kernel import (
    EPS,
    FloatArray,
    binary_exponent,
    column_means,
    differences_of,
    input_rounding,
    square_in_units,
)

ROWS = 8192
"""Subjects per piece: a few cells of so many subjects stay in a core's cache."""
_SAFE = 200
"""Binary exponents of values whose squares and their sums are far from both ends of the range of doubles."""
_FEWEST = 64
"""Below it the exact way costs no more than the quick one."""
_LOSSLESS = 2.0**11
"""Largest |Z|^2 / (least |Z c|^2 of a unit c) of the quick way: sums of squares keep some 12 to 13 digits. |Z|^2 is
that about the guess, at most 1 + n / ROWS times the true one, since |guess - mean|^2 <= |Z|^2 / ROWS."""
_FAR = 2.0**22
"""Largest n |m|^2 / (least |Z c|^2): what the first subtraction rounds off is 2**-53 |m| per difference, so the noise
keeps 2**-53 2**11, some 12 digits, even if all roundings conspire."""


@dataclass(frozen=True, eq=False)
class Moments:
    """A complete subjects x cells array, condensed. In units of 2**exponent.

    Attributes:
        exponent: Binary exponent of the unit.
        n: Number of subjects.
        means: Cell means minus that of the first cell; shape (k,).
        factor: Upper triangular R with R'R = Z'Z; shape (min(n, k - 1), k - 1).
        subject: Sum of squares between subjects.
        floor: Size up to which an effect or a residual is rounding of the input.
        residual: Z with the first cell's zeros; shape (n, k). None if all noise is known to be above the floor.
    """

    exponent: int
    n: int
    means: FloatArray
    factor: FloatArray
    subject: float
    floor: float
    residual: FloatArray | None

    @property
    def k(self) -> int:
        """Number of cells."""
        return len(self.means)

    @property
    def ss_subject(self) -> float:
        """Sum of squares between subjects, in input units squared."""
        return self.in_units(self.subject)

    def in_units(self, sum_of_squares: float) -> float:
        """Give a sum of squares back in the units of the input; inf if it leaves the range of a double."""
        return square_in_units(sum_of_squares, self.exponent)

    def effects(self, contrasts: FloatArray) -> FloatArray:
        """Contrasts of the means.

        Args:
            contrasts: Shape (k, q), columns sum to zero.

        Returns:
            Shape (q,); all 0 if none is larger than rounding.
        """
        found = (self.means - self.means.mean()) @ contrasts
        return found if float(np.max(np.abs(found), initial=0.0)) > self.floor else np.zeros_like(found)

    def errors(self, contrasts: FloatArray) -> FloatArray:
        """Condense the contrasts of the noise.

        Args:
            contrasts: Shape (k, q), columns sum to zero.

        Returns:
            E, shape (rows of the factor, q), with E'E the errors' sums of squares and products; all 0 if none of any
            subject is larger than rounding.
        """
        rounded = self.residual is not None and float(np.max(np.abs(self.residual @ contrasts))) <= self.floor
        found = self.factor @ contrasts[1:]
        return np.zeros_like(found) if rounded else found


def moments(values: FloatArray) -> Moments:
    """Condense a table, quickly where that is known to cost no digits.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).

    Returns:
        The moments.
    """
    quick = quick_moments(values) if len(values) >= _FEWEST else None
    return exact_moments(values) if quick is None else quick


def exact_moments(values: FloatArray) -> Moments:
    """Condense a table without squaring: residuals with all their digits, triangulated by reflections.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).

    Returns:
        The moments.
    """
    parts = differences_of(values)
    subjects = parts.pivots + parts.residual.mean(axis=1)
    subjects = subjects - column_means(subjects[:, None])[0]
    factor: FloatArray = np.asarray(np.linalg.qr(parts.residual[:, 1:], mode="r"), dtype=np.float64)
    subject = float(values.shape[1] * np.sum(subjects**2))
    return Moments(parts.exponent, len(values), parts.means, factor, subject, parts.floor, parts.residual)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over all subjects, about the means of the first piece. In units of 2**exponent.

    Attributes:
        exponent: 0, or that of the first piece where it is extreme.
        guess: Its mean differences; shape (p,).
        centre: Its mean of the first cell.
        shift: Sum of differences - guess; shape (p,).
        gram: Sum of their products; shape (p, p).
        shift_subject: Sum of subject means about the guesses.
        square_subject: Sum of their squares.
        top: Largest size of a first cell.
    """

    exponent: int
    guess: FloatArray
    centre: float
    shift: FloatArray
    gram: FloatArray
    shift_subject: float
    square_subject: float
    top: float


def quick_moments(values: FloatArray) -> Moments | None:
    """Condense a table by sums of squares over pieces of it.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).

    Returns:
        The moments; None where this way is not known to keep the digits.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves the range of doubles is turned down below
        return _condense(values, _read(values))


def _read(values: FloatArray) -> _Sums:
    n, k = values.shape
    buffer = np.empty((k, min(ROWS, n)))
    share = np.full(k - 1, 1 / k)
    gram, square, top = np.zeros((k - 1, k - 1)), 0.0, 0.0
    shifts: list[FloatArray] = []
    subject_shifts: list[float] = []
    for start in range(0, n, ROWS):
        piece = buffer[:, : min(ROWS, n - start)]
        np.copyto(piece, values[start : start + ROWS].T)
        first, rest = piece[0], piece[1:]
        if start == 0:
            exponent = _extreme_exponent(piece)
        if exponent:
            np.ldexp(piece, -exponent, out=piece)
        top = max(top, float(first.max()), -float(first.min()))
        rest -= first
        if start == 0:
            guess, centre = rest.mean(axis=1), float(first.mean())
        rest -= guess[:, None]
        shifts.append(rest.sum(axis=1))
        gram += rest @ rest.T
        first -= centre
        first += share @ rest
        subject_shifts.append(float(first.sum()))
        square += float(first @ first)
    return _Sums(exponent, guess, centre, np.sum(shifts, axis=0), gram, float(np.sum(subject_shifts)), square, top)


def _extreme_exponent(piece: FloatArray) -> int:
    exponent = binary_exponent(piece)
    return exponent if abs(exponent) > _SAFE else 0


def _condense(values: FloatArray, sums: _Sums) -> Moments | None:
    n = len(values)
    means = sums.guess + sums.shift / n
    gram = sums.gram - np.outer(sums.shift, sums.shift) / n
    subject = sums.square_subject - sums.shift_subject * sums.shift_subject / n
    largest = float(np.max(np.diagonal(gram)))
    if not (1e-200 < largest < 1e200 and subject < 1e200 and float(means @ means) < 1e200):
        return None
    least = float(np.linalg.eigvalsh(gram)[0])
    if float(np.trace(sums.gram)) > _LOSSLESS * least or n * float(means @ means) > _FAR * least:
        return None
    size = float(np.max(np.abs(means)))
    top = sums.top + size + math.sqrt(largest)
    rounding = EPS * top if sums.exponent else input_rounding(values, top)
    floor = 8 * (rounding + EPS * (size + math.sqrt(largest / n)))
    # Every direction's root mean square lies above the floor, so its largest error does, too.
    if least <= n * floor**2:
        return None
    factor: FloatArray = np.linalg.cholesky(gram).T.astype(np.float64)
    return Moments(sums.exponent, n, np.concatenate(([0.0], means)), factor, (len(means) + 1) * subject, floor, None)
