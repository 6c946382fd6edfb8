"""Fitting L(N, D) = E + A/N**alpha + B/D**beta as Hoffmann et al. (2022, approach 3) do, to the minimum.

    minimise  sum_i Huber_delta( ln L_i - LSE(a - alpha ln N_i, b - beta ln D_i, e) ),   A = exp a, B = exp b, E = exp e

The sum, not the mean: with the mean an optimiser's tolerance stops early (the published fit's error). Starts come from
variable projection: for a grid of exponents the coefficients are a non-negative least-squares problem. Each start is
polished by Newton's method with the analytic gradient and Hessian of the objective; how many starts reach the best
minimum is reported. The same code fits one power law with a floor (only N or only D varies).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.scaling_batch import derivatives, newton_steps, polish_many

Array = NDArray[np.float64]

DELTA = 1e-3
"""Where Huber's loss turns linear, in ln L (Hoffmann et al. 2022)."""
EXPONENTS = (0.1, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0)
"""Grid of starting exponents."""
MAX_STEPS = 1000
"""Steps of a descent: with noise far above Huber's threshold it creeps along a narrow valley of E and the exponents."""
IDLE_STEPS = 3
"""Steps that gain nothing before a descent ends: where the best floor is 0, ln E could go down for ever."""
SAME_MINIMUM = 1e-6
"""Relative difference of objectives up to which two minima count as one."""
EXACT = 1e-24
"""Objective per point that rounding leaves on data without noise."""


@dataclass(frozen=True)
class Problem:
    """What is fitted.

    Attributes:
        logs: ln of each size variable, centred. Shape (terms, n).
        centres: Means that were subtracted. Shape (terms,).
        log_loss: ln L. Shape (n,).
        delta: Huber's threshold.
    """

    logs: Array
    centres: Array
    log_loss: Array
    delta: float = DELTA

    @classmethod
    def of(cls, sizes: Sequence[Array], loss: Array, delta: float = DELTA) -> Problem:
        """Set up the fit.

        Args:
            sizes: Size variables (N, D, or one of them), each of shape (n,), positive.
            loss: Losses, positive. Shape (n,).
            delta: Huber's threshold.

        Returns:
            The problem with centred logarithms, which conditions it.
        """
        logs = np.log(np.asarray(sizes, dtype=np.float64))
        centres = logs.mean(axis=1)
        return cls(logs - centres[:, None], centres, np.log(np.asarray(loss, dtype=np.float64)), delta)

    @property
    def terms(self) -> int:
        """Number of power-law terms."""
        return len(self.logs)

    def rows(self, index: NDArray[np.int64]) -> Problem:
        """Return the same problem on other rows (a bootstrap sample)."""
        return Problem(self.logs[:, index], self.centres, self.log_loss[index], self.delta)


@dataclass(frozen=True)
class Minimum:
    """A minimum of the objective.

    Attributes:
        theta: Log-coefficients and exponents of each term in turn, then ln E. Shape (2 terms + 1,). Coefficients belong
            to the centred logarithms.
        objective: Sum of Huber losses.
    """

    theta: Array
    objective: float


@dataclass(frozen=True)
class PowerLaw:
    """A fit in the units of the input.

    Attributes:
        floor: E.
        coefficients: A (and B).
        exponents: alpha (and beta).
    """

    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]


@dataclass(frozen=True)
class FitResult:
    """The best minimum and how it was found.

    Attributes:
        law: The fit.
        minimum: The minimum in internal coordinates, to start refits from.
        starts: Number of starts.
        reached: Starts that ended within `SAME_MINIMUM` of the best objective.
        worst: Largest objective among the starts' ends.
    """

    law: PowerLaw
    minimum: Minimum
    starts: int
    reached: int
    worst: float


def fit(problem: Problem) -> FitResult:
    """Find the global minimum from a grid of starts.

    Args:
        problem: The data.

    Returns:
        The best minimum, with the spread of all.
    """
    starts = np.array(starting_points(problem))
    logs, loss = (np.broadcast_to(x, (len(starts), *x.shape)) for x in (problem.logs, problem.log_loss))
    ends = _minima(logs, loss, problem.delta, starts)
    best = min(ends, key=lambda end: end.objective)
    limit = best.objective * (1 + SAME_MINIMUM) + EXACT * len(problem.log_loss)
    reached = sum(end.objective <= limit for end in ends)
    return FitResult(law_of(problem, best), best, len(ends), reached, max(end.objective for end in ends))


def _minima(logs: Array, log_loss: Array, delta: float, starts: Array) -> list[Minimum]:
    found = polish_many(logs, log_loss, delta, starts, MAX_STEPS, IDLE_STEPS)
    return [Minimum(theta, float(objective)) for theta, objective in zip(*found, strict=True)]


def law_of(problem: Problem, minimum: Minimum) -> PowerLaw:
    """Write a minimum in the units of the input.

    Args:
        problem: The data, for the centres of the logarithms.
        minimum: The minimum.

    Returns:
        E, coefficients, exponents.
    """
    logs, exponents = minimum.theta[0:-1:2], minimum.theta[1:-1:2]
    with np.errstate(over="ignore"):  # a refit of data that leave the coefficient open
        coefficients = np.exp(logs + exponents * problem.centres)
    return PowerLaw(float(np.exp(minimum.theta[-1])), tuple(map(float, coefficients)), tuple(map(float, exponents)))


