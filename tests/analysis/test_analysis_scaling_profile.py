"""Profile intervals and the energy-optimal size: against coverage, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.scaling import PowerLaw, Problem, compute_optimal, fit, polish, residuals
from rayscale.analysis.scaling_energy import EnergyLaw, energy_optimal, energy_optimum_tree, fit_energy
from rayscale.analysis.scaling_profile import critical_value, named, profile_intervals, scale_of
from rayscale.errors import InputError

CHINCHILLA = PowerLaw(1.69, (406.4, 410.7), (0.34, 0.28))


def tokens_only(noise: float, seed: int, n: int = 40) -> Problem:
    """L = 2 + 400 / D^0.4 with log-normal noise."""
    tokens = np.geomspace(1e5, 1e8, n)
    error = np.exp(noise * np.random.default_rng(seed).standard_normal(n))
    return Problem.of([tokens], (2 + 400 / tokens**0.4) * error)


@pytest.mark.parametrize("noise", [3e-4, 1e-2])
@pytest.mark.parametrize("n", [15, 40])
def test_profiles_cover_about_as_often_as_they_say(noise: float, n: int) -> None:
    """60 samples below and above Huber's threshold: the truth is outside 95 % intervals at most 9 times (p < 2e-3
    beyond). Outside means that the best fit with the true value is worse than the limit, which needs no ends; the seeds
    are no others' (`scaling_profile`).
    """
    misses = {0: 0, 1: 0}
    for seed in range(300_000, 300_060):
        problem = tokens_only(noise, seed, n)
        truth = np.array([np.log(400) - 0.4 * problem.centres[0], 0.4, np.log(2.0)])
        best = polish(problem, truth)
        tau = scale_of(problem, best)
        assert tau is not None
        for number, fixed in ((0, 2), (1, 1)):  # the floor, the exponent
            free = np.delete(np.eye(3), fixed, axis=1)
            starts = (truth, np.where(np.arange(3) == fixed, truth, best.theta))
            rise = min(polish(problem, start, free).objective for start in starts) - best.objective
            misses[number] += 2 * rise / tau > critical_value(problem)
    assert max(misses.values()) <= 9


def test_ends_are_where_the_rise_reaches_the_limit() -> None:
    """The intervals that are searched hold the truth exactly when the rise at the truth is below the limit."""
    for seed in (300_000, 300_001, 300_002):
        problem = tokens_only(1e-2, seed)
        truth = np.array([np.log(400) - 0.4 * problem.centres[0], 0.4, np.log(2.0)])
        best = polish(problem, truth)
        found, tau = profile_intervals(problem, best), scale_of(problem, best)
        assert found is not None
        assert tau is not None
        rise = polish(problem, truth, np.delete(np.eye(3), 1, axis=1)).objective - best.objective
        low, high = found["exponent0"].low, found["exponent0"].high
        assert low is not None
        assert high is not None
        assert (low <= 0.4 <= high) == (2 * rise / tau <= critical_value(problem))


def test_the_objective_at_the_ends_is_the_limit() -> None:
    """At an end of the interval of alpha the best fit of all others is exactly so much worse."""
    problem = tokens_only(1e-2, 1)
    best = fit(problem).minimum
    found = profile_intervals(problem, best)
    tighter = profile_intervals(problem, best, critical=critical_value(problem) / 4)
    assert found is not None
    assert tighter is not None
    for name, inner in tighter.items():
        outer = found[name]
        assert outer.low < inner.low < inner.high < outer.high  # type: ignore[operator]
    end = found["exponent0"].high
    rises = []
    for alpha in (best.theta[1], end):
        at = polish(problem, np.array([best.theta[0], alpha, best.theta[2]]), np.array([[1, 0], [0, 0], [0, 1]], float))
        assert at.theta[1] == alpha
        rises.append(at.objective - best.objective)
    assert rises[0] == pytest.approx(0, abs=1e-12)
    again = profile_intervals(problem, best, critical=critical_value(problem) * 1.0001)
    assert again is not None
    assert rises[1] > 0
    assert again["exponent0"].high == pytest.approx(end, rel=1e-3)


def test_what_the_data_leave_open_is_open() -> None:
    """Noise as large as the fall: the floor may be anything down to nothing."""
    tokens = np.geomspace(1e5, 4e5, 12)
    loss = (2 + 400 / tokens**0.4) * np.exp(0.2 * np.random.default_rng(3).standard_normal(12))
    problem = Problem.of([tokens], loss)
    found = profile_intervals(problem, fit(problem).minimum)
    assert found is not None
    assert any(end is None for interval in found.values() for end in (interval.low, interval.high))


def test_data_without_noise_have_no_profile() -> None:
    problem = tokens_only(0.0, 0)
    assert profile_intervals(problem, fit(problem).minimum) is None


def test_names_follow_the_terms() -> None:
    problem = tokens_only(1e-2, 2)
    result = fit(problem)
    found = profile_intervals(problem, result.minimum)
    assert found is not None
    assert list(named(found, result.law, ["D"])) == ["E", "B", "beta"]
    assert np.abs(residuals(problem, result.minimum.theta)).mean() < 0.02


@settings(max_examples=30)
@given(st.floats(-0.5, 0.5), st.floats(1e6, 1e12), st.floats(0.1, 0.6), st.floats(0.1, 0.6))
def test_the_energy_optimum_is_the_minimum(p: float, joules: float, alpha: float, beta: float) -> None:
    """No other N at the same energy has a lower loss."""
    law, energy = PowerLaw(1.7, (400.0, 900.0), (alpha, beta)), EnergyLaw(1e-11, p, 0.0, None, 0.0, 10)
    best = energy_optimal(law, energy, joules)
    assert best is not None
    assert 6 * best.params * best.tokens * energy.joules_per_flop(best.params) == pytest.approx(joules, rel=1e-9)

    def loss(params: float) -> float:
        tokens = joules / (6 * params * energy.joules_per_flop(params))
        return 1.7 + 400 / params**alpha + 900 / tokens**beta

    assert loss(best.params) == pytest.approx(best.loss, rel=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert loss(best.params * factor) > best.loss


def test_constant_joules_per_flop_give_the_compute_optimum() -> None:
    best = energy_optimal(CHINCHILLA, EnergyLaw(2e-11, 0.0, 0.0, None, 0.0, 5), 2e-11 * 5.76e23)
    same = compute_optimal(CHINCHILLA, 5.76e23)
    assert best is not None
    assert (best.params, best.tokens, best.loss) == pytest.approx((same.params, same.tokens, same.loss), rel=1e-12)


def test_larger_models_that_use_the_device_better_pay_off() -> None:
    """With p < 0 a FLOP of a larger model is cheaper, so the optimum has more parameters."""
    energies = [EnergyLaw(1e-9, 0.0, 0.0, None, 0.0, 5), EnergyLaw(1e-9 * 1e8**0.3, -0.3, 0.0, None, 0.0, 5)]
    plain, better = (energy_optimal(CHINCHILLA, energy, 1e9) for energy in energies)
    assert plain is not None
    assert better is not None
    assert better.params > 1.5 * plain.params
    assert energy_optimal(CHINCHILLA, EnergyLaw(1.0, -1.2, 0.0, None, 0.0, 5), 1e9) is None


def test_joules_per_flop_are_recovered() -> None:
    rng = np.random.default_rng(0)
    params, batch = 10 ** rng.uniform(6, 9, 60), 2.0 ** rng.integers(0, 6, 60)
    flops = 6 * params * 1e6
    joules = flops * 3e-10 * params**-0.2 * batch**-0.1 * np.exp(0.01 * rng.standard_normal(60))
    law = fit_energy(params, flops, joules, batch)
    assert (law.size_exponent, law.batch_exponent) == pytest.approx((-0.2, -0.1), abs=0.01)
    assert law.batch == batch.max()
    assert law.rms_log_error == pytest.approx(0.01, rel=0.3)
    same_batch = fit_energy(params, flops, joules * batch**0.1, np.full(60, 8.0))
    assert (same_batch.batch_exponent, same_batch.batch) == (0.0, 8.0)
    tree = energy_optimum_tree(CHINCHILLA, [CHINCHILLA, PowerLaw(1.7, (400.0, 400.0), (0.34, 0.28))], law, 1e9)
    assert tree is not None
    assert tree["joules_per_flop"] == pytest.approx(law.joules_per_flop(tree["params"]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="N varies by a factor"):
        fit_energy(np.full(5, 1e6), flops[:5], joules[:5])
