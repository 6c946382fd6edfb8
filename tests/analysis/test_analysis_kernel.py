"""The laws that any such analysis must obey; `test_analysis_moments.py` holds the kernel against exact arithmetic."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayscale.analysis.anova import Anova, anova, effect_contrasts, helmert
from rayscale.analysis.kernel import mean_and_sd
from rayscale.analysis.pairwise import pairwise
from rayscale.analysis.trend import polynomial_contrasts, polynomial_trend

tables = st.tuples(st.integers(2, 120), st.integers(2, 5), st.integers(0, 2**32 - 1)).map(
    lambda t: np.random.default_rng(t[2]).integers(-50, 50, (t[0], t[1])).astype(float)
)


def same(first: Anova, second: Anova, factor: float = 1.0) -> None:
    """Both say the same, the second in units of which `factor` make one of the first."""
    for one, two in zip(first.effects, second.effects, strict=True):
        for name in ("F", "p_unc", "eps_GG", "eps_HF", "partial_eta2", "generalized_eta2", "partial_epsilon2"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-9, abs=1e-12, nan_ok=True), name
        for name in ("W", "p_box_anderson", "p_exact_null"):
            pair = (getattr(one.sphericity, name), getattr(two.sphericity, name))
            assert pair[0] == pytest.approx(pair[1], rel=1e-7, abs=1e-9, nan_ok=True), name
        assert (two.ss, two.ss_error) == pytest.approx(
            (one.ss * factor**2, one.ss_error * factor**2), rel=1e-9, abs=1e-9 * factor**2
        )
    if not math.isnan(first.multivariate.T2 + second.multivariate.T2):
        assert pytest.approx(first.multivariate.T2, rel=1e-6, abs=1e-9) == second.multivariate.T2


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 1000))
def test_subjects_may_come_in_any_order(values: NDArray[np.float64], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values, axis=0)
    first, second = (anova(v, [values.shape[1]], ["a"]) for v in (values, shuffled))
    same(first, second)
    assert second.ss_subject == pytest.approx(first.ss_subject, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([-4.0, 0.125, 2.0**40]), st.integers(-(2**20), 2**20))
def test_units_and_origin_do_not_matter(values: NDArray[np.float64], factor: float, shift: int) -> None:
    first, second = (anova(v, [values.shape[1]], ["a"]) for v in (values, values * factor + factor * shift))
    same(first, second, abs(factor))


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 1000))
def test_names_of_levels_do_not_matter(values: NDArray[np.float64], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(values.shape[1])
    same(anova(values, [values.shape[1]], ["a"]), anova(values[:, order], [values.shape[1]], ["a"]))


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 1000))
def test_what_a_subject_adds_to_all_its_cells_does_not_matter(values: NDArray[np.float64], seed: int) -> None:
    added = np.random.default_rng(seed).integers(-(2**40), 2**40, (len(values), 1))
    first, second = (anova(v, [values.shape[1]], ["a"]).effects[0] for v in (values, values + added))
    assert (second.ss, second.ss_error) == pytest.approx((first.ss, first.ss_error), rel=1e-9, abs=1e-9)
    assert pytest.approx(second.F, rel=1e-9, abs=1e-12, nan_ok=True) == first.F


@settings(max_examples=60, deadline=None)
@given(tables)
def test_textbook_identities(values: NDArray[np.float64]) -> None:
    n, k = values.shape
    result = anova(values, [k], ["a"])
    effect = result.effects[0]
    if math.isnan(effect.F):
        return
    eta2, df1, df2 = effect.partial_eta2, effect.df1, effect.df2
    assert (df1, df2) == (k - 1, (n - 1) * (k - 1))
    assert pytest.approx(effect.ss / df1 / (effect.ss_error / df2), rel=1e-9) == effect.F
    assert eta2 == pytest.approx(df1 * effect.F / (df1 * effect.F + df2), rel=1e-9)
    assert effect.partial_epsilon2 == pytest.approx(1 - (1 - eta2) * (df1 + df2) / df2, rel=1e-9, abs=1e-12)
    assert effect.generalized_eta2 <= eta2 + 1e-12
    assert 1 / df1 - 1e-12 <= effect.eps_GG <= effect.eps_HF <= 1
    if effect.p_unc <= 0.05:  # where the tests are used, each correction is more careful than the one before
        chain = (effect.p_unc, effect.p_HF, effect.p_GG, effect.p_LB)
        assert all(one <= two * (1 + 1e-9) for one, two in itertools.pairwise(chain))
    multivariate = result.multivariate
    if k == 2:
        assert pytest.approx(effect.F, rel=1e-9, abs=1e-12) == multivariate.F
    elif not math.isnan(multivariate.T2):
        # T2 is the largest own-error t^2 of any contrast, so it is not below that of the effect's own direction.
        means = values.mean(axis=0) - values.mean()
        scores = values @ means
        spread = float(np.var(scores, ddof=1))
        assert spread == 0 or n * float(means @ means) ** 2 / spread * (1 - 1e-6) <= multivariate.T2


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 120), st.sampled_from([(2, 3), (3, 2), (2, 2), (3, 4)]), st.integers(0, 2**32 - 1))
def test_two_factors_share_out_the_cells(n: int, shape: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, shape[0] * shape[1]))
    both, cells = anova(values, shape, ["A", "B"]), anova(values, [values.shape[1]], ["cell"]).effects[0]
    assert math.fsum(effect.ss for effect in both.effects) == pytest.approx(cells.ss, rel=1e-9)
    assert math.fsum(effect.ss_error for effect in both.effects) == pytest.approx(cells.ss_error, rel=1e-9)
    swapped = values.reshape(n, *shape).transpose(0, 2, 1).reshape(n, -1)
    turned = anova(swapped, shape[::-1], ["B", "A"])
    B, A, interaction = turned.effects
    same(both, Anova((A, B, replace(interaction, name="A:B")), turned.ss_subject, turned.multivariate))
    averaged = anova(values.reshape(n, *shape).mean(axis=2), [shape[0]], ["A"]).effects[0]
    assert pytest.approx(averaged.F, rel=1e-9) == both.effects[0].F


@settings(max_examples=60, deadline=None)
@given(tables)
def test_sums_of_squares_add_up(values: NDArray[np.float64]) -> None:
    result = anova(values, [values.shape[1]], ["a"])
    effect = result.effects[0]
    total = effect.ss + effect.ss_error + result.ss_subject
    assert total == pytest.approx(float(np.sum((values - values.mean()) ** 2)), rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_two_levels_are_a_paired_t_test(values: NDArray[np.float64]) -> None:
    two = values[:, :2]
    effect, pair = anova(two, [2], ["a"]).effects[0], pairwise(two, 0.05)[0]
    assert math.isnan(effect.F) == math.isnan(pair.t)
    if not math.isnan(pair.t):
        assert pytest.approx(pair.t**2, rel=1e-9, abs=1e-12) == effect.F
        assert effect.p_unc == pytest.approx(pair.p_raw, rel=1e-9)
        inside = pair.ci[0] <= 0 <= pair.ci[1]
        assert inside == (pair.p_raw >= 0.05)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_polynomials_share_out_the_effect(values: NDArray[np.float64]) -> None:
    k = values.shape[1]
    scores = [2.0**j for j in range(k)]
    effect = anova(values, [k], ["a"]).effects[0]
    parts = polynomial_trend(values, scores)
    assert math.fsum(part.SS for part in parts) == pytest.approx(effect.ss, rel=1e-9, abs=1e-9)


def test_contrasts_are_orthonormal() -> None:
    for matrix in (helmert(5), effect_contrasts([3, 4], [0, 1]), polynomial_contrasts([1.0, 2.0, 5.0, 9.0, 1e6])):
        assert np.allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-12)
        assert np.allclose(matrix.sum(axis=0), 0, atol=1e-12)


def test_agrees_with_statsmodels_on_random_two_way_tables() -> None:
    from statsmodels.stats.anova import AnovaRM

    rng = np.random.default_rng(3)
    for n, a, b in ((4, 2, 3), (6, 3, 3), (5, 4, 2)):
        values = rng.normal(size=(n, a * b))
        result = anova(values, [a, b], ["A", "B"])
        rows = [(i, x, z, values[i, x * b + z]) for i in range(n) for x in range(a) for z in range(b)]
        table = AnovaRM(pd.DataFrame(rows, columns=["who", "A", "B", "y"]), "y", "who", ["A", "B"]).fit().anova_table
        for effect, name in zip(result.effects, ["A", "B", "A:B"], strict=True):
            assert effect.name == name
            assert pytest.approx(table.loc[name, "F Value"], rel=1e-8) == effect.F
            assert effect.p_unc == pytest.approx(table.loc[name, "Pr > F"], rel=1e-7)


def test_three_factors_and_their_strata() -> None:
    values = np.random.default_rng(4).normal(size=(6, 8))
    result = anova(values, [2, 2, 2], ["A", "B", "C"])
    assert [effect.name for effect in result.effects] == ["A", "B", "C", "A:B", "A:C", "B:C", "A:B:C"]
    total = math.fsum(effect.ss + effect.ss_error for effect in result.effects) + result.ss_subject
    assert total == pytest.approx(float(np.sum((values - values.mean()) ** 2)), rel=1e-10)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30))
def test_mean_and_sd_are_exact_far_from_zero(numbers: list[int]) -> None:
    far = np.array(numbers, dtype=float) + 2.0**45
    mean, sd = mean_and_sd(far)
    assert mean == pytest.approx(2.0**45 + float(Fraction(sum(numbers), len(numbers))), rel=1e-15)
    assert sd == pytest.approx(float(np.std(np.array(numbers, dtype=float), ddof=1)), rel=1e-9, abs=1e-12)


def test_null_p_values_are_uniform_enough() -> None:
    rng = np.random.default_rng(5)
    p = [anova(rng.normal(size=(10, 3)), [3], ["a"]).effects[0].p_unc for _ in range(2000)]
    assert abs(float(np.mean(np.array(p) < 0.05)) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)