def starting_points(problem: Problem) -> list[Array]:
    """Solve for the coefficients on a grid of exponents (variable projection).

    Args:
        problem: The data.

    Returns:
        One start per grid point.
    """
    from scipy.optimize import nnls

    loss = np.exp(problem.log_loss)
    starts = []
    for exponents in itertools.product(EXPONENTS, repeat=problem.terms):
        powers = np.exp(-np.asarray(exponents)[:, None] * problem.logs)
        design = np.vstack([powers, np.ones_like(loss)]) / loss  # relative residuals
        solution, _ = nnls(design.T, np.ones_like(loss))
        solution = np.maximum(solution, 1e-3 * loss.min())  # a coefficient of 0 has no logarithm
        theta = np.empty(2 * problem.terms + 1)
        theta[0:-1:2], theta[1:-1:2], theta[-1] = np.log(solution[:-1]), exponents, np.log(solution[-1])
        starts.append(theta)
    return starts


def polish(problem: Problem, theta: Array, free: Array | None = None) -> Minimum:
    """Descend to the nearest minimum by damped Newton steps.

    Args:
        problem: The data.
        theta: The start.
        free: Orthonormal directions in which theta may move; None: all. Shape (size, k).

    Returns:
        The minimum.
    """
    value, gradient, hessian = _derivatives(problem, theta)
    damping, idle = 1e-3, 0
    for _ in range(MAX_STEPS):
        if free is None:
            step = _step(gradient, hessian, damping)
        else:
            step = free @ _step(free.T @ gradient, free.T @ hessian @ free, damping)
        trial = theta + step
        found, next_gradient, next_hessian = _derivatives(problem, trial)
        if np.isfinite(found) and found <= value:
            idle = idle + 1 if value - found <= 1e-15 * value else 0
            theta, value, gradient, hessian = trial, found, next_gradient, next_hessian
            damping = max(damping * 0.2, 1e-14)
            if idle and (idle >= IDLE_STEPS or np.abs(step).max() < 1e-9):
                break
        else:
            damping *= 6.0
            if damping > 1e12:
                break
    return Minimum(theta, float(value))


def residuals(problem: Problem, theta: Array) -> Array:
    """Return ln L minus its prediction. Shape (n,)."""
    u = np.vstack([theta[0:-1:2, None] - theta[1:-1:2, None] * problem.logs, np.full(len(problem.log_loss), theta[-1])])
    return problem.log_loss - np.logaddexp.reduce(u, axis=0)


def _derivatives(problem: Problem, theta: Array) -> tuple[float, Array, Array]:
    """Compute objective, gradient and Hessian at one place."""
    value, gradient, hessian = derivatives(problem.logs[None], problem.log_loss[None], problem.delta, theta[None])
    return float(value[0]), gradient[0], hessian[0]


def _step(gradient: Array, hessian: Array, damping: float) -> Array:
    return newton_steps(gradient[None], hessian[None], np.array([damping]))[0]


def bootstrap(problem: Problem, start: Minimum, groups: NDArray[np.int64], resamples: int, seed: int) -> list[PowerLaw]:
    """Refit on resampled runs.

    Args:
        problem: The data.
        start: The fit; every refit starts there.
        groups: Run of each row: whole runs are drawn, never single checkpoints. Shape (n,).
        resamples: Number of refits.
        seed: Seed of the draws.

    Returns:
        One fit per resample.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    rows = [
        np.concatenate([members[index] for index in rng.integers(0, len(names), len(names))]) for _ in range(resamples)
    ]
    # runs of different lengths make samples of different lengths: those of one length are refitted together
    fits: dict[int, PowerLaw] = {}
    for length in sorted({len(index) for index in rows}):
        which = [number for number, index in enumerate(rows) if len(index) == length]
        drawn = np.array([rows[number] for number in which])
        samples = problem.logs[:, drawn].transpose(1, 0, 2), problem.log_loss[drawn]
        starts = np.tile(start.theta, (len(which), 1))
        found = _minima(*samples, problem.delta, starts)
        fits |= {number: law_of(problem, end) for number, end in zip(which, found, strict=True)}
    return [fits[number] for number in range(resamples)]


def has_optimum(law: PowerLaw) -> bool:
    """Whether a law falls in both N and D, with coefficients that are numbers: else no size is the best."""
    return min(law.exponents) > 0 and bool(np.isfinite(law.coefficients).all()) and min(law.coefficients) > 0


@dataclass(frozen=True)
class Optimum:
    """Where a compute budget is best spent under C = 6 N D.

    Attributes:
        params: N.
        tokens: D.
        loss: L(N, D).
        params_exponent: beta/(alpha + beta): N grows as C to this power.
        kappa: alpha beta/(alpha + beta): L - E falls as C to minus this power.
    """

    params: float
    tokens: float
    loss: float
    params_exponent: float
    kappa: float


def compute_optimal(law: PowerLaw, flops: float) -> Optimum:
    """Solve for the compute-optimal size in closed form (Hoffmann et al. 2022, eq. 4).

    N = G (C/6)**(beta/(alpha+beta)), D = (C/6)**(alpha/(alpha+beta)) / G, G = (alpha A/(beta B))**(1/(alpha+beta)).

    Args:
        law: A fit with both terms.
        flops: C. Units: FLOP.

    Returns:
        The optimum.
    """
    (a, b), (alpha, beta) = law.coefficients, law.exponents
    both = alpha + beta
    ratio = (alpha * a / (beta * b)) ** (1 / both)
    params, tokens = ratio * (flops / 6) ** (beta / both), (flops / 6) ** (alpha / both) / ratio
    loss = law.floor + a / params**alpha + b / tokens**beta
    return Optimum(params, tokens, loss, beta / both, alpha * beta / both)
