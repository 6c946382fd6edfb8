"""Power and sample size: the values of R and G*Power's formula, and what must hold for any design."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import example_spec, make_ledger

from rayscale.analysis.noncentral import bisect, f_critical, f_noncentrality, noncentral_f_cdf, power_of_f
from rayscale.analysis.power import (
    Design,
    effect_from_variances,
    paired_power,
    paired_repetitions,
    pilot_effect,
    repetitions_for,
    rm_power,
    smallest_effect,
)
from rayscale.analysis.sweepcells import sweep_cells
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.powering import PowerRequest, parse_numbers, power_document, render_power


def design_of(arguments: dict[str, Any]) -> Design:
    return Design(arguments["m"], arguments["rho"], arguments["eps"], arguments["alpha"])


def test_meets_the_function_table(oracle: Callable[[str], dict[str, Any]]) -> None:
    met = []
    for case in oracle("pub09")["calls"]:
        given_, expected = case["args"], case["expect"]
        if case["fn"] == "rm_anova_power":
            found: float | None = rm_power(given_["f"], given_["n"], design_of(given_))
            assert found == pytest.approx(expected["power"], rel=case["rtol"])
        elif case["fn"] == "rm_anova_n":
            assert repetitions_for(given_["f"], given_["power"], design_of(given_)) == expected["n"]
        elif case["fn"] == "paired_t_n":
            assert paired_repetitions(given_["dz"], given_["power"], given_["alpha"]) == expected["n"]
        else:
            continue
        met.append(case["fn"])
    assert len(met) == 8


def test_power_is_what_simulation_finds() -> None:
    n, k, rho, f = 12, 3, 0.5, 0.4
    rng = np.random.default_rng(1)
    means = np.array([-1.0, 0.0, 1.0]) * f / np.sqrt(2 / 3)
    noise = np.sqrt(rho) * rng.normal(size=(20_000, n, 1)) + np.sqrt(1 - rho) * rng.normal(size=(20_000, n, k))
    y = means + noise
    column = y.mean(axis=1, keepdims=True)
    residual = y - column - y.mean(axis=2, keepdims=True) + y.mean(axis=(1, 2), keepdims=True)
    effect = n * ((column[:, 0] - y.mean(axis=(1, 2))[:, None]) ** 2).sum(axis=1) / (k - 1)
    F = effect / ((residual**2).sum(axis=(1, 2)) / ((n - 1) * (k - 1)))
    found = float((f_critical(0.05, k - 1, (n - 1) * (k - 1)) <= F).mean())
    assert rm_power(f, n, Design(k, rho)) == pytest.approx(found, abs=3 * np.sqrt(0.25 / 20_000))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 2), st.integers(2, 8), st.floats(0, 0.9), st.floats(0.1, 0.95))
def test_n_is_the_smallest_that_reaches_the_power(f: float, k: int, rho: float, power: float) -> None:
    design = Design(k, rho)
    n = repetitions_for(f, power, design)
    assert n is not None
    assert rm_power(f, n, design) >= power
    assert n == 2 or rm_power(f, n - 1, design) < power


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.integers(2, 8), st.floats(0.1, 0.95))
def test_the_smallest_effect_has_just_the_power(n: int, k: int, power: float) -> None:
    f = smallest_effect(n, power, Design(k))
    assert rm_power(f, n, Design(k)) == pytest.approx(power, abs=1e-6)


def test_two_levels_are_the_paired_t_test() -> None:
    from scipy import stats

    critical = stats.t.isf(0.025, 33)
    exact = stats.nct.sf(critical, 33, 0.5 * np.sqrt(34)) + stats.nct.cdf(-critical, 33, 0.5 * np.sqrt(34))
    assert paired_power(-0.5, 34, 0.05) == pytest.approx(exact, rel=1e-9)


def test_no_effect_has_the_power_alpha_and_a_huge_one_has_one() -> None:
    assert rm_power(0.0, 10, Design(3)) == pytest.approx(0.05, rel=1e-6)
    assert rm_power(1e3, 50, Design(3)) == 1.0
    assert repetitions_for(1e-6, 0.8, Design(3)) is None
    assert power_of_f(2, 4, 1.0, 1e-320) == pytest.approx(0.0, abs=1e-300)


def test_scipys_gaps_in_the_noncentral_f_are_bridged() -> None:
    """ncfdtr gives NaN for a few large lambdas; taken for a number it made the power alpha and hid any effect."""
    assert rm_power(1.0, 169, Design(4)) == 1.0
    assert smallest_effect(169, 0.5, Design(4)) < 0.1
    powers = [power_of_f(df1, 9, rate, 0.05) for df1 in (1, 2, 3) for rate in np.logspace(-6, 6, 200)]
    for run in (powers[:200], powers[200:400], powers[400:]):
        assert min(np.diff(run)) >= -1e-9


def test_stated_variances() -> None:
    f, rho = effect_from_variances([1, 2, 3], sd_subject=1, sd_error=2)
    assert (f, rho) == pytest.approx((np.sqrt(2 / 3) / np.sqrt(5), 0.2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Design(1),
        lambda: Design(3, rho=1.0),
        lambda: Design(3, epsilon=0.3),
        lambda: Design(3, alpha=0),
        lambda: rm_power(0.2, 1, Design(3)),
        lambda: rm_power(-0.2, 5, Design(3)),
        lambda: repetitions_for(0.2, 1.0, Design(3)),
        lambda: smallest_effect(5, 0.01, Design(3)),
        lambda: effect_from_variances([1], 1, 1),
        lambda: effect_from_variances([1, 2], 1, 0),
        lambda: parse_numbers("1,b", "--means"),
        lambda: power_document(PowerRequest()),
        lambda: power_document(PowerRequest(levels=3)),
        lambda: power_document(PowerRequest(f=0.2, means=(1, 2))),
        lambda: power_document(PowerRequest(means=(1, 2))),
        lambda: power_document(PowerRequest(means=(1, 2), sd_error=1, levels=3)),
        lambda: power_document(PowerRequest(means=(1, 2), sd_error=1, rho=0.2)),
    ],
)
def test_impossible_plans_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"expected|needs|--rho|means are given"):
        call()


def test_a_pilot_ledger_gives_effect_and_variances(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, repetitions=6)
    spec = example_spec(repetitions=6)
    document = power_document(PowerRequest(dv="perplexity"), spec, ledger)
    pilot = document["pilot"]
    assert (pilot["n"], pilot["factor"], document["effect"]["source"]) == (6, "tokens", "pilot")
    assert 0 < pilot["f_cautious"] < pilot["f"]
    assert pilot["F"] == pytest.approx(pilot["ms_effect"] / pilot["ms_error"])
    # lambda = df1 (F - 1) eps, spread over n k eps / (1 - rho)
    f2 = 2 * (pilot["F"] - 1) * (1 - pilot["icc"]) / (6 * 3)
    assert pilot["f"] == pytest.approx(np.sqrt(f2))
    text = render_power(document)
    assert "pilot: perplexity over tokens, 6 repetitions" in text
    assert "cautious" in text
    stated = power_document(PowerRequest(f=0.25, rho=0.5, n=28), spec, ledger)
    assert stated["pilot"] is None
    assert stated["power_at_n"]["power"] == pytest.approx(0.8124546, rel=1e-6)


def test_a_sweep_without_trials_is_planned_from_its_file(tmp_path: Path) -> None:
    document = power_document(PowerRequest(), example_spec(repetitions=50), Ledger(tmp_path / "none"))
    assert (document["pilot"], document["effect"]["f"]) == (None, None)
    assert document["smallest_effect"]["f"] == pytest.approx(0.182, abs=0.001)
    with pytest.raises(InputError, match="--from-ledger needs finished trials"):
        power_document(PowerRequest(from_ledger=True), example_spec(), Ledger(tmp_path / "none"))


def test_a_pilot_needs_two_blocks(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, repetitions=1)
    cells = sweep_cells(ledger.records(), ledger.read_plan().spec, "perplexity")
    with pytest.raises(InputError, match="at least two"):
        pilot_effect(cells, "perplexity", 0.05)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 500), st.integers(1, 6), st.integers(2, 200), st.floats(0.02, 0.98))
def test_the_noncentrality_bound_gives_back_its_probability(F: float, df1: int, df2: int, p: float) -> None:
    found = f_noncentrality(F, df1, df2, p)
    at = noncentral_f_cdf(F, df1, df2, found)
    assert at == pytest.approx(p, abs=1e-6) or (found == 0 and at <= p)


def test_bisection_finds_falling_and_rising_roots() -> None:
    assert bisect(lambda x: x * x - 2, 0, 2) == pytest.approx(np.sqrt(2), rel=1e-13)
    assert bisect(lambda x: 2 - x * x, 0, 2) == pytest.approx(np.sqrt(2), rel=1e-13)
