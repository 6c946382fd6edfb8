"""How large is the effect of a sweep that stopped early? It stopped *because* it was large: naive estimates are biased.

The Brownian motion of `sequential` with an effect has a drift of length d (d^2 t is the noncentrality at information
t). Boundaries only look at its radius R, so averaging Girsanov's density over the directions of the drift gives

    P_d(A) = E_0[ 1_A  h(d R_T) exp(-d^2 T / 2) ],   h(z) = Gamma(nu+1) (2/z)^nu I_nu(z),  nu = dim/2 - 1

for whatever has happened by the stopping time T (h = cosh for dim 1): the sub-densities known from the case without
effect suffice. Outcomes are ordered stage-wise as in `sequential.adjusted_p`; the drift under which an outcome at least
as extreme has probability 1/2 is median-unbiased, and those at alpha/2 and 1 - alpha/2 bound an interval (Tsiatis,
Rosner & Mehta 1984, Biometrics 40; Jennison & Turnbull 2000, section 8.4-8.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.noncentral import bisect
from rayscale.analysis.sequential import Radius, pieces, sub_density, walk_looks

LARGEST_STATISTIC = 1_000.0
"""Beyond it (p about 1e-217) an early stop biases nothing, and the exponentials leave the range of a double."""


@dataclass(frozen=True)
class Drift:
    """Length of the drift over the whole planned study.

    Attributes:
        naive: Of a study that had planned a single look where it ended (median-unbiased for that).
        median: Median-unbiased for the study as it was planned.
        ci: Interval from the stage-wise order; 0 where the bound is no effect at all.
    """

    naive: float
    median: float
    ci: tuple[float, float]

    @property
    def shrinkage(self) -> float:
        """Share of the naive estimate that remains; NaN if that is 0."""
        return self.median / self.naive if self.naive > 0 else math.nan


def estimate_drift(
    p: float, fractions: Sequence[float], alpha: float, spending: str, dim: int, confidence: float
) -> Drift | None:
    """Estimate the drift of a study that ended at the last of its looks.

    Args:
        p: The last look's p (of a single test), in (0, 1].
        fractions: Information at the looks taken, ascending.
        alpha: Type-I error over all looks.
        spending: The spending function.
        dim: df1 of the effect.
        confidence: E.g. 0.95.

    Returns:
        The estimates; None beyond `LARGEST_STATISTIC`.
    """
    statistic = float(special.chdtri(dim, p)) if p > 1e-300 else math.inf
    if statistic > LARGEST_STATISTIC:
        return None
    boundaries, before = walk_looks(fractions[:-1], alpha, spending, dim) if len(fractions) > 1 else ([], [None])
    stops = [*(boundary.statistic for boundary in boundaries), statistic]
    most = (math.sqrt(statistic) + 6.0) / math.sqrt(fractions[-1])
    looks = [
        _Outcomes.beyond(stop, left, time, dim, most) for stop, left, time in zip(stops, before, fractions, strict=True)
    ]
    alone = [_Outcomes.beyond(statistic, None, fractions[-1], dim, most)]
    half = (1 - confidence) / 2
    low, median, high = (_drift_at(looks, probability, most) for probability in (half, 0.5, 1 - half))
    return Drift(_drift_at(alone, 0.5, most), median, (low, high))


@dataclass(frozen=True)
class _Outcomes:
    """Outcomes of one look that are at least as extreme as some statistic: their probability without an effect.

    Attributes:
        time: Information.
        dim: df1 of the effect.
        nodes: Values of the radius.
        mass: Probability at each.
    """

    time: float
    dim: int
    nodes: FloatArray
    mass: FloatArray

    @classmethod
    def beyond(cls, statistic: float, before: Radius | None, time: float, dim: int, drift: float) -> _Outcomes:
        """Lay nodes out beyond a statistic, as far as the radius gets under any drift up to the given one."""
        low, step = math.sqrt(statistic * time), time - (before.time if before else 0.0)
        reach = drift * time + 10 * math.sqrt(time) + 2 * math.sqrt(dim * time)
        if before is not None:
            most = float(before.nodes[-1]) + drift * step + 10 * math.sqrt(step) + 2 * math.sqrt(dim * time)
            reach = min(reach, most)
        nodes, weights = pieces(low, max(reach, low), 3 * math.sqrt(step))
        return cls(time, dim, nodes, weights * sub_density(nodes, before, time, dim))

    def probability(self, drift: float) -> float:
        """Give the probability of these outcomes under a drift."""
        nu = self.dim / 2 - 1
        z = np.maximum(self.nodes * drift, 1e-8)  # h(0) = 1
        log_h = special.gammaln(nu + 1) + nu * np.log(2 / z) + np.log(special.ive(nu, z)) + z
        return float(self.mass @ np.exp(log_h - drift**2 * self.time / 2))


def _drift_at(looks: Sequence[_Outcomes], probability: float, most: float) -> float:
    """Solve for the drift under which the outcomes have a probability, which grows with the drift."""

    def excess(drift: float) -> float:
        return sum(look.probability(drift) for look in looks) - probability

    return float(bisect(excess, 0.0, most)) if excess(0.0) < 0 else 0.0
