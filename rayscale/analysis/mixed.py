"""Linear mixed models with nested random intercepts, fitted by restricted maximum likelihood (REML).

    y = X beta + Z_1 u_1 + ... + Z_r u_r + e,   u_i ~ N(0, s_i I),  e ~ N(0, s_e I),
    V = s_1 Z_1 Z_1' + ... + s_r Z_r Z_r' + s_e I

REML maximises over the ratios s_i / s_e alone (beta and s_e are known given them); theta_i = sqrt(s_i / s_e) is the
parameter, as in lme4 (Bates et al. 2015, Journal of Statistical Software 67), since the criterion is smooth at
theta = 0: a variance of 0 is an ordinary result. Newton steps in the variances sharpen the optimum.

The data are first split in two orthogonal parts, so that subjects that differ by 1e6 units over noise of 3 cost no
digit: *within* the finest groups V is s_e I whatever the variances, and *between* them every row stands for one group
and V falls into one small block per coarsest group. In a block of groups with c_1, c_2, ... rows each, the finest term
contributes diag(c), a coarser one b b' with b = sqrt(c), and the residual I.

Finite degrees of freedom (`mixed_tests`) need how beta's covariance moves with the variances, hence the derivatives
kept in `MixedFit`; statsmodels' MixedLM has none of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.kernel import FloatArray

LARGEST_BLOCK = 1500
"""Groups within one coarser group (subjects on one device); the cost grows with the third power."""
LARGEST_FIT = 1e9
"""Rows x fixed effects squared (devices as fixed effects make many); some 20 s on one core."""

_STARTS = {
    1: (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3, 1e5, 1e7),
    2: (0.01, 0.1, 0.5, 2.0, 20.0, 1e3),
    3: (0.3, 2.0),
}
"""Starting values of theta per number of random terms."""

_LARGEST_LOG_THETA = {1: 21.0, 2: 12.0, 3: 9.0}
"""One term: V is diagonal between groups and stays exact; several: beyond it the coarser would swallow the finer."""


class UndefinedModelError(ValueError):
    """The data cannot tell the model's parts apart; the message is a note for the reader."""


@dataclass(frozen=True)
class RandomTerm:
    """One random intercept.

    Attributes:
        name: `subject`, `device`, `cell`.
        codes: Group of each row, whole numbers; shape (rows,).
    """

    name: str
    codes: NDArray[np.int64]


@dataclass(frozen=True)
class MixedFit:
    """A fitted model. Everything but `scale` is in units of `scale`.

    Attributes:
        names: Random terms, then `residual`.
        variances: Their variances.
        beta: Fixed effects; shape (p,).
        phi: Covariance of beta, (X'V^-1X)^-1; shape (p, p).
        slopes: P_i = -X'V^-1 G_i V^-1 X with G_i = dV/ds_i; shape (r+1, p, p).
        curvatures: Q_ij = X'V^-1 G_i V^-1 G_j V^-1 X; shape (r+1, r+1, p, p).
        expected: Expected information of the variances, tr(P G_i P G_j) / 2.
        observed: Observed information of the variances.
        n: Rows.
        scale: Power of two that one unit of the fit stands for, in units of the measure.
    """

    names: tuple[str, ...]
    variances: FloatArray
    beta: FloatArray
    phi: FloatArray
    slopes: FloatArray
    curvatures: FloatArray
    expected: FloatArray
    observed: FloatArray
    n: int
    scale: float

    @property
    def at_zero(self) -> tuple[str, ...]:
        """Random terms whose variance is estimated as 0."""
        return tuple(name for name, value in zip(self.names, self.variances, strict=True) if value == 0)

    def variance(self, name: str) -> float:
        """Variance of a term in the measure's units squared; inf if it leaves the range of a double."""
        return float(self.variances[self.names.index(name)]) * self.scale * self.scale


