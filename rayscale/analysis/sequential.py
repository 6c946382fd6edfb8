"""Looking several times without paying for it in false positives: alpha spending for the F test of a within factor.

With n of N repetitions complete, the information is t = n / N. The effect's p contrasts behave like a p-dimensional
Brownian motion B(t) (p = df1 of the effect; p = 1 is the familiar two-sided z test), of which a look sees the radius:
X = |B(t)|^2 / t is chi-squared with p df when there is no effect. Lan & DeMets (1983, Biometrika 70, 659-663) prescribe
how much of alpha may be used up to t; the boundary of each look is the value that uses just that much:

    P(X_1 < c_1, ..., X_{j-1} < c_{j-1}, X_j >= c_j) = alpha(t_j) - alpha(t_{j-1})

|B| is a Markov process (Bessel process), so these probabilities follow look by look from a one-dimensional integral
over the radius (Armitage, McPherson & Rowe 1969 for p = 1), here by Gauss-Legendre quadrature. An F is compared through
its p: the look rejects if p is at most the boundary's tail probability, the *nominal level* (Jennison & Turnbull 2000,
Group Sequential Methods, section 3.5: accurate for t and F from about ten error degrees of freedom on).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rayscale.analysis.distributions import chi2_tail
from rayscale.analysis.kernel import FloatArray
from rayscale.errors import InputError

SPENDING = ("obrien_fleming", "pocock")
"""Spending functions."""

_NODES = 24
"""Quadrature nodes per piece of a domain of three standard deviations of a look's increment."""


@dataclass(frozen=True)
class Boundary:
    """The stopping boundary of one look.

    Attributes:
        fraction: Information t = n / N in (0, 1].
        cumulative_alpha: alpha(t): what may have been spent by then.
        statistic: Boundary of X = |B(t)|^2 / t.
        nominal: Its tail probability: the look rejects if p <= nominal.
    """

    fraction: float
    cumulative_alpha: float
    statistic: float
    nominal: float

    @property
    def z(self) -> float:
        """Return the boundary on the scale of a normal z (meaningful for df1 = 1)."""
        return math.sqrt(self.statistic)


def spent_alpha(fraction: float, alpha: float, spending: str) -> float:
    """How much of alpha may be used up to an information fraction (Lan & DeMets 1983).

    O'Brien-Fleming type: 4 - 4 Phi(z_{1-alpha/4} / sqrt t); Pocock type: alpha ln(1 + (e - 1) t).

    Args:
        fraction: Information t, > 0; above 1 counts as 1.
        alpha: The whole.
        spending: One of `SPENDING`.

    Returns:
        A number in [0, alpha].

    Raises:
        InputError: If the function is unknown.
    """
    if spending not in SPENDING:
        raise InputError(f"unknown spending `{spending}`; expected one of {', '.join(SPENDING)}")
    if fraction >= 1:
        return alpha
    if spending == "pocock":
        return min(alpha, alpha * math.log1p((math.e - 1) * fraction))
    # The tail function keeps the digits that 1 - Phi would lose.
    return min(alpha, 4 * float(special.ndtr(special.ndtri(alpha / 4) / math.sqrt(fraction))))


@dataclass(frozen=True)
class Radius:
    """Sub-density of |B(t)| over the sweeps that no look has stopped: weight per node.

    Attributes:
        time: Information t.
        nodes: Values of the radius.
        weights: Probability at each.
    """

    time: float
    nodes: FloatArray
    weights: FloatArray


def pieces(low: float, high: float, width: float) -> tuple[FloatArray, FloatArray]:
    """Lay Gauss-Legendre nodes on pieces of a domain.

    Args:
        low: Its lower end.
        high: Its upper end.
        width: About the width of a piece.

    Returns:
        Nodes and weights.
    """
    count = max(1, min(40, math.ceil((high - low) / width)))
    x, w = special.roots_legendre(_NODES)
    edges = np.linspace(low, high, count + 1)
    half = (edges[1:] - edges[:-1]) / 2
    nodes = (edges[:-1] + half)[:, None] + half[:, None] * x
    return nodes.ravel(), (half[:, None] * w).ravel()


def _transition(r: FloatArray, start: FloatArray, step: float, dim: int) -> FloatArray:
    """Density of |B| at r after `step`, from |B| = start; shape (len(r), len(start)).

    (r / step) (r / r0)^nu exp(-(r^2 + r0^2) / (2 step)) I_nu(r r0 / step) with nu = dim / 2 - 1.
    """
    nu = dim / 2 - 1
    z = r[:, None] * start[None, :] / step
    # ive = I exp(-z): the product of a huge and a tiny factor is never formed.
    shape = np.exp(-((r[:, None] - start[None, :]) ** 2) / (2 * step)) * special.ive(nu, z)
    return r[:, None] / step * (r[:, None] / start[None, :]) ** nu * shape


def sub_density(r: FloatArray, before: Radius | None, time: float, dim: int) -> FloatArray:
    """Sub-density of |B(time)| without an effect, of the sweeps that no look before has stopped.

    Args:
        r: Values of the radius.
        before: What the look before has left; None at the first look.
        time: Information.
        dim: df1 of the effect.

    Returns:
        Density at r.
    """
    if before is None:
        log_norm = (dim / 2 - 1) * math.log(2) + float(special.gammaln(dim / 2)) + dim / 2 * math.log(time)
        return np.exp((dim - 1) * np.log(r) - r**2 / (2 * time) - log_norm)
    return _transition(r, before.nodes, time - before.time, dim) @ before.weights


