"""Shapiro-Wilk against scipy's translation of Royston's code, over all branches of its approximation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rayscale.analysis.shapiro import shapiro_wilk, weights


@pytest.mark.parametrize("n", [3, 4, 5, 6, 11, 12, 150, 5000])
@pytest.mark.parametrize("shape", ["normal", "exponential", "uniform", "few values"])
def test_agrees_with_scipy(n: int, shape: str) -> None:
    rng = np.random.default_rng(n)
    draws = {
        "normal": rng.normal(size=n),
        "exponential": rng.exponential(size=n),
        "uniform": rng.uniform(size=n),
        "few values": np.arange(n) % 3.0,
    }
    W, p = shapiro_wilk(1e6 * draws[shape])
    expected = stats.shapiro(draws[shape])
    assert pytest.approx(float(expected.statistic), abs=1e-8) == W
    assert p == pytest.approx(float(expected.pvalue), rel=1e-5, abs=1e-300)


@pytest.mark.parametrize("n", [3, 4, 6, 50])
def test_weights_are_antisymmetric_rising_and_of_length_one(n: int) -> None:
    found = weights(n)
    assert float(found @ found) == pytest.approx(1, rel=1e-12)
    assert found == pytest.approx(-found[::-1], abs=1e-15)
    assert np.all(np.diff(found) > 0)


def test_numbers_like_the_weights_themselves_are_as_normal_as_can_be() -> None:
    W, p = shapiro_wilk(3 - 2 * weights(20))
    assert pytest.approx(1, abs=1e-12) == W
    assert p == pytest.approx(1, abs=1e-6)


def test_small_p_values_hold_their_level() -> None:
    rng = np.random.default_rng(1)
    p = np.array([shapiro_wilk(rng.normal(size=30))[1] for _ in range(2000)])
    assert abs(float(np.mean(p < 0.05)) - 0.05) < 0.02
