"""The Pareto front of loss against a resource: conditions than which no other is both better and cheaper.

Green-AI reporting compares methods by that front. Means alone would make it look sharper than it is, so:

- a condition off the front is marked as *overlapping* it if no condition of the front beats it in both with intervals
  that are apart (t intervals of the means, which do not use that blocks share seeds: cautious);
- `front_share` is the share of bootstrap samples of whole blocks in which the condition is on the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.descriptives import describe

Array = NDArray[np.float64]

RESAMPLES = 2000
SEED = 20260110


@dataclass(frozen=True)
class ParetoPoint:
    """One condition.

    Attributes:
        label: The condition.
        loss: Mean loss. Units: nats per token.
        loss_ci: Its t interval.
        resource: Mean of the resource.
        resource_ci: Its t interval.
        on_front: No other condition has a mean at most as large in both and smaller in one.
        overlaps: Off the front by its means, but with intervals that overlap the front.
        front_share: Share of bootstrap samples of blocks in which it is on the front.
    """

    label: str
    loss: float
    loss_ci: tuple[float, float]
    resource: float
    resource_ci: tuple[float, float]
    on_front: bool
    overlaps: bool
    front_share: float


def on_front(loss: Array, resource: Array) -> NDArray[np.bool_]:
    """Tell which points are not dominated.

    Args:
        loss: Shape (..., k).
        resource: The same shape.

    Returns:
        True where no other point is at most as large in both and smaller in one. Shape (..., k).
    """
    worse_loss = loss[..., None, :] <= loss[..., :, None]
    worse_resource = resource[..., None, :] <= resource[..., :, None]
    strictly = (loss[..., None, :] < loss[..., :, None]) | (resource[..., None, :] < resource[..., :, None])
    dominated: NDArray[np.bool_] = np.asarray((worse_loss & worse_resource & strictly).any(axis=-1))
    return ~dominated


def pareto_points(labels: Sequence[str], loss: Array, resource: Array, alpha: float = 0.05) -> list[ParetoPoint]:
    """Compare conditions.

    Args:
        labels: Of the conditions. Length k.
        loss: Losses of complete blocks. Shape (n, k), n >= 2.
        resource: The resource of the same trials. Shape (n, k).
        alpha: Intervals have confidence 1 - alpha.

    Returns:
        One point per condition, in order of the mean resource.
    """
    mean_loss, mean_resource = loss.mean(axis=0), resource.mean(axis=0)
    front = on_front(mean_loss, mean_resource)
    shares = _front_shares(loss, resource)
    loss_ci = [describe(column, alpha).ci for column in loss.T]
    resource_ci = [describe(column, alpha).ci for column in resource.T]
    points = [
        ParetoPoint(
            label=label,
            loss=float(mean_loss[i]),
            loss_ci=loss_ci[i],
            resource=float(mean_resource[i]),
            resource_ci=resource_ci[i],
            on_front=bool(front[i]),
            overlaps=not front[i] and not _beaten(i, np.flatnonzero(front), loss_ci, resource_ci),
            front_share=float(shares[i]),
        )
        for i, label in enumerate(labels)
    ]
    return sorted(points, key=lambda point: point.resource)


def _beaten(
    i: int, front: NDArray[np.int64], loss_ci: list[tuple[float, float]], resource_ci: list[tuple[float, float]]
) -> bool:
    """Whether some point of the front is better in both, with intervals that are apart (or both of no width)."""
    return any(_below(loss_ci[j], loss_ci[i]) and _below(resource_ci[j], resource_ci[i]) for j in front)


def _below(first: tuple[float, float], second: tuple[float, float]) -> bool:
    exact = math.isclose(*first, rel_tol=1e-12) and math.isclose(*second, rel_tol=1e-12)
    return first[1] <= second[0] if exact else first[1] < second[0]


def _front_shares(loss: Array, resource: Array) -> Array:
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, len(loss), (RESAMPLES, len(loss)))
    return on_front(loss[drawn].mean(axis=1), resource[drawn].mean(axis=1)).mean(axis=0)


@dataclass(frozen=True)
class Purchase:
    """What an amount of a resource buys.

    Attributes:
        label: The condition of the front with the lowest mean loss that the amount pays for; None if it pays for none.
        loss: Its mean loss.
        resource: What it takes on average.
        sure: The upper end of its interval is within the amount, too.
    """

    label: str | None
    loss: float | None
    resource: float | None
    sure: bool


def bought(points: Sequence[ParetoPoint], amount: float) -> Purchase:
    """Find the condition that an amount of the resource buys.

    Args:
        points: From `pareto_points`.
        amount: In the unit of the resource.

    Returns:
        The purchase.
    """
    paid = [point for point in points if point.on_front and point.resource <= amount]
    if not paid:
        return Purchase(None, None, None, sure=False)
    best = min(paid, key=lambda point: point.loss)
    return Purchase(best.label, best.loss, best.resource, sure=best.resource_ci[1] <= amount)