def _crossing(statistic: float, before: Radius | None, time: float, dim: int) -> float:
    """P(no stop before, X >= statistic at this look)."""
    if before is None:
        return chi2_tail(statistic, dim)
    low = math.sqrt(statistic * time)
    reach = float(before.nodes[-1]) + 10 * math.sqrt(time - before.time) + 2 * math.sqrt(dim * time)
    if low >= reach:
        return 0.0
    nodes, weights = pieces(low, reach, 3 * math.sqrt(time - before.time))
    return float(weights @ sub_density(nodes, before, time, dim))


def _continued(statistic: float, before: Radius | None, time: float, dim: int) -> Radius:
    """Keep the part that this look does not stop."""
    step = time - (before.time if before else 0.0)
    nodes, weights = pieces(0.0, math.sqrt(statistic * time), 3 * math.sqrt(step))
    return Radius(time, nodes, weights * sub_density(nodes, before, time, dim))


def _solve(spend: float, before: Radius | None, time: float, dim: int) -> float:
    """Find the statistic whose crossing probability is `spend`: Newton on the tail's nearly straight logarithm."""
    if before is None:
        return float(special.chdtri(dim, spend))
    radius = math.sqrt(float(special.chdtri(dim, spend)) * time)
    for _ in range(50):
        tail = _crossing(radius**2 / time, before, time, dim)
        slope = float(sub_density(np.array([radius]), before, time, dim)[0])
        if not (tail > 0 and slope > 0):
            radius /= 2  # so far out that nothing is left there
            continue
        move = math.log(tail / spend) * tail / slope
        radius = max(radius + move, radius / 2)
        if abs(move) <= 1e-13 * radius:
            break
    return radius**2 / time


def _check_fractions(fractions: Sequence[float]) -> None:
    ascending = all(earlier < later for earlier, later in itertools.pairwise(fractions))
    if not fractions or not ascending or not 0 < fractions[0] <= fractions[-1] <= 1 + 1e-12:
        raise InputError(f"information fractions {list(fractions)}: expected ascending numbers in (0, 1]")


def walk_looks(
    fractions: Sequence[float], alpha: float, spending: str, dim: int
) -> tuple[list[Boundary], list[Radius | None]]:
    """Compute the boundaries and what each look leaves.

    Args:
        fractions: Information at the looks, ascending in (0, 1].
        alpha: Type-I error over all looks.
        spending: The spending function.
        dim: df1 of the effect.

    Returns:
        One boundary per look; and what is left before the first look (None), ..., after the last one.

    Raises:
        InputError: For impossible values.
    """
    _check_fractions(fractions)
    if dim < 1 or not 0 < alpha < 1:
        raise InputError(f"df1 {dim}, alpha {alpha}: expected df1 >= 1 and alpha between 0 and 1")
    boundaries: list[Boundary] = []
    before: list[Radius | None] = [None]
    spent = 0.0
    for time in fractions:
        total = spent_alpha(time, alpha, spending)
        statistic = _solve(max(total - spent, 1e-300), before[-1], time, dim)
        boundaries.append(Boundary(time, total, statistic, chi2_tail(statistic, dim)))
        before.append(_continued(statistic, before[-1], time, dim))
        spent = total
    return boundaries, before


def boundaries_of(fractions: Sequence[float], alpha: float, spending: str, dim: int) -> list[Boundary]:
    """Compute the stopping boundaries of all looks.

    Args:
        fractions: Information at the looks, ascending in (0, 1].
        alpha: Type-I error over all looks.
        spending: `obrien_fleming` or `pocock`.
        dim: df1 of the effect (before any epsilon).

    Returns:
        One boundary per look.

    Raises:
        InputError: For impossible values.
    """
    return walk_looks(fractions, alpha, spending, dim)[0]


def adjusted_p(p: float, fractions: Sequence[float], alpha: float, spending: str, dim: int) -> float:
    """Give the p of a study that ended at the last of its looks, in the stage-wise order of outcomes.

    Earlier stops count as more extreme than later ones, at one look the larger statistic does (Fairbanks & Madsen
    1982, Biometrika 69, 69-74; Tsiatis, Rosner & Mehta 1984, Biometrics 40, 797-803):
    p_adjusted = alpha spent before + P(no earlier stop, X >= x). It is at most alpha if and only if
    the boundary was crossed.

    Args:
        p: The last look's own p; 0.0 if it underflowed.
        fractions: Information at the looks taken, ascending.
        alpha: Type-I error over all looks.
        spending: The spending function.
        dim: df1 of the effect.

    Returns:
        The adjusted p; equal to `p` after a single look.
    """
    if len(fractions) == 1:
        return p
    found, before = walk_looks(fractions[:-1], alpha, spending, dim)
    # A p below 1e-300 crosses any boundary; what remains is the alpha spent before.
    statistic = float(special.chdtri(dim, max(p, 1e-300)))
    return min(1.0, found[-1].cumulative_alpha + _crossing(statistic, before[-1], fractions[-1], dim))
