"""Profile intervals of a scaling-law fit: how far a parameter can go before the best fit of the others gets too bad.

For a parameter v the profile is the minimum of the objective over all fits with that v. Huber's sum is no
log-likelihood, but twice its rise over its mean scale is again chi-squared with one degree of freedom (the rho test of
Schrader & Hettmansperger 1980, Biometrika 67, 93-101):

    2 (objective(v) - objective) / tau <= F(0.95; 1, n - p),     tau = [sum psi^2 / (n - p)] / mean of psi'

F stands for chi-squared since tau is estimated from few rows. In simulations with 15 to 120 rows, noise from a third to
ten times Huber's threshold, normal and with heavy tails (t with 4 degrees of freedom), such intervals miss in 2 to 9 %
of the samples, most often with 15 rows (the window below was chosen on other seeds than those that this counts, and
than those of the tests).

It treats rows as independent: where runs have several checkpoints the bootstrap by run is the one to trust. Unlike it,
the profile shows a parameter that the data leave open on one side: that end is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayscale.analysis.scaling import Array, Minimum, PowerLaw, Problem, polish, residuals

CONFIDENCE = 0.95
DOUBLINGS = 40
"""How often the step outwards is doubled before an end counts as open."""
HALVINGS = 30
WINDOW = 1.0
"""Half-width of the window in which the density of the errors at 0 is counted, in their standard deviations."""
LARGEST_LOG = 50.0
"""How far a logarithm of a coefficient may move."""


@dataclass(frozen=True)
class ProfileInterval:
    """A profile interval.

    Attributes:
        low: Lower end; None if the data leave it open.
        high: Upper end; None if the data leave it open.
    """

    low: float | None
    high: float | None


def critical_value(problem: Problem) -> float:
    """Return the quantile of F with 1 and n - p degrees of freedom; infinite where n - p is not above 0.

    Args:
        problem: The data.

    Returns:
        The square of Student's quantile.
    """
    from scipy.special import stdtrit

    left = len(problem.log_loss) - 2 * problem.terms - 1
    return float(stdtrit(left, (1 + CONFIDENCE) / 2)) ** 2 if left > 0 else np.inf


def profile_intervals(
    problem: Problem, minimum: Minimum, critical: float | None = None
) -> dict[str, ProfileInterval] | None:
    """Profile every parameter.

    Args:
        problem: The data.
        minimum: The fit.
        critical: Largest rise of twice the objective over tau; None: `critical_value`.

    Returns:
        `floor`, `coefficient<k>`, `exponent<k>` -> interval; None if the data have no scale (a fit without residuals,
        or no more rows than parameters).
    """
    tau = scale_of(problem, minimum)
    if tau is None:
        return None
    limit = minimum.objective + (critical_value(problem) if critical is None else critical) * tau / 2
    return {
        name: ProfileInterval(*(_end(problem, minimum, row, limit, sign) for sign in (-1.0, 1.0)))
        for name, row in _rows(problem).items()
    }


def scale_of(problem: Problem, minimum: Minimum) -> float | None:
    """Estimate tau, which makes a rise of the objective one of chi-squared.

    Args:
        problem: The data.
        minimum: The fit.

    Returns:
        tau; None without residuals, or with no more rows than parameters.
    """
    residual = residuals(problem, minimum.theta)
    n, p = len(residual), len(minimum.theta)
    psi = np.clip(residual, -problem.delta, problem.delta)
    slope = _slope(problem, residual, p)
    squares = float((psi**2).sum())
    if n <= p or slope == 0 or squares < n * (1e-9 * problem.delta) ** 2:
        return None
    return squares / (n - p) / slope


def _slope(problem: Problem, residual: Array, p: int) -> float:
    """Estimate the mean of psi', the share of errors within delta.

    With a delta far below the noise (nearly least absolute deviations) a handful of rows decides that share, and p of
    them are fitted exactly. So it is counted in a window as wide as `WINDOW` standard deviations, without p rows, and
    scaled to delta.
    """
    size = np.abs(residual)
    sd = 1.4826 * float(np.median(size))  # normal errors: sd from the median absolute deviation
    window = max(problem.delta, WINDOW * sd)
    inside = int((size <= window).sum()) - (p if window > problem.delta else 0)
    return max(inside, 1) / (len(size) - p) * problem.delta / window


def _rows(problem: Problem) -> dict[str, Array]:
    """Each parameter as a linear function of theta: exponents, ln E, and ln A = theta_a + alpha · centre."""
    size = 2 * problem.terms + 1
    rows = {"floor": np.eye(size)[-1]}
    for k in range(problem.terms):
        rows[f"exponent{k}"] = np.eye(size)[2 * k + 1]
        rows[f"coefficient{k}"] = np.eye(size)[2 * k] + problem.centres[k] * np.eye(size)[2 * k + 1]
    return rows


def _end(problem: Problem, minimum: Minimum, row: Array, limit: float, sign: float) -> float | None:
    """Go outwards until the profile passes the limit, then halve the bracket; each fit starts at the last one."""
    length = float(np.linalg.norm(row))
    # directions that leave the parameter as it is
    free = np.linalg.svd(row[None, :] / length)[2][1:].T
    inside, step = minimum.theta, sign * 1e-3 / length
    moved = 0.0
    for _ in range(DOUBLINGS):
        trial = polish(problem, inside + step * row / length, free)
        moved += abs(step) * length
        if trial.objective > limit:
            break
        inside, step = trial.theta, 2 * step
        if moved > LARGEST_LOG:
            return None
    else:
        return None
    for _ in range(HALVINGS):
        step /= 2
        trial = polish(problem, inside + step * row / length, free)
        if trial.objective <= limit:
            inside = trial.theta
    return _value(problem, inside, row)


def _value(problem: Problem, theta: Array, row: Array) -> float:
    """Read the parameter: exponents as they are, the others from their logarithms."""
    number = float(row @ theta)
    is_exponent = row[-1] == 0 and not row[0:-1:2].any()
    return number if is_exponent else float(np.exp(number))


def named(intervals: dict[str, ProfileInterval], law: PowerLaw, names: list[str]) -> dict[str, list[float | None]]:
    """Give intervals the names of the fit's document.

    Args:
        intervals: From `profile_intervals`.
        law: The fit, for its number of terms.
        names: `N`, `D` or one of them, in the order of the terms.

    Returns:
        `E, A, B, alpha, beta` as far as fitted.
    """
    symbols = {"N": ("A", "alpha"), "D": ("B", "beta")}
    found = {"E": intervals["floor"]}
    for k in range(len(law.exponents)):
        coefficient, exponent = symbols[names[k]]
        found[coefficient], found[exponent] = intervals[f"coefficient{k}"], intervals[f"exponent{k}"]
    return {name: [interval.low, interval.high] for name, interval in found.items()}
