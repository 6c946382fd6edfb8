"""The kernel against exact rational arithmetic, statsmodels, and the laws that any such analysis must obey."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayscale.analysis.anova import anova, effect_contrasts, helmert
from rayscale.analysis.kernel import mean_and_sd
from rayscale.analysis.pairwise import pairwise
from rayscale.analysis.trend import polynomial_contrasts, polynomial_trend


def exact_f(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """F, SS_subject and Greenhouse-Geisser epsilon of doubles, in rational arithmetic."""
    y = [[Fraction(float(v)) for v in row] for row in values]
    n, k = len(y), len(y[0])
    rows = [sum(row, Fraction(0)) / k for row in y]
    columns = [sum((row[j] for row in y), Fraction(0)) / n for j in range(k)]
    grand = sum(rows, Fraction(0)) / n
    residual = [[y[i][j] - rows[i] - columns[j] + grand for j in range(k)] for i in range(n)]
    error = sum((r * r for row in residual for r in row), Fraction(0))
    effect = n * sum(((c - grand) ** 2 for c in columns), Fraction(0))
    gram = [[sum(row[a] * row[b] for row in residual) for b in range(k)] for a in range(k)]
    gg = error**2 / ((k - 1) * sum(g * g for line in gram for g in line))
    subject = k * sum(((r - grand) ** 2 for r in rows), Fraction(0))
    return float(effect / (k - 1) / (error / ((n - 1) * (k - 1)))), float(subject), float(gg)


def stress(kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(7)
    if kind == "offset 1e12":
        return rng.integers(0, 20, (8, 5)) + 1e12
    if kind == "subject sd 1e6":
        return rng.normal(0, 1e6, (20, 1)) + rng.normal([0, 1, 2], 3, (20, 3))
    base = rng.normal(5, 1, (12, 4))
    return base * {"scale 1e160": 1e160, "scale 1e-160": 1e-160, "plain": 1.0}[kind]


@pytest.mark.parametrize("kind", ["plain", "offset 1e12", "subject sd 1e6", "scale 1e160", "scale 1e-160"])
def test_no_digit_is_lost(kind: str) -> None:
    values = stress(kind)
    result = anova(values, [values.shape[1]], ["a"])
    F, subject, gg = exact_f(values) if "160" not in kind else exact_f(values / float(kind.split()[1]))
    tolerance = 1e-9 if "160" not in kind else 1e-12
    assert pytest.approx(F, rel=tolerance) == result.effects[0].F
    assert result.effects[0].eps_GG == pytest.approx(gg, rel=1e-9)
    if "160" not in kind:
        assert result.ss_subject == pytest.approx(subject, rel=1e-9)


tables = st.tuples(st.integers(2, 8), st.integers(2, 5), st.integers(0, 2**32 - 1)).map(
    lambda t: np.random.default_rng(t[2]).integers(-50, 50, (t[0], t[1])).astype(float)
)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 1000))
def test_invariant_under_permutation_and_affine_maps(values: NDArray[np.float64], seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = anova(values, [values.shape[1]], ["a"]).effects[0]
    if math.isnan(first.F):
        return
    moved = rng.permutation(values, axis=0)[:, rng.permutation(values.shape[1])] * -4.0 + 1024.0
    moved += rng.integers(-1000, 1000, (len(values), 1))
    second = anova(moved, [values.shape[1]], ["a"]).effects[0]
    assert pytest.approx(first.F, rel=1e-9, abs=1e-12) == second.F
    assert second.eps_GG == pytest.approx(first.eps_GG, rel=1e-9)
    assert 1 / first.df1 - 1e-12 <= first.eps_GG <= first.eps_HF <= 1


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