def fit_mixed(y: FloatArray, x: FloatArray, terms: Sequence[RandomTerm]) -> MixedFit:
    """Fit a model by REML.

    Args:
        y: Finite values; shape (rows,). Take a large common offset off first.
        x: Fixed-effects design of full column rank; shape (rows, p).
        terms: One or two random intercepts, the coarser first; each group of the finer lies in one of the coarser.

    Returns:
        The fit.

    Raises:
        UndefinedModelError: If rows, effects or groups are too many or not nested, fixed effects or random terms
            cannot be told apart, or there is no residual variance.
    """
    if len(y) * x.shape[1] ** 2 > LARGEST_FIT:
        raise UndefinedModelError(f"{len(y)} rows with {x.shape[1]} fixed effects: this mixed model is not computed")
    exponent = math.frexp(float(np.max(np.abs(y), initial=0.0)))[1]
    system = _split(np.ldexp(y, -exponent), x, terms)
    check_fixed(x)
    _check_residual(system)
    return fit_system(system, exponent)


def fit_system(system: System, exponent: int) -> MixedFit:
    """Fit a model whose data are split already.

    Args:
        system: The data.
        exponent: Power of two that one unit of them stands for.

    Returns:
        The fit.

    Raises:
        UndefinedModelError: If its random terms cannot be told apart.
    """
    try:
        _check_terms(system)
        variances = _sharpen(system, _optimum(system))
        found = _solve(system, variances)
    except np.linalg.LinAlgError:
        raise UndefinedModelError("the equations of the mixed model have no unique solution") from None
    expected, observed, _ = found.information(system)
    if np.any(np.diag(expected) <= 0):
        raise UndefinedModelError("the variances of the mixed model lie too far apart for its numbers")
    return MixedFit(
        names=(*system.names, "residual"),
        variances=variances,
        beta=found.beta,
        phi=found.phi,
        slopes=found.slopes,
        curvatures=found.curvatures,
        expected=expected,
        observed=observed,
        n=system.n,
        scale=math.ldexp(1.0, exponent),
    )


@dataclass(frozen=True)
class System:
    """The data, split; b blocks of s groups, shorter blocks padded with empty groups.

    Attributes:
        names: Random terms.
        n: Rows.
        groups: Finest groups.
        within: [X y] less its means over the finest groups; shape (rows, p + 1).
        between: sqrt(c) times the means of [X y], by block; shape (b, s, p + 1).
        parts: dV/ds_i between the groups, the residual last; shape (r + 1, b, s, s).
    """

    names: tuple[str, ...]
    n: int
    groups: int
    within: FloatArray
    between: FloatArray
    parts: FloatArray

    @property
    def within_df(self) -> int:
        """Dimensions of the within part; negative for what the padding of the blocks counts too much."""
        return self.n - self.between.shape[0] * self.between.shape[1]


def _split(y: FloatArray, x: FloatArray, terms: Sequence[RandomTerm]) -> System:
    coarse, fine = np.unique(terms[0].codes, return_inverse=True)[1], np.unique(terms[-1].codes, return_inverse=True)[1]
    counts = np.bincount(fine)
    block_of = np.zeros(len(counts), dtype=np.int64)
    block_of[fine] = coarse
    if np.any(block_of[fine] != coarse) or len(terms) > 2:
        raise UndefinedModelError("the random terms of the mixed model are not nested in each other")
    sizes = np.bincount(block_of)
    if sizes.max() > LARGEST_BLOCK:
        raise UndefinedModelError(f"more than {LARGEST_BLOCK} groups in one block: the mixed model is not computed")
    order = np.argsort(block_of, kind="stable")
    place = np.empty(len(counts), dtype=np.int64)
    place[order] = np.arange(len(counts)) - (np.cumsum(sizes) - sizes)[block_of[order]]
    data = np.column_stack([x, y])
    means = np.column_stack([np.bincount(fine, column) / counts for column in data.T])
    within = data - means[fine]
    shape = (len(sizes), int(sizes.max()))
    root = np.zeros(shape)
    root[block_of, place] = np.sqrt(counts)
    between = np.zeros((*shape, data.shape[1]))
    between[block_of, place] = means * np.sqrt(counts)[:, None]
    identity = np.broadcast_to(np.eye(shape[1]), (*shape, shape[1]))
    outer = [root[:, :, None] * root[:, None, :]] if len(terms) == 2 else []
    parts = np.array([*outer, identity * (root**2)[:, :, None], identity])
    return System(tuple(term.name for term in terms), len(y), len(counts), within, between, parts)


