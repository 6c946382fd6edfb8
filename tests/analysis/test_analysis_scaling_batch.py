"""Many descents at once: the same as one at a time, with the derivatives of the objective that they minimise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.scaling import IDLE_STEPS, MAX_STEPS, Problem, bootstrap, fit, polish, starting_points
from rayscale.analysis.scaling_batch import BATCH, derivatives, polish_many


def surface(seed: int, noise: float = 0.01) -> Problem:
    """A noisy L(N, D) on a grid of 5 x 5."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    error = np.exp(noise * np.random.default_rng(seed).standard_normal(n.size))
    return Problem.of([n, d], (1.7 + 400 / n**0.34 + 900 / d**0.3) * error)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_the_gradient_is_that_of_the_objective(seed: int, shift: list[float]) -> None:
    """Gradient and Hessian against central differences."""
    problem = surface(seed)
    theta = np.array([1.0, 0.34, 0.5, 0.3, 0.5]) + 0.3 * np.array(shift)

    def at(place: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, hessian = derivatives(problem.logs[None], problem.log_loss[None], 0.5, place[None])
        return float(value[0]), gradient[0], hessian[0]

    _, gradient, hessian = at(theta)
    for k in range(5):
        step = 1e-5 * np.eye(5)[k]
        (up, up_slope, _), (down, down_slope, _) = at(theta + step), at(theta - step)
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-5)
        # Huber's curvature jumps where a residual passes the threshold: there the difference lies in between
        assert hessian[k] == pytest.approx((up_slope - down_slope) / 2e-5, rel=1e-3, abs=1e-3) or _near_a_kink(
            problem, theta
        )


def _near_a_kink(problem: Problem, theta: np.ndarray) -> bool:
    from rayscale.analysis.scaling import residuals

    return bool((np.abs(np.abs(residuals(problem, theta)) - 0.5) < 1e-3).any())


@pytest.mark.parametrize("noise", [0.0005, 0.02])
def test_a_batch_ends_where_single_descents_end(noise: float) -> None:
    problem = surface(3, noise)
    starts = np.array(starting_points(problem)[: BATCH + 3 : 10])
    logs = np.broadcast_to(problem.logs, (len(starts), *problem.logs.shape))
    loss = np.broadcast_to(problem.log_loss, (len(starts), *problem.log_loss.shape))
    _, together = polish_many(logs, loss, problem.delta, starts, MAX_STEPS, IDLE_STEPS)
    apart = [polish(problem, start).objective for start in starts]
    assert together == pytest.approx(np.array(apart), rel=1e-6)


def test_refits_of_runs_of_different_lengths_keep_their_order() -> None:
    """Samples of one length are refitted together; the laws come back in the order of the draws."""
    problem = surface(5)
    groups = np.repeat([0, 1, 2, 3, 4, 5], [1, 2, 3, 5, 6, 8])
    best = fit(problem)
    laws = bootstrap(problem, best.minimum, groups, 12, 7)
    assert len(laws) == 12
    again = bootstrap(problem, best.minimum, groups, 8, 7)
    for one, other in zip(again, laws, strict=False):
        assert one.exponents == pytest.approx(other.exponents, rel=1e-6)
