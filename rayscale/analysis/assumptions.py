"""What the analysis of variance takes for granted, looked at: normal residuals, no outliers, sphericity.

Residuals are those of the model subject + cell. None of these looks decides what is reported: each says what it implies
for the result that is shown in any case (a test that picks the analysis would spoil the p value of what it picked).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from rayscale.analysis.distributions import t_two_sided
from rayscale.analysis.kernel import FloatArray, centre
from rayscale.analysis.shapiro import shapiro_wilk

SHAPIRO_LARGEST = 5000
"""Residuals beyond which Shapiro-Wilk's p is not calibrated (Royston 1995)."""
STUDENTISED_LIMIT = 3.0
"""Studentised residuals beyond it are named; the Bonferroni p says which are outliers."""


@dataclass(frozen=True)
class Shapiro:
    """Shapiro-Wilk test. NaN with a note where undefined.

    Attributes:
        W: The statistic.
        p: Its p.
        skewness: Third standardised moment of the residuals.
        excess_kurtosis: Fourth standardised moment minus 3.
        note: Why it is undefined.
    """

    W: float
    p: float
    skewness: float
    excess_kurtosis: float
    note: str | None = None


@dataclass(frozen=True)
class Outlier:
    """A cell whose residual stands out.

    Attributes:
        subject: Index of the subject.
        cell: Index of the cell.
        studentised: Externally studentised residual.
        p_bonferroni: Its two-sided p times the number of residuals.
    """

    subject: int
    cell: int
    studentised: float
    p_bonferroni: float


def shapiro_residuals(values: FloatArray) -> Shapiro:
    """Test the residuals for normality.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).

    Returns:
        The test.
    """
    parts = centre(values)
    flat = parts.residual.ravel()
    spread = math.sqrt(float(np.mean(flat**2)))
    if float(np.max(np.abs(flat))) <= parts.floor:
        return Shapiro(math.nan, math.nan, math.nan, math.nan, "the residuals do not vary")
    scaled = flat / spread
    skewness, kurtosis = float(np.mean(scaled**3)), float(np.mean(scaled**4)) - 3
    if flat.size > SHAPIRO_LARGEST:
        note = f"Shapiro-Wilk is not calibrated for {flat.size} residuals (limit {SHAPIRO_LARGEST}); see the moments"
        return Shapiro(math.nan, math.nan, skewness, kurtosis, note)
    if flat.size < 3:
        return Shapiro(math.nan, math.nan, skewness, kurtosis, "too few residuals")
    W, p = shapiro_wilk(scaled)
    return Shapiro(W, p, skewness, kurtosis)


def outliers(values: FloatArray) -> list[Outlier]:
    """Find cells whose residual stands out, largest first.

    With r = e / (s sqrt((1 - 1/n)(1 - 1/k))) and v = (n - 1)(k - 1), the externally studentised residual is
    r sqrt((v - 1) / (v - r^2)), t-distributed with v - 1 degrees of freedom (Cook & Weisberg 1982).

    Args:
        values: Finite values, shape (n >= 2, k >= 2).

    Returns:
        Cells beyond `STUDENTISED_LIMIT`; empty without residual degrees of freedom.
    """
    parts = centre(values)
    df = (parts.n - 1) * (parts.k - 1)
    if df < 2 or float(np.max(np.abs(parts.residual))) <= parts.floor:
        return []
    mean_square = float(np.sum(parts.residual**2)) / df
    internal = parts.residual / math.sqrt(mean_square * (1 - 1 / parts.n) * (1 - 1 / parts.k))
    with np.errstate(divide="ignore", invalid="ignore"):
        external = internal * np.sqrt((df - 1) / np.maximum(df - internal**2, 0.0))
    beyond = np.argwhere(np.abs(external) > STUDENTISED_LIMIT)
    found = [_outlier(external, int(i), int(j), df) for i, j in beyond]
    return sorted(found, key=lambda outlier: -abs(outlier.studentised))


def _outlier(external: FloatArray, subject: int, cell: int, df: int) -> Outlier:
    studentised = float(external[subject, cell])
    p = t_two_sided(studentised, df - 1) if math.isfinite(studentised) else 0.0
    return Outlier(subject, cell, studentised, min(1.0, p * external.size))


def icc_interval(F_subject: float, n: int, k: int, confidence: float) -> tuple[float, float]:
    """Interval of ICC(3,1), consistency (Shrout & Fleiss 1979, Psychological Bulletin 86, 420-428).

    Args:
        F_subject: Mean square of subjects over that of the error.
        n: Number of subjects.
        k: Number of cells.
        confidence: E.g. 0.95.

    Returns:
        (lo, hi); NaN if F is undefined.
    """
    if not math.isfinite(F_subject):
        return math.nan, math.nan
    tail, df1, df2 = (1 - confidence) / 2, n - 1, (n - 1) * (k - 1)
    low = F_subject / float(special.fdtri(df1, df2, 1 - tail))
    high = F_subject * float(special.fdtri(df2, df1, 1 - tail))
    return (low - 1) / (low + k - 1), (high - 1) / (high + k - 1)
