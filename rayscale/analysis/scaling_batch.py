"""Many descents at once: the starts of a fit, or the refits of a bootstrap.

Each descent is that of `scaling.polish` (damped Newton steps with eigenvalues made positive); here every array has a
leading axis for the descents, since on some tens of rows a single one is nearly all overhead. Descents that have ended
leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BATCH = 50
"""Descents that run together; more would leave the caches."""
SHRINK = 0.25
"""Share of ended descents from which the batch is made smaller."""


@dataclass
class _Batch:
    """Descents that still run.

    Attributes:
        which: Their numbers. Shape (s,).
        logs: Centred logarithms of the sizes. Shape (s, terms, n).
        log_loss: ln L. Shape (s, n).
        theta: Where they are. Shape (s, 2 terms + 1).
        damping: Shape (s,).
        idle: Steps that gained nothing. Shape (s,).
        over: Which have ended. Shape (s,).
    """

    which: NDArray[np.int64]
    logs: Array
    log_loss: Array
    theta: Array
    damping: Array
    idle: NDArray[np.int64]
    over: NDArray[np.bool_]

    def running(self) -> _Batch:
        """Return it without the descents that have ended."""
        keep = ~self.over
        return _Batch(**{name: value[keep] for name, value in vars(self).items()})


def polish_many(
    logs: Array, log_loss: Array, delta: float, starts: Array, max_steps: int, idle_steps: int
) -> tuple[Array, Array]:
    """Descend from several starts, each on its own rows.

    Args:
        logs: Centred logarithms of the sizes. Shape (s, terms, n).
        log_loss: ln L. Shape (s, n).
        delta: Huber's threshold.
        starts: Shape (s, 2 terms + 1).
        max_steps: Steps of each descent.
        idle_steps: Steps that gain nothing before it ends.

    Returns:
        Minima and their objectives. Shapes (s, 2 terms + 1) and (s,).
    """
    ends = [
        _descend(logs[part], log_loss[part], delta, starts[part], max_steps, idle_steps)
        for part in np.array_split(np.arange(len(starts)), -(-len(starts) // BATCH))
    ]
    return np.concatenate([theta for theta, _ in ends]), np.concatenate([value for _, value in ends])


def _descend(
    logs: Array, log_loss: Array, delta: float, starts: Array, max_steps: int, idle_steps: int
) -> tuple[Array, Array]:
    count = len(starts)
    zeros = np.zeros(count, dtype=np.int64)
    batch = _Batch(
        np.arange(count), logs, log_loss, starts.copy(), np.full(count, 1e-3), zeros, np.zeros(count, dtype=bool)
    )
    state = derivatives(batch.logs, batch.log_loss, delta, batch.theta)
    minima, objectives = starts.copy(), state[0].copy()
    for _ in range(max_steps):
        state = _advance(batch, state, delta, idle_steps)
        minima[batch.which], objectives[batch.which] = batch.theta, state[0]
        if batch.over.all():
            break
        if batch.over.mean() >= SHRINK:
            state = tuple(part[~batch.over] for part in state)  # type: ignore[assignment]
            batch = batch.running()
    return minima, objectives


def _advance(
    batch: _Batch, state: tuple[Array, Array, Array], delta: float, idle_steps: int
) -> tuple[Array, Array, Array]:
    """Try a step of each descent; those that get worse stay where they are, with more damping."""
    value, gradient, hessian = state
    step = newton_steps(gradient, hessian, batch.damping)
    found = derivatives(batch.logs, batch.log_loss, delta, batch.theta + step)
    taken = np.isfinite(found[0]) & (found[0] <= value) & ~batch.over
    gained = value - np.where(taken, found[0], value)
    idle = gained <= 1e-15 * value
    batch.idle = np.where(taken, np.where(idle, batch.idle + 1, 0), batch.idle)
    batch.theta = np.where(taken[:, None], batch.theta + step, batch.theta)
    batch.damping = np.where(taken, np.maximum(batch.damping * 0.2, 1e-14), np.minimum(batch.damping * 6.0, 1e13))
    still = (batch.idle >= idle_steps) | (np.abs(step).max(axis=1) < 1e-9)
    batch.over |= (taken & idle & still) | (batch.damping > 1e12)
    return (
        np.where(taken, found[0], value),
        np.where(taken[:, None], found[1], gradient),
        np.where(taken[:, None, None], found[2], hessian),
    )


def newton_steps(gradient: Array, hessian: Array, damping: Array) -> Array:
    """Compute Newton's steps with eigenvalues made positive and Levenberg's damping relative to their scale.

    Args:
        gradient: Shape (s, p).
        hessian: Shape (s, p, p).
        damping: Shape (s,).

    Returns:
        Shape (s, p).
    """
    scale = np.sqrt(np.maximum(np.abs(np.diagonal(hessian, axis1=1, axis2=2)), 1e-300))
    values, vectors = np.linalg.eigh(hessian / (scale[:, :, None] * scale[:, None, :]))
    along = (vectors.transpose(0, 2, 1) @ (gradient / scale)[:, :, None])[:, :, 0]
    damped = np.abs(values) + damping[:, None]
    return -((vectors @ (along / damped)[:, :, None])[:, :, 0]) / scale


def derivatives(logs: Array, log_loss: Array, delta: float, theta: Array) -> tuple[Array, Array, Array]:
    """Compute objectives, gradients and Hessians.

    The prediction f is a log-sum-exp of terms u_k that are linear in theta: f' = sum p_k u_k' and
    f'' = sum p_k u_k' u_k'^T - f' f'^T with p = softmax(u). With psi Huber's derivative the gradient is -sum psi f' and
    the Hessian sum psi' f' f'^T - psi f''.

    Args:
        logs: Shape (s, terms, n).
        log_loss: Shape (s, n).
        delta: Huber's threshold.
        theta: Shape (s, 2 terms + 1).

    Returns:
        Shapes (s,), (s, p) and (s, p, p).
    """
    terms, rows = logs.shape[1:]
    u = np.empty((len(theta), terms + 1, rows))
    u[:, :-1] = theta[:, 0:-1:2, None] - theta[:, 1:-1:2, None] * logs
    u[:, -1] = theta[:, -1, None]
    top = u.max(axis=1)
    weights = np.exp(u - top[:, None])
    total = weights.sum(axis=1)
    weights /= total[:, None]
    residual = log_loss - (top + np.log(total))
    size = np.abs(residual)
    inside = size <= delta
    # np.where computes both: a step that went far too far overflows in the branch that is not taken
    small = np.where(inside, residual, 0.0)
    objective = np.where(inside, 0.5 * small**2, delta * (size - 0.5 * delta)).sum(axis=1)
    psi = np.clip(residual, -delta, delta)
    slopes = np.empty((len(theta), theta.shape[1], rows))
    slopes[:, 0:-1:2], slopes[:, 1:-1:2], slopes[:, -1] = weights[:, :-1], -weights[:, :-1] * logs, weights[:, -1]
    gradient = -(slopes @ psi[:, :, None])[:, :, 0]
    hessian = (slopes * (inside + psi)[:, None]) @ slopes.transpose(0, 2, 1)
    for k in range(terms):
        p, x = psi * weights[:, k], logs[:, k]
        cross = (p * x).sum(axis=1)
        hessian[:, 2 * k, 2 * k] -= p.sum(axis=1)
        hessian[:, 2 * k, 2 * k + 1] += cross
        hessian[:, 2 * k + 1, 2 * k] += cross
        hessian[:, 2 * k + 1, 2 * k + 1] -= (p * x * x).sum(axis=1)
    hessian[:, -1, -1] -= (psi * weights[:, -1]).sum(axis=1)
    return objective, gradient, hessian
