"""The relative-loss forecast against 30-digit values, its limits and its inverse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.forecast import forecast, gamma_for_target, limit, log_compute_multiple, years_to_target
from rayscale.errors import InputError

ORACLE = Path(__file__).parents[3] / "shared" / "oracles" / "scaling" / "relative_loss_values.json"

TYPED = [  # kappa .05: gamma, years, R (relative_loss_values.json, mpmath 30 digits)
    (0.0, 1.0, 0.965936),
    (0.5, 10.0, 0.798326),
    (1.0, 20.0, 0.490921),
    (3.0, 20.0, 0.129660),
]


@pytest.mark.parametrize(("gamma", "years", "expected"), TYPED)
def test_values_of_the_table(gamma: float, years: float, expected: float) -> None:
    assert forecast(0.05, gamma, years).relative_loss == pytest.approx(expected, abs=5e-7)


@pytest.mark.skipif(not ORACLE.exists(), reason="../shared/oracles is not here")
def test_every_value_of_the_oracle() -> None:
    oracle = json.loads(ORACLE.read_text(encoding="utf-8"))
    for row in oracle["forward"]:
        found = forecast(row["kappa"], row["gamma"], row["t"])
        assert found.relative_loss == pytest.approx(row["R"], rel=1e-12)
        assert found.compute_multiple == pytest.approx(row["compute_multiple"], rel=1e-11)
    for row in oracle["inverse"]:
        years = years_to_target(row["R"], row["kappa"], row["gamma"])
        assert (years is None) == (row["t_years"] is None)
        assert years is None or years == pytest.approx(row["t_years"], rel=1e-12)
    for row in oracle["extremes"]:
        found = forecast(row["kappa"], row["gamma"], row["t"], row.get("T0_years", 1.0))
        if "log_R" in row:
            assert found.log_relative_loss == pytest.approx(row["log_R"], rel=1e-12)
        else:
            assert found.relative_loss == pytest.approx(row["R"], rel=1e-12)
    assert len(oracle["forward"]) == 448
    assert len(oracle["inverse"]) == 84


def test_half_the_loss_without_gains_takes_a_million_years() -> None:
    assert years_to_target(0.5, 0.05, 0.0) == pytest.approx(2**20 - 1, rel=1e-12)


def test_falling_efficiency_has_a_floor_and_below_it_is_never() -> None:
    assert limit(0.05, -0.5) == pytest.approx(0.9343901866199182, rel=1e-12)
    assert years_to_target(0.93, 0.05, -0.5) is None
    assert years_to_target(0.94, 0.05, -0.5) == pytest.approx(
        math.log1p(-0.5 * math.log(2) * (0.94**-20 - 1)) / (-0.5 * math.log(2)), rel=1e-9
    )


@given(st.floats(0.01, 1), st.floats(-3, 6), st.floats(1e-3, 40))
def test_the_inverse_inverts(kappa: float, gamma: float, years: float) -> None:
    found = forecast(kappa, gamma, years)
    saturated = found.relative_loss < 1e-300 or gamma * years < -8
    if not saturated and found.relative_loss < 1:
        assert years_to_target(found.relative_loss, kappa, gamma) == pytest.approx(years, rel=1e-6)


@given(st.floats(1e-3, 40), st.floats(-1e-4, 1e-4))
def test_small_gamma_goes_to_the_limit_smoothly(years: float, gamma: float) -> None:
    first_order = math.log1p(years * (1 + gamma * math.log(2) * years / 2))
    assert log_compute_multiple(years, gamma) == pytest.approx(first_order, rel=1e-5)


@given(st.floats(0.01, 1), st.floats(0.01, 0.99), st.floats(0.1, 40))
def test_the_gamma_that_is_needed_is_enough(kappa: float, target: float, years: float) -> None:
    gamma = gamma_for_target(target, kappa, years)
    assert log_compute_multiple(years, gamma) == pytest.approx(-math.log(target) / kappa, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1.0), (0.05, math.inf, 1.0), (0.05, 1.0, -1.0), (math.nan, 1.0, 1.0)])
def test_arguments_out_of_range_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        forecast(*bad)
    with pytest.raises(InputError, match="relative loss"):
        years_to_target(1.5, 0.05, 1.0)
