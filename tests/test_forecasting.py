"""The forecast as a document: kappa from a fit with its interval, fleets of the same energy, table and figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.fitted import FitRequest, fit_frame
from rayscale.analysis.fleets import compare_fleets, front_loaded_log_multiple
from rayscale.analysis.forecast import forecast, log_compute_multiple
from rayscale.cli import run_command
from rayscale.errors import InputError
from rayscale.forecasting import Kappa, forecast_document, gammas_of, render_forecast


def points(path: Path, noise: float = 0.01) -> Path:
    """A noisy Chinchilla surface as a table N, D, loss."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(noise * np.random.default_rng(4).standard_normal(n.size))
    pd.DataFrame({"N": n, "D": d, "loss": loss}).to_csv(path, index=False)
    return path


def test_kappa_of_a_fit_is_carried_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = points(tmp_path / "points.csv")
    options = ["--gamma", "1", "--years", "10", "--target", "0.5"]
    assert run_command(["forecast", "--fit", str(table), "--resamples", "60", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["kappa_ci95"]
    assert low < 0.34 * 0.28 / 0.62 < high
    assert low < found["kappa"] < high
    assert (found["applies_to"], found["gamma_unit"]) == ("L - E", "doublings per year")
    assert found["floor"] == pytest.approx(1.69, rel=0.1)
    for name in ("R", "years_to_target", "gamma_for_target"):
        assert found["ci95"][name][0] < found[name] < found["ci95"][name][1], name
    assert found["ci95"]["R"] == [forecast(end, 1.0, 10.0).relative_loss for end in (high, low)]
    assert run_command(["forecast", "--fit", str(table), "--resamples", "60", *options]) == 0
    text = capsys.readouterr().out
    assert "it holds for L - E, with E = " in text
    assert "alpha beta / (alpha + beta)" in text


def test_never_within_an_interval_is_said() -> None:
    """Efficiency falls: the target is reached for large kappa only."""
    found = forecast_document(Kappa(0.06, (0.04, 0.08), "L - E", 1.7, "test"), -0.5, 3.0, 0.93)
    assert found["ci95"]["years_to_target"][1] is None
    assert "to never)" in render_forecast(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gamma", "1", "--years", "1"], "either --kappa or --fit"),
        (["--gamma", "x", "--years", "1", "--kappa", "0.05"], "--gamma x"),
        (["--gamma", "1", "--years", "5", "--kappa", "0.05", "--front-load", "6"], "--front-load 6"),
        (["--gamma", "1", "--years", "5", "--kappa", "0.05", "--figure", "x.pdf"], r".png or .svg"),
        (["--gamma", "1", "--years", "5", "--kappa", "0.05", "--figure", "no/where.png"], "no such directory"),
    ],
)
def test_what_cannot_be_forecast_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["forecast", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_kappa_of_a_token_sweep_is_beta_at_its_model_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One N: compute goes into tokens alone, kappa = beta, its interval the wider one of bootstrap and profile."""
    d = np.repeat(np.geomspace(1e7, 1e10, 7), 3)
    loss = (1.7 + 300 / d**0.3) * np.exp(0.003 * np.random.default_rng(1).standard_normal(d.size))
    table = tmp_path / "tokens.csv"
    pd.DataFrame({"N": 1e8, "D": d, "loss": loss}).to_csv(table, index=False)
    options = ["--fit", str(table), "--resamples", "40", "--gamma", "1", "--years", "5"]
    assert run_command(["forecast", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fit = fit_frame(pd.read_csv(table), FitRequest("loss", "N", "D", resamples=40), "x")
    assert (found["kappa"], found["kappa_formula"]) == (pytest.approx(fit["beta"]), "beta")
    assert found["kappa_ci95"][0] == min(fit["ci95"]["beta"][0], fit["profile95"]["beta"][0])
    assert found["kappa_ci95"][0] < 0.3 < found["kappa_ci95"][1]
    assert found["floor"] == pytest.approx(1.7, rel=0.05)
    assert run_command(["forecast", *options]) == 0
    assert "compute is spent on tokens alone, at this model size" in capsys.readouterr().out


def test_what_leaves_kappa_open_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    d = np.geomspace(1e5, 4e5, 10)
    table = tmp_path / "noise.csv"
    pd.DataFrame({"N": 1e6, "D": d, "loss": 3 + np.random.default_rng(3).random(10)}).to_csv(table, index=False)
    options = ["--fit", str(table), "--resamples", "20", "--gamma", "1", "--years", "5"]
    assert run_command(["forecast", *options]) == 2
    assert "state --kappa instead" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
def test_table_and_figure(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kappa", "0.05", "--gamma", "0,0.5,1,2,3", "--years", "20", "--target", "0.5", "--table"]
    assert run_command(["forecast", *options, "--figure", str(tmp_path / name)]) == 0
    text = capsys.readouterr().out
    assert "0.4909" in text  # gamma 1, 20 years
    assert "doublings/yr" in text
    content = (tmp_path / name).read_bytes()
    assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert len(content) > 10_000


def test_gammas() -> None:
    assert gammas_of("0, 0.5,-1") == [0.0, 0.5, -1.0]
    with pytest.raises(InputError, match="--gamma"):
        gammas_of(",")


@given(st.floats(0.01, 0.5), st.floats(-2, 4), st.floats(1, 30), st.floats(0.05, 1))
def test_fleets_of_the_same_energy(kappa: float, gamma: float, years: float, share: float) -> None:
    """Spending early wins where efficiency falls, spending evenly where it grows; equal without change."""
    found = compare_fleets(kappa, gamma, years, share * years)
    assert found.energy == years
    if share == 1 or abs(gamma) < 1e-9:
        assert found.even == pytest.approx(found.front_loaded, rel=1e-6)
    elif gamma > 1e-3 and share < 0.99:
        assert found.even < found.front_loaded
        assert found.overtaken is not None
        assert share * years * 0.999 <= found.overtaken <= years
        reached = log_compute_multiple(found.overtaken, gamma)
        front = front_loaded_log_multiple(years, gamma, years, share * years)
        assert reached == pytest.approx(front, rel=1e-6)
    elif gamma < -1e-3 and share < 0.99:
        assert found.even > found.front_loaded
        assert found.overtaken is None


def test_a_fleet_by_hand() -> None:
    """gamma 1, 10 years, all spent in the first: 10 · 1/ln 2 against 1023/ln 2 first years."""
    found = compare_fleets(0.05, 1.0, 10.0, 1.0)
    assert found.front_loaded == pytest.approx((1 + 10 / math.log(2)) ** -0.05, rel=1e-12)
    assert found.even == pytest.approx((1 + 1023 / math.log(2)) ** -0.05, rel=1e-12)
    assert found.overtaken == pytest.approx(math.log2(11), rel=1e-12)
    assert compare_fleets(0.05, 200.0, 10.0, 9.0).overtaken == pytest.approx(9 + math.log2(10 / 9) / 200, rel=1e-9)
