"""Scaling-law fits against truth: the published points, noiseless surfaces, and what data cannot identify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import make_ledger

from rayscale.analysis.fit_text import render_fit
from rayscale.analysis.fitted import _intervals, _standard_errors
from rayscale.analysis.scaling import PowerLaw, Problem, bootstrap, compute_optimal, fit, has_optimum, polish
from rayscale.cli import run_command
from rayscale.design import plan_sweep
from rayscale.errors import InputError
from rayscale.fitting import FitRequest, fit_frame, predict
from rayscale.planning import model_shape
from rayscale.specfile import load_spec

ORACLES = Path(__file__).parents[2] / "shared" / "oracles" / "scaling"
needs_oracles = pytest.mark.skipif(not ORACLES.exists(), reason="../shared/oracles is not here")
CHINCHILLA = PowerLaw(1.69, (406.4, 410.7), (0.34, 0.28))


def surface(law: PowerLaw, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    sizes, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)))
    error = np.exp(noise * np.random.default_rng(seed).standard_normal(sizes.size))
    return pd.DataFrame({"N": sizes, "D": tokens, "loss": predict(law, [sizes, tokens]) * error})


def run_fit(frame: pd.DataFrame, **options: object) -> dict:
    return fit_frame(frame, FitRequest(**({"loss": "loss", "resamples": 50} | options)), "table")  # type: ignore[arg-type]


@needs_oracles
def test_the_published_points_are_fitted_to_below_the_published_objective() -> None:
    """Besiroglu et al. (2024): 240 points; their own optimiser stopped 0.036 % above this minimum."""
    reference = json.loads((ORACLES / "epoch_chinchilla_approach3.json").read_text(encoding="utf-8"))
    frame = pd.read_csv(ORACLES / "epoch_chinchilla_svg_extracted.csv")
    options = {"n": "Model Size", "flops": "Training FLOP", "resamples": 300}
    found = run_fit(frame, drop_largest=5, **options)
    assert found["n_points"] == 240
    assert found["objective"] <= 1.0182741e-3
    wanted = reference["case_240"]["reference"]
    for name, tolerance in (("A", 5e-3), ("B", 1e-2), ("E", 1e-3), ("alpha", 1e-3), ("beta", 1e-3)):
        assert found[name] == pytest.approx(wanted[name], rel=tolerance)
        low, high = found["ci95"][name]
        assert low < found[name] < high
        assert found["se"][name] == pytest.approx(reference["published"]["our_bootstrap_600"][name], rel=0.25)
    assert found["optimum"]["params_exponent"] == pytest.approx(wanted["a_opt_exponent"], rel=1e-3)
    everything = run_fit(frame, **options)
    assert everything["objective"] == pytest.approx(reference["case_245"]["reference"]["objective_sum"], rel=1e-6)


@needs_oracles
@pytest.mark.parametrize("name", ["isoflop_clean_chinchilla", "isoflop_clean_symmetric"])
def test_truth_is_recovered_from_clean_isoflop_sets_and_parabolas_are_warned_about(name: str) -> None:
    truth = json.loads((ORACLES / f"{name}.json").read_text(encoding="utf-8"))
    found = run_fit(pd.read_csv(ORACLES / f"{name}.csv"), n="N", d="D", flops="C")
    for key in ("alpha", "beta", "E"):
        assert found[key] == pytest.approx(truth["truth"][key], rel=1e-4)
    for key in ("A", "B"):
        assert found[key] == pytest.approx(truth["truth"][key], rel=1e-2)
    for key, value in truth["approach2_parabola_polyfit"].items():
        assert found["isoflop"][key] == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert any("biased" in note for note in found["notes"])


@settings(max_examples=15)
@given(st.floats(1.2, 2.5), st.floats(50, 800), st.floats(50, 2000), st.floats(0.2, 0.5), st.floats(0.2, 0.5))
def test_any_surface_without_noise_is_recovered(e: float, a: float, b: float, alpha: float, beta: float) -> None:
    frame = surface(PowerLaw(e, (a, b), (alpha, beta)))
    law = fit(Problem.of([frame["N"].to_numpy(), frame["D"].to_numpy()], frame["loss"].to_numpy())).law
    assert law.floor == pytest.approx(e, rel=1e-4)
    assert law.exponents == pytest.approx((alpha, beta), rel=1e-4)
    assert law.coefficients == pytest.approx((a, b), rel=1e-2)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """40 noisy surfaces: 95 % intervals of alpha miss at most 8 times (binomial p < 1e-3 beyond)."""
    misses = 0
    for seed in range(40):
        frame = surface(CHINCHILLA, noise=0.01, seed=seed)
        problem = Problem.of([frame["N"].to_numpy(), frame["D"].to_numpy()], frame["loss"].to_numpy())
        truth = np.array([np.log(406.4) - 0.34 * problem.centres[0], 0.34, np.log(410.7) - 0.28 * problem.centres[1]])
        best = polish(problem, np.array([*truth, 0.28, np.log(1.69)]))
        laws = bootstrap(problem, best, np.arange(len(frame)), 100, seed)
        low, high = np.quantile([law.exponents[0] for law in laws], [0.025, 0.975])
        misses += not low <= 0.34 <= high
    assert misses <= 8


def test_checkpoints_of_one_run_are_drawn_together() -> None:
    """Five copies of each row as checkpoints of one run must not narrow the intervals; as own runs they would."""
    frame = surface(CHINCHILLA, noise=0.02)
    copies = pd.concat([frame.assign(run=range(len(frame)))] * 5, ignore_index=True)
    alone = run_fit(frame, n="N", d="D", resamples=200)["se"]["alpha"]
    by_run = run_fit(copies, n="N", d="D", run="run", resamples=200)["se"]["alpha"]
    by_row = run_fit(copies, n="N", d="D", resamples=200)["se"]["alpha"]
    assert by_run == pytest.approx(alone, rel=0.35)
    assert by_row < 0.7 * alone


def test_a_token_grid_alone_gives_a_power_law_in_tokens_and_says_so() -> None:
    frame = surface(CHINCHILLA)
    frame = frame[np.isclose(frame["N"], 1e7)].reset_index(drop=True)
    frame = pd.concat([frame, frame], ignore_index=True)
    found = run_fit(frame, n="N", d="D")
    assert (found["A"], found["alpha"], found["optimum"]) == (None, None, None)
    assert found["beta"] == pytest.approx(0.28, rel=1e-4)
    assert found["E"] == pytest.approx(1.69 + 406.4 / 1e7**0.34, rel=1e-4)
    assert "A and alpha cannot be identified" in found["notes"][0]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f: f, {"n": "params", "d": "D"}, "no column for --n params"),
        (lambda f: f.assign(loss=-1.0), {"n": "N", "d": "D"}, "expected a positive number"),
        (lambda f: f.assign(D=20 * f["N"]), {"n": "N", "d": "D"}, "grow together"),
        (lambda f: f.assign(N=1e8, D=1e9), {"n": "N", "d": "D"}, "neither N nor D varies"),
        (lambda f: f.head(5), {"n": "N", "d": "D"}, "at least 8 rows"),
        (lambda f: f, {"flops": "D"}, "--flops needs --n"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: object, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_fit(change(surface(CHINCHILLA)), **options)  # type: ignore[operator]


def test_a_narrow_range_is_warned_about() -> None:
    frame = surface(CHINCHILLA)
    frame["N"] = 1e7 * (frame["N"] / 1e7) ** 0.2  # a factor of 4
    frame["loss"] = predict(CHINCHILLA, [frame["N"].to_numpy(), frame["D"].to_numpy()])
    assert any("a decade or more is needed" in note for note in run_fit(frame, n="N", d="D")["notes"])


@pytest.mark.parametrize("power", [0.05, 0.0])
def test_too_narrow_a_range_is_refused(power: float) -> None:
    """A factor of 1.4, or two values only: coefficient, exponent and floor are three unknowns."""
    frame = surface(CHINCHILLA)
    frame["N"] = 1e7 * (frame["N"] / 1e7) ** power if power else np.where(frame["N"] > 1e8, 1e9, 1e7)
    with pytest.raises(InputError, match="needs at least 3 over a factor of 2"):
        run_fit(frame, n="N", d="D")


def test_closed_forms() -> None:
    best = compute_optimal(CHINCHILLA, 5.76e23)
    assert best.params == pytest.approx(32189859151.368168, rel=1e-10)
    assert best.tokens == pytest.approx(2982305686662.796, rel=1e-10)
    assert best.loss == pytest.approx(1.930748101731648, rel=1e-12)
    assert best.kappa == pytest.approx(0.1535483870967742, rel=1e-12)
    assert 6 * best.params * best.tokens == pytest.approx(5.76e23, rel=1e-12)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "points.csv"
    surface(CHINCHILLA).to_csv(table, index=False)
    options = ["--n", "N", "--d", "D", "--loss", "loss", "--resamples", "20", "--compute", "5.76e23"]
    assert run_command(["fit", str(table), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"E", "A", "B", "alpha", "beta", "objective", "n_points", "ci95", "notes"} <= set(document)
    assert document["optimum"]["params"] == pytest.approx(32189859151.368168, rel=1e-3)
    assert run_command(["fit", str(table), *options]) == 0
    assert "compute-optimal N grows as C^0.452" in capsys.readouterr().out
    assert run_command(["fit", str(table)]) == 2
    assert "a table needs --loss" in capsys.readouterr().err
    assert (
        run_command(["forecast", "--kappa", "0.05", "--gamma", "0", "--years", "10", "--target", "0.5", "--json"]) == 0
    )
    forecast = json.loads(capsys.readouterr().out)
    assert forecast["R"] == pytest.approx(11**-0.05, rel=1e-12)
    assert forecast["years_to_target"] == pytest.approx(1_048_575, rel=1e-9)
    assert run_command(["forecast", "--kappa", "0.05", "--gamma", "-0.5", "--years", "3", "--target", "0.9"]) == 0
    assert "never" in capsys.readouterr().out
    assert run_command(["forecast", "--kappa", "-1", "--gamma", "1", "--years", "3"]) == 2
    assert "--kappa" in capsys.readouterr().err


def test_a_ledger_is_fitted_in_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_ledger(tmp_path / "results" / "made")
    assert run_command(["fit", str(ledger.root), "--resamples", "20"]) == 0
    text = capsys.readouterr().out
    assert "power law in D with a floor" in text


def test_the_energy_optimum_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Joules per FLOP fall as N^-0.3: the command finds it, and a larger model than the compute optimum."""
    frame = surface(CHINCHILLA)
    frame["J"] = 6 * frame["N"] * frame["D"] * 1e-9 * frame["N"] ** -0.3
    frame.to_csv(tmp_path / "points.csv", index=False)
    command = ["fit", str(tmp_path / "points.csv"), "--n", "N", "--d", "D", "--loss", "loss", "--resamples", "10"]
    assert run_command([*command, "--energy", "J", "--joules", "1e9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["energy_optimum"]
    assert found["size_exponent"] == pytest.approx(-0.3, abs=1e-6)
    assert found["params"] > 1.5 * compute_optimal(CHINCHILLA, found["flops"]).params
    assert run_command([*command, "--energy", "J", "--joules", "1e9"]) == 0
    assert "J per FLOP goes as N^-0.300" in capsys.readouterr().out
    assert run_command([*command, "--joules", "1e9"]) == 2
    assert "--joules: needs --energy" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "noise", "seed"), [(4, 0.3, 5), (5, 0.5, 1), (6, 0.5, 2)])
