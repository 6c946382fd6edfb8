"""The sections on scaling, accounts and returns: there with data, absent without, plain words in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.fit_text import render_fit
from rayscale.analysis.forecast import forecast, years_to_target
from rayscale.analysis.forecast_sweep import sweep_forecast
from rayscale.analysis.scaling_sweep import SWEEP_RESAMPLES, sweep_scaling
from rayscale.analyzing import analyze_ledger, render_tree
from rayscale.cli import run_command
from rayscale.design import plan_sweep
from rayscale.ledger import Ledger
from rayscale.report.build import build_report
from rayscale.report.gather import ReportData, gather
from rayscale.report.scaling_section import scaling_section
from rayscale.spec import ForecastSpec


@pytest.fixture(scope="module")
def sizes() -> pd.DataFrame:
    """4 model sizes x 4 token counts on a noisy surface, in the columns of a ledger."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1e7, 4), np.geomspace(1e6, 1e8, 4)))
    noise = np.exp(0.005 * np.random.default_rng(2).standard_normal(n.size))
    loss = (1.7 + 60 / n**0.34 + 90 / d**0.28) * noise
    joules = 6 * n * d * 1e-9 * n**-0.3
    return pd.DataFrame({"params": n, "trained_tokens": d, "eval_loss": loss, "energy_j": joules})


@pytest.fixture(scope="module")
def fit(sizes: pd.DataFrame) -> dict[str, Any]:
    """The law of that surface."""
    found = sweep_scaling(sizes, "toy")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def base(laptop: Ledger) -> dict[str, Any]:
    """The analysis of a sweep of three token counts, which would fit any law."""
    return analyze_ledger(laptop, laptop.read_plan())


def test_a_size_factor_is_fitted(laptop: Ledger, base: dict[str, Any], fit: dict[str, Any], tmp_path: Path) -> None:
    assert fit["alpha"] == pytest.approx(0.34, abs=0.1)
    assert set(fit["profile95"]) == {"E", "A", "alpha", "B", "beta"}
    assert "scaling" not in base
    silent = base | {"scaling": fit, "forecast": {"kappa": None, "why_not": "the data leave kappa open"}}
    text = render_tree(silent, "text")
    assert "Scaling law" in text
    assert "no relative-loss forecast" in text
    page = build_report(laptop, silent, tmp_path / "r.html").read_text(encoding="utf-8")
    for words in ('id="scaling"', "table-scaling", "figure-scaling", "grows as C^", "bootstrap by run"):
        assert words in page
    assert 'id="forecast"' not in page
    assert "There is no relative-loss forecast: the data leave kappa open." in page
    assert "(profile)" in render_fit(fit)
    assert SWEEP_RESAMPLES >= 100


def test_the_forecast_of_the_sweeps_own_fit(
    laptop: Ledger, base: dict[str, Any], fit: dict[str, Any], tmp_path: Path
) -> None:
    """The interval of kappa, the form that was used, gamma's unit, fleets and figure: in the tree, text and page."""
    settings = ForecastSpec(years=8.0, gammas=[1.0, 0.0], target=0.6)
    tree = sweep_forecast(fit, settings, "toy")
    alpha, beta = fit["alpha"], fit["beta"]
    assert tree["kappa"] == pytest.approx(alpha * beta / (alpha + beta), rel=1e-12)
    low, high = tree["kappa_ci95"]
    assert low < tree["kappa"] < high
    assert (tree["applies_to"], tree["gamma_unit"]) == ("L - E", "doublings per year")
    assert [plan["gamma"] for plan in tree["plans"]] == [0.0, 1.0]
    for plan in tree["plans"]:
        assert plan["R"] == pytest.approx(forecast(tree["kappa"], plan["gamma"], 8.0).relative_loss, rel=1e-12)
        assert plan["ci95"]["R"] == [forecast(end, plan["gamma"], 8.0).relative_loss for end in (high, low)]
        assert plan["years_to_target"] == years_to_target(0.6, tree["kappa"], plan["gamma"])
        assert plan["fleets"]["spend_years"] == pytest.approx(0.8)
    json.dumps(tree, allow_nan=False)
    whole = base | {"scaling": fit, "forecast": tree}
    assert "gamma (doublings/yr)" in render_tree(whole, "text")
    page = build_report(laptop, whole, tmp_path / "r.html").read_text(encoding="utf-8")
    for words in ("Relative-loss forecast", "figure-forecast", "doublings per year", "front-loaded", "L − E with E ="):
        assert words in page


