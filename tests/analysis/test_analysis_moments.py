"""One reading of a table gives what exact arithmetic gives; where it cannot, it says so and the careful way serves."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from exact_anova import exact_anova
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.anova import anova, helmert
from rayscale.analysis.kernel import FloatArray, differences_of
from rayscale.analysis.moments import ROWS, exact_moments, moments, quick_moments


def hard(kind: str, n: int, k: int) -> FloatArray:
    """Tables on which naive sums of squares lose digits."""
    rng = np.random.default_rng(n)
    noise, level = rng.normal(size=(n, k)), np.arange(k)
    tables = {
        "plain": noise + level,
        "whole numbers near 1e12": rng.integers(0, 20, (n, k)) + 1e12,
        "decimals near 1e12": noise + 1e12,
        "subject sd 1e6": rng.normal(0, 1e6, (n, 1)) + 3 * noise,
        "level effect 1e12": noise + 1e12 * level,
        "level effect 1e12, subject sd 1e6": noise + 1e12 * level + rng.normal(0, 1e6, (n, 1)),
        "one noisy level": noise * np.r_[1e6, np.ones(k - 1)],
        "effect that grows from subject to subject": noise + np.linspace(0, 1e6, n)[:, None] * level,
        "one far subject": np.vstack([1e9 * (level[None, :] + 1), noise[1:]]),
        "many magnitudes": np.exp(5 * noise),
        "sorted": np.sort(noise, axis=0) + level,
    }
    return tables[kind]


KINDS = (
    "plain",
    "whole numbers near 1e12",
    "decimals near 1e12",
    "subject sd 1e6",
    "level effect 1e12",
    "level effect 1e12, subject sd 1e6",
    "one noisy level",
    "effect that grows from subject to subject",
    "one far subject",
    "many magnitudes",
    "sorted",
)


def assert_exact(values: FloatArray) -> None:
    truth, found = exact_anova(values), anova(values, [values.shape[1]], ["a"])
    effect = found.effects[0]
    assert pytest.approx(truth.F, rel=1e-12) == effect.F
    assert effect.eps_GG == pytest.approx(truth.gg, rel=1e-12)
    assert effect.ss_error == pytest.approx(truth.ss_error, rel=1e-12)
    assert found.ss_subject == pytest.approx(truth.ss_subject, rel=1e-12)


@pytest.mark.parametrize("size", [(2, 3), (5, 4), (63, 3), (64, 3), (300, 6)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_table_costs_a_digit(kind: str, size: tuple[int, int]) -> None:
    assert_exact(hard(kind, *size))


@pytest.mark.parametrize("n", [ROWS - 1, ROWS, ROWS + 1])
@pytest.mark.parametrize("kind", ["whole numbers near 1e12", "subject sd 1e6", "level effect 1e12"])
def test_no_digit_is_lost_where_a_piece_ends(kind: str, n: int) -> None:
    assert_exact(hard(kind, n, 3))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("one noisy level", "one far subject")])
def test_hotelling_and_mauchly_against_exact_arithmetic(kind: str) -> None:
    """Where one direction has 1e6 times the noise of another, these two keep but 16 - 6 digits and are left out."""
    values = hard(kind, 200, 4)
    truth, found = exact_anova(values), anova(values, [4], ["a"])
    rel = 1e-9 if kind.startswith("effect that grows") else 1e-12
    assert pytest.approx(truth.T2, rel=rel) == found.multivariate.T2
    assert pytest.approx(truth.W, rel=rel) == found.effects[0].sphericity.W


@pytest.mark.parametrize("power", [530, -530, 1020, -1000])
def test_scale_changes_no_digit_of_a_long_table(power: int) -> None:
    values = np.random.default_rng(1).uniform(1, 2, (ROWS + 1, 3)) + np.arange(3)
    assert quick_moments(np.ldexp(values, power)) is not None
    plain, scaled = (anova(v, [3], ["a"]).effects[0] for v in (values, np.ldexp(values, power)))
    for name in ("F", "p_unc", "eps_GG", "eps_HF", "partial_eta2", "generalized_eta2"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-13)


def test_the_largest_doubles() -> None:
    values = np.random.default_rng(2).choice([-1.0, 1.0], (ROWS + 1, 3))
    plain, largest = (anova(v, [3], ["a"]).effects[0] for v in (values, values * 1.7e308))
    assert pytest.approx(plain.F, rel=1e-12) == largest.F


@pytest.mark.parametrize("kind", ["level effect 1e12", "one noisy level", "one far subject"])
def test_the_quick_way_turns_down_what_would_cost_digits(kind: str) -> None:
    assert quick_moments(hard(kind, 300, 4)) is None
    assert moments(hard(kind, 300, 4)).residual is not None


def test_a_quiet_contrast_beside_a_noisy_level() -> None:
    """Its sum of squares is 1e-10 of the whole: in a matrix of squares it would keep six digits."""
    values = hard("plain", 300, 3) * np.array([1e5, 1.0, 1.0])
    values -= values.mean(axis=0)
    assert quick_moments(values) is None
    contrast = np.array([[0.0], [1.0], [-1.0]])
    differences = [Fraction(b) - Fraction(c) for _, b, c in values.tolist()]
    exact = sum((d * d for d in differences), Fraction(0)) - sum(differences, Fraction(0)) ** 2 / len(differences)
    parts = moments(values)
    found = parts.in_units(float(np.sum(parts.errors(contrast) ** 2)))
    assert found == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("kind", ["plain", "whole numbers near 1e12", "subject sd 1e6", "sorted"])
def test_the_quick_way_serves_ordinary_tables(kind: str) -> None:
    assert moments(hard(kind, 300, 4)).residual is None


@pytest.mark.parametrize(("jump", "quick"), [(10.0, True), (1e4, False)])
def test_a_first_piece_that_tells_little_of_the_rest(jump: float, quick: bool) -> None:
    values = hard("plain", ROWS + 4000, 3)
    values[ROWS:] += np.array([0.0, jump, 2 * jump]) + 1e5
    assert (quick_moments(values) is not None) == quick
    assert_exact(values)


@st.composite
def long_tables(draw: st.DrawFn) -> FloatArray:
    """Tables of all conditions: noise, effects and offsets differ by orders of magnitude."""
    n, k = draw(st.integers(2, 200)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** rng.uniform(-1, draw(st.sampled_from([-1.0, 1.0, 3.0])), k)
    effects = rng.normal(size=k) * 10.0 ** draw(st.integers(-3, 8))
    subjects = rng.normal(size=(n, 1)) * 10.0 ** draw(st.integers(-3, 6))
    offset = 10.0 ** draw(st.integers(0, 9))
    return rng.normal(size=(n, k)) * scale + effects + subjects + offset


@settings(max_examples=150, deadline=None)
@given(long_tables())
def test_quick_and_careful_agree(values: FloatArray) -> None:
    quick, careful = quick_moments(values), exact_moments(values)
    if quick is None:
        return
    unit = 2.0**careful.exponent
    contrasts = helmert(values.shape[1])
    gram, expected = (errors.T @ errors for errors in (quick.errors(contrasts), careful.errors(contrasts) * unit))
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    assert np.max(np.abs(gram - expected) / scale) < 1e-10
    assert quick.effects(contrasts) == pytest.approx(
        careful.effects(contrasts) * unit, rel=1e-9, abs=1e-12 * float(np.max(np.abs(quick.means)))
    )
    assert quick.subject == pytest.approx(careful.ss_subject, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(long_tables())
def test_random_tables_against_exact_arithmetic(values: FloatArray) -> None:
    assert_exact(values[:40])


@settings(max_examples=60, deadline=None)
@given(long_tables())
def test_differences_keep_what_their_rounding_takes(values: FloatArray) -> None:
    """The residual has the digits of its own size, however large the means beside it are."""
    parts = differences_of(values)
    n, k = values.shape
    y = [[int(Fraction(x) * 2**200) for x in row] for row in values.tolist()]
    for j in range(1, k):
        column = [row[j] - row[0] for row in y]
        total = sum(column)
        exact = np.array([(n * d - total) / (n * 2**200) for d in column])
        found = np.ldexp(parts.residual[:, j], parts.exponent)
        assert np.max(np.abs(found - exact)) <= 1e-14 * np.max(np.abs(exact))


@pytest.mark.parametrize("n", [5, 100])
def test_rounding_is_not_taken_for_noise(n: int) -> None:
    alike: FloatArray = np.asarray(0.1 * (np.arange(n)[:, None] + np.arange(3)), dtype=np.float64)
    effect = anova(alike, [3], ["a"]).effects[0]
    assert (effect.ss_error, math.isnan(effect.F)) == (0.0, True)
    assert math.isnan(anova(alike, [3], ["a"]).multivariate.T2)
    written = 1e12 + 1e-4 * np.random.default_rng(7).normal(size=(n, 3))  # doubles near 1e12 are 1.2e-4 apart
    assert math.isnan(anova(written, [3], ["a"]).effects[0].F)
    alike[n // 2, 1] += 1e-9
    assert anova(alike, [3], ["a"]).effects[0].ss_error == pytest.approx(1e-18 * (1 - 1 / n) * 2 / 3, rel=1e-5)


@pytest.mark.parametrize("n", [6, 100])
def test_no_effect_is_none_also_in_decimals(n: int) -> None:
    noise = 0.1 * np.random.default_rng(4).integers(-9, 9, (n, 3))
    same = np.vstack([np.roll(noise, shift, axis=1) for shift in range(3)]) + 0.3
    assert anova(same, [3], ["a"]).effects[0].F == 0.0


def test_a_singular_covariance_has_no_mauchly_test() -> None:
    rng = np.random.default_rng(5)
    for n in (7, 200):
        one, two = rng.integers(-9, 9, (2, n, 1)).astype(float)
        result = anova(np.hstack([0 * one, one, two, one + two]), [4], ["a"])
        assert math.isnan(result.effects[0].sphericity.W)
        assert "singular" in (result.effects[0].sphericity.note or "")
        assert math.isnan(result.multivariate.T2)
        assert result.effects[0].F > 0


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_memory_layout(order: str) -> None:
    wide = np.asarray(np.random.default_rng(6).normal(size=(500, 8)), order=order)  # type: ignore[call-overload]
    view = wide[::2, 1:7:2]
    assert anova(view, [3], ["a"]).effects[0].F == anova(view.copy(), [3], ["a"]).effects[0].F


def test_a_long_table_is_read_without_a_copy() -> None:
    values = np.random.default_rng(8).normal(size=(200_000, 3))
    anova(values, [3], ["a"])
    tracemalloc.start()
    anova(values, [3], ["a"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes / 4
