"""Noncentral distributions, effect-size intervals, Tukey, Bayes factor, equivalence: against R, scipy, identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from rayscale.analysis.bayes import log10_bayes_factor
from rayscale.analysis.distributions import t_two_sided
from rayscale.analysis.effect_intervals import (
    cohen_dz_interval,
    cohen_dz_interval_as_r,
    effect_from_f,
    partial_eta2_interval,
)
from rayscale.analysis.equivalence import equivalence
from rayscale.analysis.noncentral import (
    f_noncentrality,
    noncentral_f_cdf,
    noncentral_t_cdf,
    t_noncentrality,
)
from rayscale.analysis.tukey import tukey_p

Oracle = Callable[[str], dict[str, Any]]

SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def calls(oracle: Oracle, fn: str) -> list[dict[str, Any]]:
    return [call for call in oracle("pub09")["calls"] if call["fn"] == fn]


@pytest.mark.parametrize(("t", "df", "delta"), [(2.0, 3, 1.0), (30.0, 9, 25.0), (60.0, 49, 66.0), (159.0, 49, 127.7)])
def test_noncentral_t_against_direct_integration(t: float, df: float, delta: float) -> None:
    def integrand(s: float) -> float:
        log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
        return math.exp(log_density + (df - 1) * math.log(s) - df * s * s / 2) * float(stats.norm.cdf(t * s - delta))

    points = [delta / t, 1.0]
    expected, _ = integrate.quad(integrand, 1e-12, 1 + 12 / math.sqrt(df), points=points, limit=500, epsabs=1e-12)
    assert noncentral_t_cdf(t, df, delta) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("f", "df1", "df2", "nc"), [(3.0, 3, 33, 5.0), (0.2, 2, 98, 0.0), (24268.0, 2, 98, 48000.0)])
def test_noncentral_f_against_the_mixture_summed_term_by_term(f: float, df1: int, df2: int, nc: float) -> None:
    j = np.arange(0, int(nc / 2 + 40 * math.sqrt(nc + 1) + 50))
    weights = stats.poisson.pmf(j, nc / 2)
    terms = weights * stats.beta.cdf(df1 * f / (df1 * f + df2), df1 / 2 + j, df2 / 2)
    assert noncentral_f_cdf(f, df1, df2, nc) == pytest.approx(math.fsum(terms), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(-400, 400), st.integers(2, 3000), st.sampled_from([0.005, 0.025, 0.5, 0.975]))
def test_t_noncentrality_inverts_its_distribution(t: float, df: int, p: float) -> None:
    delta = t_noncentrality(t, df, p)
    found = noncentral_t_cdf(t, df, delta) if t >= 0 else 1 - noncentral_t_cdf(-t, df, -delta)
    assert found == pytest.approx(p, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1e7), st.integers(1, 8), st.integers(2, 3000), st.sampled_from([0.025, 0.95]))
def test_f_noncentrality_inverts_its_distribution(f: float, df1: int, df2: int, p: float) -> None:
    nc = f_noncentrality(f, df1, df2, p)
    if nc == 0:
        assert stats.f.cdf(f, df1, df2) <= p + 1e-9
    else:
        assert noncentral_f_cdf(f, df1, df2, nc) == pytest.approx(p, abs=1e-7)


def test_effect_sizes_from_f_match_r(oracle: Oracle) -> None:
    for call in calls(oracle, "effect_sizes_from_F"):
        args, expect = call["args"], call["expect"]
        found = effect_from_f(args["F"], args["df1"], args["df2"])
        low, high = partial_eta2_interval(args["F"], args["df1"], args["df2"], 0.9)
        assert found.partial_eta2 == pytest.approx(expect["partial_eta2"], rel=1e-9)
        assert found.partial_omega2 == pytest.approx(expect["omega2_partial_from_F"], rel=1e-9)
        assert found.partial_epsilon2 == pytest.approx(expect["epsilon2_partial"], rel=1e-9)
        assert (low, high) == pytest.approx((expect["ci90_lo"], expect["ci90_hi"]), rel=call["rtol"])


def test_dz_interval_is_symmetric_and_exact_beyond_the_limit_of_r() -> None:
    low, high = cohen_dz_interval(150.0, 50, 0.95)
    assert cohen_dz_interval(-150.0, 50, 0.95) == pytest.approx((-high, -low), rel=1e-12)
    root = math.sqrt(50)
    assert noncentral_t_cdf(150.0, 49, low * root) == pytest.approx(0.975, abs=1e-9)
    approximate = cohen_dz_interval_as_r(150.0, 50, 0.95, (low, high))
    assert approximate[0] == pytest.approx(low, rel=0.01)
    assert noncentral_t_cdf(150.0, 49, approximate[0] * root) == pytest.approx(0.9783, abs=1e-4)
    small = cohen_dz_interval(-6.0, 10, 0.95)
    assert cohen_dz_interval_as_r(-6.0, 10, 0.95, small) == small


def test_undefined_input_gives_undefined_intervals() -> None:
    assert all(math.isnan(bound) for bound in cohen_dz_interval(math.nan, 10, 0.95))
    assert all(math.isnan(bound) for bound in partial_eta2_interval(math.nan, 2, 18, 0.95))
    assert math.isnan(tukey_p(math.nan, 3, 18))
    assert math.isnan(log10_bayes_factor(math.nan, 10))


@pytest.mark.parametrize(("levels", "df"), [(3, 18), (4, 33), (8, 200), (5, 7000), (3, 40000)])
def test_tukey_against_scipy(levels: int, df: int) -> None:
    for t in (0.3, 1.5, 2.8):
        expected = float(stats.studentized_range.sf(math.sqrt(2) * t, levels, df))
        assert tukey_p(t, levels, df) == pytest.approx(expected, abs=3e-8, rel=1e-6)


@pytest.mark.parametrize("df", [1, 2, 3, 17, 98, 400, 30_000])
def test_tukey_of_two_levels_is_the_t_test(df: int) -> None:
    for t in (0.4, 2.3, 4.0):
        assert tukey_p(-t, 2, df) == pytest.approx(t_two_sided(t, df), rel=1e-6, abs=1e-9)


def test_tukey_never_claims_more_than_its_resolution() -> None:
    """R prints 3.083e-10 for every huge t at 98 df; so do we, and never 0."""
    assert tukey_p(67.0, 3, 98) == pytest.approx(3.08332e-10, rel=1e-4)
    assert tukey_p(200.0, 3, 98) == pytest.approx(3.08332e-10, rel=1e-4)
    assert all(tukey_p(1e4, 3, df) > 0 for df in (1, 2, 3, 10, 400, 3000, 20_000, 1e6))


def test_bayes_factor_matches_r(oracle: Oracle) -> None:
    for call in calls(oracle, "bf10_jzs_one_sample"):
        args = call["args"]
        found = 10 ** log10_bayes_factor(args["t"], args["n"], args["r"])
        assert found == pytest.approx(call["expect"]["bf10"], rel=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e6), st.integers(2, 5000))
def test_bayes_factor_is_finite_even_and_grows_with_t(t: float, n: int) -> None:
    assert log10_bayes_factor(t, n) == log10_bayes_factor(-t, n)
    assert math.isfinite(log10_bayes_factor(t, n))
    assert log10_bayes_factor(t + 1, n) >= log10_bayes_factor(t, n)


def test_equivalence_matches_r(oracle: Oracle) -> None:
    differences = np.subtract(*SLEEP)
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    for call in calls(oracle, "tost_paired_sleep_group1_minus_group2"):
        found = equivalence(mean, sd, 10, call["args"]["low"], call["args"]["upp"])
        for name, expected in call["expect"].items():
            assert getattr(found, name) == pytest.approx(expected, rel=call["rtol"]), name


@settings(max_examples=50, deadline=None)
@given(st.floats(-2, 2), st.floats(0.1, 3), st.integers(3, 60), st.floats(0.05, 2))
def test_equivalence_is_shown_exactly_if_the_interval_lies_within(
    mean: float, sd: float, n: int, margin: float
) -> None:
    found = equivalence(mean, sd, n, -margin, margin)
    inside = -margin < found.ci[0] and found.ci[1] < margin
    if abs(found.p - 0.05) > 1e-9:
        assert (found.p < 0.05) == inside
