"""Does the noise treat all contrasts alike? Greenhouse-Geisser, Huynh-Feldt, Mauchly, from contrast residuals.

With Z the (n x p) residuals on p orthonormal contrasts and S = Z'Z / (n - 1):
Greenhouse-Geisser eps = tr(S)^2 / (p tr(S^2)) (Greenhouse & Geisser 1959, Psychometrika 24, 95-112);
Huynh-Feldt eps = (n p eps - 2) / (p (n - 1 - p eps)) (Huynh & Feldt 1976, J. Educ. Stat. 1, 69-82);
Mauchly W = det(S) / (tr(S)/p)^p (Mauchly 1940, Ann. Math. Stat. 11, 204-209).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from rayscale.analysis.distributions import chi2_tail
from rayscale.analysis.kernel import EPS, FloatArray


@dataclass(frozen=True)
class Mauchly:
    """Mauchly's test. NaN where undefined.

    Attributes:
        W: The statistic, in [0, 1].
        df: Degrees of freedom of the chi-squared approximation, p(p+1)/2 - 1.
        p_box_anderson: p with the correct second-order constant (3p + 2).
        p_R_formula: p as R, car, afex, ez and pingouin print it (3k + 2, k = number of all cells; equal to
            the above for p = 2).
        p_exact_null: p from the exact null distribution.
        note: Why it is undefined, None if it is defined.
    """

    W: float
    df: float
    p_box_anderson: float
    p_R_formula: float
    p_exact_null: float
    note: str | None = None


def undefined_mauchly(note: str | None) -> Mauchly:
    """Build the result that says why there is none."""
    return Mauchly(math.nan, math.nan, math.nan, math.nan, math.nan, note)


def greenhouse_geisser(gram: FloatArray) -> float:
    """Greenhouse-Geisser epsilon.

    Args:
        gram: Z'Z, shape (p, p).

    Returns:
        A number in [1/p, 1]; NaN without error variance.
    """
    p = gram.shape[0]
    trace = float(np.trace(gram))
    if p == 1:
        return 1.0
    if trace <= 0:
        return math.nan
    share = gram / trace
    return min(1.0, 1.0 / (p * float(np.sum(share**2))))


def huynh_feldt(gg: float, n: int, p: int) -> float:
    """Huynh-Feldt epsilon, not clamped.

    Args:
        gg: Greenhouse-Geisser epsilon.
        n: Number of subjects.
        p: Numerator degrees of freedom of the effect.

    Returns:
        May exceed 1; 1 for p = 1; inf where its denominator vanishes; NaN if undefined.
    """
    if p == 1:
        return 1.0
    below = p * (n - 1 - p * gg)
    return math.inf if below <= 1e-12 * n * p else (n * p * gg - 2) / below


def mauchly(gram: FloatArray, n: int, columns: int) -> Mauchly:
    """Mauchly's test of sphericity.

    Args:
        gram: Z'Z, shape (p, p).
        n: Number of subjects.
        columns: Number of all cells, which R's constant counts instead of p.

    Returns:
        The test, undefined with a note for p = 1 or n - 1 < p.
    """
    p = gram.shape[0]
    if p == 1 or n - 1 < p:
        return _too_small(n, p)
    trace = float(np.trace(gram))
    if trace <= 0:
        return undefined_mauchly("Mauchly's test is undefined: no error variance")
    sign, log_det = np.linalg.slogdet(gram * (p / trace))
    return _tested(float(log_det) if sign > 0 else -math.inf, n, p, columns)


def mauchly_of_errors(errors: FloatArray, n: int, columns: int) -> Mauchly:
    """Mauchly's test from errors rather than their squares, which keeps the digits of a small determinant.

    Args:
        errors: E with E'E = Z'Z, shape (rows, p), not all 0.
        n: Number of subjects.
        columns: Number of all cells.

    Returns:
        The test, undefined with a note for p = 1, n - 1 < p or a singular covariance.
    """
    p = errors.shape[1]
    if p == 1 or n - 1 < p:
        return _too_small(n, p)
    spread = np.linalg.svd(errors, compute_uv=False)
    square = spread**2
    if spread[-1] <= 8 * EPS * math.sqrt(n) * spread[0]:
        return _tested(-math.inf, n, p, columns)
    return _tested(float(np.sum(np.log(square * (p / np.sum(square))))), n, p, columns)


def _too_small(n: int, p: int) -> Mauchly:
    if p == 1:
        return undefined_mauchly("two levels: sphericity always holds, Mauchly's test does not apply")
    return undefined_mauchly(f"Mauchly's test is undefined: {n} subjects are too few for {p + 1} levels")


def _tested(log_det: float, n: int, p: int, columns: int) -> Mauchly:
    if log_det == -math.inf:
        return undefined_mauchly("Mauchly's test is undefined: the contrasts' covariance is singular")
    log_w = min(0.0, log_det)
    return Mauchly(
        W=math.exp(log_w),
        df=p * (p + 1) / 2 - 1,
        p_box_anderson=_approximate_p(log_w, n - 1, p, p),
        p_R_formula=_approximate_p(log_w, n - 1, p, columns),
        p_exact_null=_exact_p(log_w, n - 1, p),
    )


def _approximate_p(log_w: float, nu: int, p: int, constant: int) -> float:
    """Box's chi-squared mixture (Anderson 2003, An Introduction to Multivariate Statistical Analysis, 10.7.4)."""
    df = p * (p + 1) / 2 - 1
    rho = 1 - (2 * p * p + p + 2) / (6 * p * nu)
    weight = (p + 2) * (p - 1) * (p - 2) * (2 * p**3 + 6 * p * p + 3 * constant + 2) / (288 * (nu * p * rho) ** 2)
    z = -nu * rho * log_w
    first, second = chi2_tail(z, df), chi2_tail(z, df + 4)
    return min(1.0, max(0.0, first + weight * (second - first)))


