"""Within-subject analysis of variance of doubles in whole-number arithmetic: the truth that the kernel is held against.

A double is a whole number times a power of two, so a table is a table of whole numbers over one common denominator, and
everything up to the final ratio is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Exact:
    """Exact values, rounded once. T2 and W are NaN where the covariance is singular."""

    F: float
    gg: float
    ss_error: float
    ss_subject: float
    T2: float
    W: float


def exact_anova(values: NDArray[np.float64]) -> Exact:
    """Analyse subjects x levels exactly; n >= 2 with some error variance."""
    n, k = values.shape
    fractions = [[Fraction(float(v)) for v in row] for row in values]
    denominator = max(f.denominator for row in fractions for f in row)
    y = [[int(f * denominator) for f in row] for row in fractions]
    rows, columns = [sum(row) for row in y], [sum(column) for column in zip(*y, strict=True)]
    total = sum(rows)
    # All numbers below are n k times those of the textbook.
    z = [[n * k * y[i][j] - n * rows[i] - k * columns[j] + total for j in range(k)] for i in range(n)]
    gram = [[sum(row[a] * row[b] for row in z) for b in range(k)] for a in range(k)]
    error = sum(gram[j][j] for j in range(k))
    effect = n * sum((k * column - total) ** 2 for column in columns)
    subject = k * sum((n * row - total) ** 2 for row in rows)
    T2, W = _multivariate([[row[j] - row[0] for j in range(k)] for row in y], Fraction(error, (n * k) ** 2))
    unit = (n * k * denominator) ** 2
    return Exact(
        F=_double(Fraction(effect * (n - 1), error)),
        gg=_double(Fraction(error**2, (k - 1) * sum(g * g for row in gram for g in row))),
        ss_error=_double(Fraction(error, unit)),
        ss_subject=_double(Fraction(subject, unit)),
        T2=T2,
        W=W,
    )


def _multivariate(differences: list[list[int]], error: Fraction) -> tuple[float, float]:
    """Hotelling's T2 = n (n - 1) m' H^-1 m, and W = det(H) / k / (error / p)^p, by Gauss on whole numbers."""
    n, k = len(differences), len(differences[0])
    p = k - 1
    sums = [sum(row[j] for row in differences) for j in range(1, k)]
    z = [[n * row[j] - sums[j - 1] for j in range(1, k)] for row in differences]
    gram = [[Fraction(sum(row[a] * row[b] for row in z), n * n) for b in range(p)] for a in range(p)]
    system = [[*gram[a], Fraction(sums[a], n)] for a in range(p)]
    determinant = Fraction(1)
    for i in range(p):  # a Gram matrix needs no pivoting: a zero pivot means that it is singular
        if system[i][i] == 0:
            return math.nan, math.nan
        determinant *= system[i][i]
        system[i] = [x / system[i][i] for x in system[i]]
        for a in range(p):
            if a != i:
                system[a] = [x - system[a][i] * s for x, s in zip(system[a], system[i], strict=True)]
    T2 = n * (n - 1) * sum((Fraction(sums[a], n) * system[a][p] for a in range(p)), Fraction(0))
    return _double(T2), _double(determinant / k / (error / p) ** p)


def _double(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