def test_data_that_leave_nearly_everything_open_still_give_numbers_or_null(step: int, noise: float, seed: int) -> None:
    """Few noisy rows: refits run off to huge coefficients or rising losses; nothing infinite or complex, no crash."""
    frame = surface(PowerLaw(0.1, (400.0, 410.0), (0.34, 0.28)), noise=noise, seed=seed)
    frame = frame.iloc[::step].reset_index(drop=True)
    frame["J"] = frame["N"] * frame["D"]
    found = run_fit(frame, n="N", d="D", resamples=40, compute=1e21, energy="J", joules=1e9)
    assert json.loads(json.dumps(found, allow_nan=False))["n_points"] == len(frame)
    assert "95% CI" in render_fit(found)


def test_coefficients_beyond_the_largest_double_are_null() -> None:
    laws = [PowerLaw(1.0, (a, 2.0), (0.3, -0.1)) for a in (1e300, np.inf, np.inf)]
    assert _standard_errors(["N", "D"], laws)["A"] is None
    assert _intervals(["N", "D"], laws)["A"][1] is None
    assert not any(map(has_optimum, laws))
    assert has_optimum(CHINCHILLA)


def test_the_isoflop_sweep_varies_enough_to_be_fitted() -> None:
    plan = plan_sweep(load_spec(Path(__file__).parent.parent / "sweeps" / "isoflop.yaml"))
    shapes = [model_shape(trial.spec) for trial in plan.trials]
    sizes = np.array([shape.params for shape in shapes if shape is not None])
    tokens = np.array([trial.tokens for trial in plan.trials])
    assert len(sizes) == len(plan.trials) == 16
    assert sizes.max() >= 10 * sizes.min()
    assert tokens.max() >= 10 * tokens.min()
    loss = 1.5 + 300 / sizes**0.5 + 100 / tokens**0.4
    found = run_fit(pd.DataFrame({"N": sizes, "D": tokens, "loss": loss}), n="N", d="D", resamples=10)
    assert (found["alpha"], found["beta"]) == pytest.approx((0.5, 0.4), rel=1e-3)