def test_the_optima_of_a_sweep_are_shown_at_what_its_largest_trial_took(
    laptop: Ledger, base: dict[str, Any], fit: dict[str, Any], sizes: pd.DataFrame
) -> None:
    """Compute-optimal and energy-optimal N and D; larger models use the device better, so the latter is larger."""
    best, thrifty = fit["optimum"], fit["energy_optimum"]
    assert best["flops"] == pytest.approx(6 * 1e7 * 1e8)
    assert thrifty["joules"] == pytest.approx(sizes["energy_j"].max())
    assert thrifty["size_exponent"] == pytest.approx(-0.3, abs=1e-6)
    same = thrifty["flops"] / best["flops"]
    assert thrifty["params"] > best["params"] * same ** best["params_exponent"]
    section = scaling_section(ReportData(**{**vars(gather(laptop, base)), "analysis": base | {"scaling": fit}}))
    assert section is not None
    words = " ".join(section.sentences)
    assert "At the compute of the largest trial (6.00 × 10¹⁵ FLOP" in words
    assert "joules (estimated) per FLOP go as N^−0.300" in words
    silent = sweep_scaling(sizes.assign(energy_j=np.nan), "toy")
    assert silent is not None
    assert silent["energy_optimum"] is None


def test_a_token_sweep_is_fitted_where_the_law_can_be_tested() -> None:
    """Four token counts at one size are a power law in D; three, a further factor or one size too few are not."""
    d = np.repeat([1e5, 3e5, 1e6, 3e6], 4)
    loss = (2 + 400 / d**0.4) * np.exp(0.003 * np.random.default_rng(0).standard_normal(d.size))
    frame = pd.DataFrame({"params": 1e6, "trained_tokens": d, "eval_loss": loss, "repetition": list(range(4)) * 4})
    fit = sweep_scaling(frame, "toy", ["tokens"])
    assert fit is not None
    assert (fit["alpha"], fit["A"], fit["n_runs"]) == (None, None, 16)
    assert fit["beta"] == pytest.approx(0.4, abs=0.1)
    assert sweep_forecast(fit, ForecastSpec(), "toy")["kappa_formula"] == "beta"
    shared = sweep_scaling(frame.assign(shared_prefix=True), "toy", ["tokens"])
    assert shared is not None
    assert shared["n_runs"] == 4  # budgets of one trunk are checkpoints of one run
    assert sweep_scaling(frame[frame["trained_tokens"] < 3e6], "toy", ["tokens"]) is None
    assert sweep_scaling(frame, "toy", ["tokens", "train.precision"]) is None


def test_a_token_sweep_has_the_sections(tmp_path: Path) -> None:
    """From ledger to page: five token counts, kappa = beta, in analysis.json and in the report."""
    design = {"factors": {"tokens": [12_500, 25_000, 50_000, 100_000, 200_000]}, "repetitions": 3}
    spec = example_spec(3, design=design, report={"forecast": {"years": 4}}, analysis={"dv": ["perplexity"]})
    ledger = make_ledger(tmp_path, spec, estimated=False)
    assert run_command(["report", str(ledger.root)]) == 0
    tree = json.loads((ledger.root / "analysis.json").read_text(encoding="utf-8"))
    forecast_tree, page = tree["forecast"], (ledger.root / "report.html").read_text(encoding="utf-8")
    assert tree["scaling"]["alpha"] is None
    assert (forecast_tree["kappa"], forecast_tree["years"]) == (tree["scaling"]["beta"], 4.0)
    low, high = forecast_tree["kappa_ci95"]
    assert 0 < low < forecast_tree["kappa"] < high
    for words in ('id="scaling"', 'id="forecast"', "tokens alone, at this model size", "after 4 years"):
        assert words in page


def test_forecast_settings_are_no_part_of_a_trial() -> None:
    plain, other = example_spec(1), example_spec(1, report={"forecast": {"years": 3, "target": 0.9}})
    keys = [[trial.trial_key for trial in plan_sweep(spec).trials] for spec in (plain, other)]
    assert keys[0] == keys[1]
    with pytest.raises(ValueError, match="at most `years`"):
        ForecastSpec(years=2, front_load=3)


def test_what_a_sweep_cannot_identify_is_not_fitted(sizes: pd.DataFrame) -> None:
    assert sweep_scaling(sizes.assign(params=1e6), "toy", ["tokens", "model.config.hidden_size"]) is None
    assert sweep_scaling(sizes.assign(trained_tokens=20 * sizes["params"]), "toy") is None
    assert sweep_scaling(sizes[sizes["params"] < 1e6], "toy") is None  # two sizes
    assert sweep_scaling(sizes.assign(eval_loss=np.nan), "toy") is None


def test_old_analyses_without_the_new_parts_are_reported(laptop: Ledger, base: dict[str, Any], tmp_path: Path) -> None:
    old = {name: part for name, part in base.items() if name not in ("accounting", "pareto", "marginal")}
    page = build_report(laptop, old, tmp_path / "old.html").read_text(encoding="utf-8")
    for words in ("What the sweep took", "What the loss cost", "Scaling law", "Relative-loss forecast"):
        assert words not in page