def check_fixed(x: FloatArray) -> None:
    """Refuse fixed effects that cannot be told apart.

    Args:
        x: The design; shape (rows, p).

    Raises:
        UndefinedModelError: If its columns are collinear.
    """
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise UndefinedModelError("the fixed effects of the mixed model cannot be told apart (they are collinear)")


def _check_residual(system: System) -> None:
    """Refuse data that leave nothing for the residual."""
    design, y = system.within[:, :-1], system.within[:, -1]
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, singular > 1e-9 * max(1.0, float(singular[0]))]
    if system.n <= system.groups + basis.shape[1]:
        raise UndefinedModelError("there is no row left for the residual of the mixed model")
    residual = y - basis @ (basis.T @ y)
    if float(np.max(np.abs(residual))) <= 1e-14:  # the largest |y| is between 1/2 and 1
        raise UndefinedModelError("the residual variance is zero, so the mixed model has nothing to test against")


def _check_terms(system: System) -> None:
    """Refuse random terms that cannot be told apart."""
    information = _solve(system, np.ones(len(system.names) + 1)).information(system)[0]
    # A term that the fixed effects take up leaves no information at all.
    root = np.sqrt(np.maximum(np.diag(information), 1e-12))
    if np.min(root) < 1e-4 or np.linalg.eigvalsh(information / np.outer(root, root))[0] < 1e-8:
        raise UndefinedModelError(f"the variances of {', '.join(system.names)} and residual cannot be told apart")


