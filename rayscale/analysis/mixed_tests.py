"""Tests of fixed effects with finite degrees of freedom: Kenward-Roger and Satterthwaite.

The covariance phi = (X'V^-1X)^-1 of the fixed effects is computed as if the variances were known. They are estimated,
so phi is too small and a chi-squared test says "significant" too often. Kenward & Roger (1997, Biometrics 53) correct
phi and choose the scale and df2 of an F distribution by matching two moments; the formulas here are theirs in the form
of Halekoh & Hojsgaard (2014, Journal of Statistical Software 59; R's pbkrtest). Satterthwaite's df (Fai & Cornelius
1996, as in R's lmerTest) leave phi and F as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import f_tail, log10_f_tail
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.mixed import MixedFit


@dataclass(frozen=True)
class FTest:
    """One F test; NaN where undefined.

    Attributes:
        F: The statistic (scaled, for Kenward-Roger).
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
    """

    F: float
    df1: int
    df2: float

    @property
    def p(self) -> float:
        """Probability of a larger F; 0.0 below the smallest double."""
        return f_tail(self.F, self.df1, self.df2)

    @property
    def log10_p(self) -> float:
        """Decimal logarithm of p."""
        return log10_f_tail(self.F, self.df1, self.df2)


@dataclass(frozen=True)
class Estimate:
    """A linear combination of the fixed effects, with the Kenward-Roger standard error and df.

    Attributes:
        value: In the units of the fit (`MixedFit.scale`).
        se: Standard error, same units.
        df: Degrees of freedom.
    """

    value: float
    se: float
    df: float


def _variance_covariance(fit: MixedFit) -> FloatArray:
    """Covariance W of the estimated variances, from the expected information (a pseudo-inverse if it is singular)."""
    root = np.sqrt(np.diag(fit.expected))
    inverse: FloatArray = np.linalg.pinv(fit.expected / np.outer(root, root), rcond=1e-12, hermitian=True)
    return inverse / np.outer(root, root)


def adjusted_covariance(fit: MixedFit) -> FloatArray:
    """Correct the covariance of the fixed effects for the estimation of the variances.

    phi_A = phi + 2 phi [ sum_ij W_ij (Q_ij - P_i phi P_j) ] phi  (Kenward & Roger 1997; V is linear in the variances).

    Args:
        fit: The model.

    Returns:
        Shape (p, p), in units of the fit squared.
    """
    w = _variance_covariance(fit)
    products = np.einsum("iab,bc,jcd->ijad", fit.slopes, fit.phi, fit.slopes)
    inner = np.einsum("ij,ijab->ab", w, fit.curvatures - products)
    adjusted: FloatArray = fit.phi + fit.phi @ (inner + inner.T) @ fit.phi
    return adjusted


def _moments(fit: MixedFit, contrast: FloatArray) -> tuple[float, float]:
    """A1 and A2 of Kenward & Roger: how uncertain the covariance of the tested combinations is."""
    w = _variance_covariance(fit)
    theta = contrast.T @ np.linalg.solve(contrast @ fit.phi @ contrast.T, contrast)
    parts = [theta @ fit.phi @ slope @ fit.phi for slope in fit.slopes]
    traces = np.array([float(np.trace(part)) for part in parts])
    cross = np.array([[float(np.sum(a * b.T)) for b in parts] for a in parts])
    return float(traces @ w @ traces), float(np.sum(w * cross))


def kenward_roger(fit: MixedFit, contrast: FloatArray) -> FTest:
    """Test contrast @ beta = 0 with the Kenward-Roger F.

    Args:
        fit: The model.
        contrast: Full row rank; shape (q, p).

    Returns:
        The scaled F, q and df2.
    """
    q = contrast.shape[0]
    a1, a2 = _moments(fit, contrast)
    difference = contrast @ fit.beta
    covariance = contrast @ adjusted_covariance(fit) @ contrast.T
    undefined = FTest(math.nan, q, math.nan)
    if not (a2 > 0 and (q == 1 or a2 < q) and float(np.linalg.eigvalsh(covariance)[0]) > 0):
        return undefined
    wald = float(difference @ np.linalg.solve(covariance, difference)) / q
    if q == 1:  # the formulas below then simplify to this
        return FTest(wald, 1, 2 / a2)
    df2 = _kenward_roger_df(a1, a2, q)
    scaling = 1.0 if abs(df2 - 2) < 1e-2 else df2 * (1 - a2 / q) / (df2 - 2)
    # Two moments of so few rows may match no F distribution at all (df2 below 2, or a negative scale).
    return FTest(scaling * wald, q, df2) if df2 > 0 and scaling > 0 else undefined


def _kenward_roger_df(a1: float, a2: float, q: int) -> float:
    """Second df of the F distribution that matches the moments of the statistic; NaN if there is none."""
    b = (a1 + 6 * a2) / (2 * q)
    g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
    d = 3 * q + 2 * (1 - g)
    if d == 0:
        return math.nan
    v0, v1, v2 = 1 + g / d * b, 1 - (q - g) / d * b, 1 - (q + 2 - g) / d * b
    bottom = v1**2 * v2
    rho = (1 - a2 / q) ** 2 * v0 / bottom / q if bottom else math.nan
    return 4 + (q + 2) / (q * rho - 1) if q * rho != 1 else math.nan


def satterthwaite(fit: MixedFit, contrast: FloatArray) -> FTest:
    """Test contrast @ beta = 0 with Satterthwaite's df2 (Fai & Cornelius for several numerator df).

    Args:
        fit: The model.
        contrast: Full row rank; shape (q, p).

    Returns:
        The unscaled F, q and df2.
    """
    q = contrast.shape[0]
    values, vectors = np.linalg.eigh(contrast @ fit.phi @ contrast.T)
    rotated = vectors.T @ contrast
    f = float(np.sum((rotated @ fit.beta) ** 2 / values)) / q
    nu = np.array([_satterthwaite_df(fit, row, value) for row, value in zip(rotated, values, strict=True)])
    if not np.all(np.isfinite(nu)):
        return FTest(f, q, math.nan)
    if np.ptp(nu) < 1e-8 * float(nu.max()):
        return FTest(f, q, float(nu.mean()))
    if np.any(nu <= 2):
        return FTest(f, q, 2.0)
    e = float(np.sum(nu / (nu - 2)))
    return FTest(f, q, 2 * e / (e - q))


def _satterthwaite_df(fit: MixedFit, row: FloatArray, variance: float) -> float:
    """2 v^2 / Var(v): df of the estimated variance of one combination, from the observed information.

    A variance at its bound of 0 is not free and contributes nothing.
    """
    free = np.nonzero(fit.variances > 0)[0]
    weights = fit.phi @ row
    gradient = np.array([-float(weights @ fit.slopes[index] @ weights) for index in free])
    information = fit.observed[np.ix_(free, free)]
    root = np.sqrt(np.abs(np.diag(information)))
    gradient = gradient / root
    spread = float(gradient @ np.linalg.solve(information / np.outer(root, root), gradient))
    return 2 * variance**2 / spread if spread > 0 else math.nan


def estimate(fit: MixedFit, row: FloatArray, covariance: FloatArray | None = None) -> Estimate:
    """Estimate one combination of the fixed effects, e.g. a marginal mean.

    Args:
        fit: The model.
        row: Weights; shape (p,).
        covariance: What `adjusted_covariance` returned, to save its time; None computes it.

    Returns:
        Value, Kenward-Roger standard error and df (2 / A2 for a single combination).
    """
    covariance = adjusted_covariance(fit) if covariance is None else covariance
    spread = _moments(fit, row[None, :])[1]
    variance = float(row @ covariance @ row)
    return Estimate(
        value=float(row @ fit.beta),
        se=math.sqrt(variance) if variance >= 0 else math.nan,
        df=2 / spread if spread > 0 else math.nan,
    )
