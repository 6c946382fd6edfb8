from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.adjust import ADJUSTMENTS, adjust
from rayscale.analysis.distributions import f_tail, log10_f_tail, t_critical, t_two_sided
from rayscale.analysis.sphericity import mauchly
from rayscale.errors import InputError


@given(st.floats(1e-3, 1e6), st.integers(1, 9), st.integers(1, 400))
def test_logarithm_agrees_with_the_tail(f: float, df1: int, df2: int) -> None:
    p = f_tail(f, df1, df2)
    if p > 1e-250:
        assert log10_f_tail(f, df1, df2) == pytest.approx(math.log10(p), rel=1e-9, abs=1e-12)


@given(st.floats(1e3, 1e9), st.integers(2000, 10_000))
def test_far_tail_with_two_numerator_df_has_a_closed_form(f: float, df2: int) -> None:
    expected = -(df2 / 2) * math.log1p(2 * f / df2) / math.log(10)
    assert log10_f_tail(f, 2, df2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("df1", [1, 3, 7.5])
def test_far_tail_is_continuous_where_the_method_changes(df1: float) -> None:
    low, high = 10.0, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if f_tail(middle, df1, 300) > 1e-280 else (low, middle)
    assert log10_f_tail(low, df1, 300) == pytest.approx(log10_f_tail(high * (1 + 1e-12), df1, 300), rel=1e-9)


def test_textbook_values() -> None:
    assert t_critical(0.95, 9) == pytest.approx(2.2621571628, rel=1e-9)
    assert t_two_sided(-4.0621, 9) == pytest.approx(0.002833, abs=1e-6)
    assert math.isnan(t_critical(0.95, 0))
    assert math.isnan(f_tail(math.nan, 2, 10))


p_lists = st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=8)


@given(p_lists)
def test_adjustments_keep_order_and_never_help(p: list[float]) -> None:
    results = {method: adjust(p, method) for method in ADJUSTMENTS}
    for method, adjusted in results.items():
        assert all(a >= raw - 1e-15 for a, raw in zip(adjusted, p, strict=True)), method
        assert max(adjusted) <= 1
        order = np.argsort(p, kind="stable")
        assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-15), method
    for stronger, weaker in (("bonferroni", "holm"), ("holm", "hochberg"), ("hochberg", "hommel"), ("hommel", "bh")):
        assert all(a >= b - 1e-12 for a, b in zip(results[stronger], results[weaker], strict=True))


def test_undefined_p_keeps_its_place_in_the_family() -> None:
    assert adjust([0.01, math.nan, 0.02], "bonferroni")[0] == pytest.approx(0.03)
    assert math.isnan(adjust([0.01, math.nan, 0.02], "holm")[1])
    assert adjust([0.01, math.nan, 0.02], "holm")[2] == pytest.approx(0.04)
    with pytest.raises(InputError, match="unknown correction"):
        adjust([0.1], "sidak")


@pytest.mark.parametrize("p", [2, 3, 5])
def test_exact_mauchly_p_is_uniform_under_sphericity(p: int) -> None:
    rng = np.random.default_rng(p)
    found = []
    for _ in range(1500):
        z = rng.normal(size=(8, p))
        z -= z.mean(axis=0)
        found.append(mauchly(z.T @ z, 8, p + 1).p_exact_null)
    for level in (0.05, 0.3, 0.7):
        assert abs(float(np.mean(np.array(found) < level)) - level) < 4 * math.sqrt(level * (1 - level) / 1500)