@dataclass(frozen=True)
class _Solution:
    """Everything at given variances.

    Attributes:
        beta: Fixed effects.
        phi: Their covariance.
        slopes: P_i as in `MixedFit`.
        curvatures: Q_ij as in `MixedFit`.
        inverse: V^-1 between; shape (b, s, s).
        log_det: ln |V| + ln |X'V^-1 X|.
        u_within: V^-1 (y - X beta), within; shape (rows,).
        u: The same between; shape (b, s).
        rest: y - X beta between; shape (b, s).
        residual: s_e.
    """

    beta: FloatArray
    phi: FloatArray
    slopes: FloatArray
    curvatures: FloatArray
    inverse: FloatArray
    log_det: float
    u_within: FloatArray
    u: FloatArray
    rest: FloatArray
    residual: float

    def rss(self) -> float:
        """(y - X beta)' V^-1 (y - X beta), within and between."""
        return float(self.u_within @ self.u_within) * self.residual + float(np.sum(self.u * self.rest))

    def gradient(self, system: System) -> tuple[FloatArray, FloatArray]:
        """u'G_i u and tr(P G_i) with P = V^-1 - V^-1 X phi X'V^-1, the residual last."""
        quadratic = np.einsum("bs,ibst,bt->i", self.u, system.parts, self.u)
        quadratic[-1] += float(self.u_within @ self.u_within)
        traces = np.einsum("bst,ibts->i", self.inverse, system.parts)
        traces[-1] += system.within_df / self.residual
        return quadratic, traces + np.einsum("ab,iba->i", self.phi, self.slopes)

    def information(self, system: System) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Information of the variances, and the score (gradient of the restricted log-likelihood).

        Expected: tr(P G_i P G_j) / 2; observed: u'G_i P G_j u minus that; score: (u'G_i u - tr(P G_i)) / 2.
        """
        products = self.inverse @ system.parts
        traces = np.einsum("ibst,jbts->ij", products, products)
        traces[-1, -1] += system.within_df / self.residual**2
        phi_slopes = self.phi @ self.slopes
        traces -= 2 * np.einsum("ab,ijba->ij", self.phi, self.curvatures)
        traces += np.einsum("iab,jba->ij", phi_slopes, phi_slopes)
        moved = np.einsum("ibst,bt->ibs", system.parts, self.u)
        solved = np.einsum("bst,ibt->ibs", self.inverse, moved)
        quadratic = np.einsum("ibs,jbs->ij", moved, solved)
        quadratic[-1, -1] += float(self.u_within @ self.u_within) / self.residual
        shadows = np.einsum("bsa,ibs->ia", system.between[:, :, :-1], solved)
        shadows[-1] += system.within[:, :-1].T @ self.u_within / self.residual
        quadratic -= shadows @ self.phi @ shadows.T
        lengths, weights = self.gradient(system)
        return traces / 2, quadratic - traces / 2, (lengths - weights) / 2


def _solve(system: System, variances: FloatArray) -> _Solution:
    """Generalised least squares at given variances."""
    residual = float(variances[-1])
    v = np.einsum("i,ibst->bst", variances, system.parts)
    inverse = np.linalg.inv(v)
    x, y, xw, yw = system.between[:, :, :-1], system.between[:, :, -1], system.within[:, :-1], system.within[:, -1]
    vx = inverse @ x
    xx_within = xw.T @ xw
    flat, width = vx.reshape(-1, vx.shape[-1]), x.shape[-1]
    xvx = x.reshape(-1, width).T @ flat + xx_within / residual
    phi: FloatArray = np.asarray(np.linalg.inv(xvx), dtype=float)
    beta = phi @ (np.einsum("bsa,bs->a", vx, y) + xw.T @ yw / residual)
    gvx = system.parts @ vx
    slopes = -(flat.T @ gvx.reshape(len(gvx), -1, width))
    slopes[-1] -= xx_within / residual**2
    moved, solved = (part.reshape(len(gvx), -1, width) for part in (gvx, inverse @ gvx))
    curvatures = moved.transpose(0, 2, 1)[:, None] @ solved[None]
    curvatures[-1, -1] += xx_within / residual**3
    log_det = float(np.sum(np.linalg.slogdet(v)[1])) + system.within_df * math.log(residual)
    return _Solution(
        beta=beta,
        phi=phi,
        slopes=slopes,
        curvatures=curvatures,
        inverse=inverse,
        log_det=log_det + float(np.linalg.slogdet(xvx)[1]),
        u_within=(yw - xw @ beta) / residual,
        u=np.einsum("bst,bt->bs", inverse, y - x @ beta),
        rest=y - x @ beta,
        residual=residual,
    )


def _profile(system: System, ratios: FloatArray) -> tuple[float, FloatArray, float]:
    """REML criterion (-2 ln L up to a constant) at ratios s_i / s_e, its gradient, and s_e."""
    found = _solve(system, np.append(ratios, 1.0))
    rss, nu = found.rss(), system.n - len(found.beta)
    quadratic, traces = found.gradient(system)
    return found.log_det + nu * math.log(rss), (traces - nu * quadratic / rss)[:-1], rss / nu


def _optimum(system: System) -> FloatArray:
    """Minimise over ln theta from the best of a grid; a term is set to 0 where the criterion rises from there."""
    from scipy.optimize import minimize

    def criterion(log_theta: FloatArray) -> tuple[float, FloatArray]:
        ratios = np.exp(2 * log_theta)
        deviance, gradient, _ = _profile(system, ratios)
        return deviance, 2 * ratios * gradient

    count = len(system.names)
    grid = [np.log(start) for start in itertools.product(_STARTS[count], repeat=count)]
    found = minimize(
        criterion,
        min(grid, key=lambda log_theta: criterion(log_theta)[0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-12.0, _LARGEST_LOG_THETA[count])] * count,
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    ratios = np.exp(2 * np.asarray(found.x, dtype=float))
    for index in np.argsort(ratios):
        without = ratios.copy()
        without[index] = 0.0
        # exp(-12)^2 is beyond what data can tell from 0; the sign of the slope there decides.
        if ratios[index] < 1e-3 and _profile(system, without)[1][index] >= 0:
            ratios = without
    return np.append(ratios, 1.0) * _profile(system, ratios)[2]


def _sharpen(system: System, variances: FloatArray) -> FloatArray:
    """Take Newton steps in the positive variances while they stay small."""
    free = np.nonzero(variances > 0)[0]
    for _ in range(8):
        _, observed, score = _solve(system, variances).information(system)
        step = np.zeros_like(variances)
        try:
            step[free] = np.linalg.solve(observed[np.ix_(free, free)], score[free])
        except np.linalg.LinAlgError:
            break
        size = float(np.max(np.abs(step[free]) / variances[free]))
        if not size < 0.1:  # not near the optimum's parabola: the optimiser's point is the better one
            break
        variances = variances + step
        if size < 1e-12:
            break
    return variances