def _exact_p(log_w: float, nu: int, p: int) -> float:
    """P(W <= w) under sphericity and normality, by inverting the exact moments.

    For u = 0, 1, ...: E[W^u] = p^(pu) G(p nu/2) / G(p nu/2 + p u) prod_i G((nu+1-i)/2 + u) / G((nu+1-i)/2), which is
    the Laplace transform of the density of L = -ln W; the tail's transform is (1 - E[W^u]) / u. It is inverted on
    Talbot's contour with the constants of Trefethen, Weideman & Schmelzer (2006), BIT 46, 653-670.
    p = 2 has a closed form. Absolute error about 1e-11; beyond 2,000 subjects the O(nu^-3) error of the approximation
    is smaller than that.
    """
    if p == 2:
        return math.exp(log_w * (nu - 1) / 2)
    if nu > 2000:
        return _approximate_p(log_w, nu, p, p)
    if log_w > -1e-13:
        return 1.0
    points = 28
    theta = np.pi * (2 * np.arange(points // 2) + 1) / points
    contour = points * (0.5017 * theta / np.tan(0.6407 * theta) - 0.6122 + 0.2645j * theta)
    slope = points * (0.5017 / np.tan(0.6407 * theta) - 0.5017 * 0.6407 * theta / np.sin(0.6407 * theta) ** 2 + 0.2645j)
    u = contour / -log_w
    shapes = (nu + 1 - np.arange(1, p + 1)) / 2
    log_moment = p * u * math.log(p) + special.gammaln(p * nu / 2) - special.loggamma(p * nu / 2 + p * u)
    for shape in shapes:
        log_moment = log_moment + special.loggamma(shape + u) - special.gammaln(shape)
    terms = np.exp(contour) * (1 - np.exp(log_moment)) / u * slope / -log_w
    return min(1.0, max(0.0, float(2 * np.sum(terms.imag) / points)))
