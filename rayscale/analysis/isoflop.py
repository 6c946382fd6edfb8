"""IsoFLOP parabolas (Hoffmann et al. 2022, approach 2), computed to be compared with, and warned about.

For each compute budget a parabola of the loss in log10 N gives the best N; a line through these gives N = 10**intercept
C**exponent. Even without noise the intercept is biased when alpha != beta, or when the grid is wide or off-centre
(arXiv 2603.22339); the surface fit of `scaling` is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WARNING = (
    "IsoFLOP parabolas are biased even without noise when alpha differs from beta or the grid is wide or off-centre "
    "(arXiv 2603.22339); prefer the surface fit"
)


@dataclass(frozen=True)
class IsoFlopFit:
    """Exponents and intercepts (log10) of the compute-optimal N and D against C."""

    a: float
    log10_a0: float
    b: float
    log10_b0: float
    budgets: int


def parabolas(params: Array, tokens: Array, flops: Array, loss: Array) -> IsoFlopFit | None:
    """Fit a parabola per budget and a line through their minima.

    Args:
        params: N. Shape (n,).
        tokens: D. Shape (n,).
        flops: C; equal values (to 1e-6) make one budget. Shape (n,).
        loss: L. Shape (n,).

    Returns:
        The fit; None if fewer than two budgets have a parabola that opens upwards.
    """
    keys = np.round(np.log10(flops), 6)
    budgets, best_n, best_d = [], [], []
    for key in np.unique(keys):
        rows = keys == key
        sizes = (_vertex(np.log10(params[rows]), loss[rows]), _vertex(np.log10(tokens[rows]), loss[rows]))
        if sizes[0] is not None and sizes[1] is not None:
            budgets.append(np.log10(flops[rows]).mean())
            best_n.append(sizes[0])
            best_d.append(sizes[1])
    if len(budgets) < 2:
        return None
    (a, a0), (b, b0) = (np.polyfit(budgets, best, 1) for best in (best_n, best_d))
    return IsoFlopFit(float(a), float(a0), float(b), float(b0), len(budgets))


def _vertex(x: Array, y: Array) -> float | None:
    if len(np.unique(x)) < 3:
        return None
    curvature, slope, _ = np.polyfit(x, y, 2)
    return float(-slope / (2 * curvature)) if curvature > 0 else None
