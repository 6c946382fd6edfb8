"""Permutation within blocks and the block bootstrap: against brute force, scipy, and the null."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rayscale.analysis.anova import anova
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.resampling import affordable, bootstrap, data_seed, permutation_test, sign_flip_tests


def table(seed: int, n: int, k: int, effect: float = 0.0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) + rng.normal(size=(n, 1)) + effect * np.arange(k)


def f_of(values: FloatArray) -> float:
    return anova(values, (values.shape[1],), ("a",)).effects[0].F


def test_exact_permutation_counts_every_arrangement() -> None:
    values = table(3, 4, 3, 0.7)
    observed, reached, total = f_of(values), 0, 0
    for orders in itertools.product(itertools.permutations(range(3)), repeat=4):
        total += 1
        arranged = np.array([row[list(order)] for row, order in zip(values, orders, strict=True)])
        reached += f_of(arranged) >= observed * (1 - 1e-9)
    found = permutation_test(values)
    assert found.exact
    assert found.p == pytest.approx(reached / total, abs=1e-12)
    assert found.p_ci == (found.p, found.p)


def test_two_levels_exact_equals_the_sign_flips() -> None:
    values = table(5, 11, 2, 0.6)
    flips = sign_flip_tests(values[:, :1] - values[:, 1:])[0]
    assert permutation_test(values).p == pytest.approx(flips.p, abs=1e-12)
    expected = stats.permutation_test(
        (values[:, 0], values[:, 1]),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
    )
    assert flips.p == pytest.approx(float(expected.pvalue), abs=1e-9)


@pytest.mark.parametrize("k", [3, 7])
def test_monte_carlo_is_near_the_f_test_for_normal_data(k: int) -> None:
    values = table(9, 40, k, 0.12)
    p = anova(values, (k,), ("a",)).effects[0].p_unc
    found = permutation_test(values)
    assert not found.exact
    assert found.p_ci[0] - 0.02 < p < found.p_ci[1] + 0.02
    assert found.p_ci[0] <= found.p <= found.p_ci[1] + 1e-4


def test_same_data_same_numbers() -> None:
    values = table(1, 20, 3)
    assert permutation_test(values, 500) == permutation_test(values.copy(), 500)
    assert data_seed(values) != data_seed(values + 1)
    first, second = (bootstrap(values, [(0, 1)], 0.95, 500) for _ in range(2))
    assert np.array_equal(first.low, second.low)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 2.0**-500, 2.0**500]), st.sampled_from([0.0, 2.0**40]))
def test_exact_permutation_ignores_scale_and_subject_offsets(seed: int, scale: float, offset: float) -> None:
    values = np.rint(64 * table(seed, 5, 3, 0.3))
    shifted = (values + offset * np.arange(5)[:, None]) * scale
    assert permutation_test(shifted).p == pytest.approx(permutation_test(values).p, abs=1e-12)


def test_the_null_is_rejected_as_often_as_promised() -> None:
    """Skewed noise, six blocks: exact by construction, where the F test is only approximate."""
    rng = np.random.default_rng(7)
    rejected = sum(permutation_test(rng.exponential(size=(6, 3)) ** 2).p <= 0.05 for _ in range(400))
    assert rejected / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert rejected / 400 >= 0.05 - 3 * math.sqrt(0.05 * 0.95 / 400)


def test_all_values_alike_is_no_evidence() -> None:
    values = np.ones((5, 3))
    assert permutation_test(values).p == 1.0
    assert sign_flip_tests(values[:, :1] - values[:, 1:2])[0].p == 1.0
    found = bootstrap(values, [(0, 1)], 0.95, 200)
    assert np.isnan(found.low).all()


def test_bootstrap_matches_scipy() -> None:
    values = table(2, 30, 2, 0.5) ** 2
    found = bootstrap(values, [(0, 1)], 0.95, 9_999)
    named = dict(zip(found.names, zip(found.low, found.high, strict=True), strict=True))
    for name, sample in {"mean.0": values[:, 0], "mean_diff.0": values[:, 0] - values[:, 1]}.items():
        expected = stats.bootstrap((sample,), np.mean, method="BCa", n_resamples=9_999, rng=1).confidence_interval
        width = expected.high - expected.low
        assert named[name] == pytest.approx((expected.low, expected.high), abs=0.04 * width)


def test_bootstrap_estimates_are_those_of_the_data() -> None:
    values = table(4, 25, 3, 0.4) + 1e9
    found = bootstrap(values, [(0, 1), (1, 2)], 0.9, 999)
    estimates = dict(zip(found.names, found.estimate, strict=True))
    difference = values[:, 1] - values[:, 2]
    assert estimates["mean.2"] == pytest.approx(values[:, 2].mean(), rel=1e-14)
    assert estimates["mean_diff.1"] == pytest.approx(difference.mean(), rel=1e-9)
    assert estimates["cohen_dz.1"] == pytest.approx(difference.mean() / difference.std(ddof=1), rel=1e-7)
    assert (found.low < found.estimate).all()
    assert (found.estimate < found.high).all()


def test_too_much_work_is_refused() -> None:
    assert affordable(np.zeros((50, 3)), 9_999)
    assert not affordable(np.zeros((1_000_000, 3)), 9_999)


def test_thousands_of_blocks_have_no_exact_test_and_do_not_overflow() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, (5_000, 2)) * [1, 0]
    clear, nothing = sign_flip_tests(differences, 1_999)
    assert (clear.exact, clear.resamples, nothing.resamples) == (False, 1_999, 1_999)
    assert clear.p < 0.01
    assert nothing.p == 1.0
