"""Does the effect differ between devices? The model with device x condition against balanced theory and statsmodels."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.mixed import RandomTerm, UndefinedModelError
from rayscale.analysis.mixed_crossed import LARGEST_DEVICE, fit_crossed
from rayscale.analysis.mixed_text import mixed_text
from rayscale.analysis.run import AnalysisRequest, analyze_frame
from rayscale.cli import run_command


def fleet(seed: int, devices: int = 5, blocks: int = 4, slope: float = 1.0, lost: float = 0.0) -> pd.DataFrame:
    """Blocks on devices whose effect of the level differs with sd `slope`."""
    rng = np.random.default_rng(seed)
    rows = []
    for device in range(devices):
        gain, own = rng.normal(0, 2), rng.normal(0, slope, 3)
        for block in range(blocks):
            shared = rng.normal(0, 1)
            for level in range(3):
                y = 10 + 0.8 * level + gain + own[level] + shared + rng.normal(0, 0.4)
                rows.append((device * blocks + block, f"GPU-{device}", level + 1, y))
    frame = pd.DataFrame(rows, columns=["rep", "gpu", "tokens", "y"])
    return frame[rng.random(len(frame)) >= lost].reset_index(drop=True)


def analyse(frame: pd.DataFrame) -> Any:
    return analyze_frame(frame, AnalysisRequest(("y",), ("tokens",), "rep", device="gpu"))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(2, 5))
def test_balanced_data_give_the_anova_of_the_devices(seed: int, devices: int, blocks: int) -> None:
    tree = analyse(fleet(seed, devices, blocks))
    model, means = tree["lmm_device_condition"], tree["device_as_subject_anova"]
    if model is None or model["at_zero"] or model["F_kr"]["tokens"] is None:
        return
    assert model["F_kr"]["tokens"] == pytest.approx(means["F"], rel=1e-5)
    assert model["df2_kr"]["tokens"] == pytest.approx(2 * (devices - 1), rel=1e-5)
    assert model["df2_satterthwaite"]["tokens"] == pytest.approx(2 * (devices - 1), rel=1e-5)


def test_unbalanced_data_agree_with_statsmodels() -> None:
    import statsmodels.formula.api as smf

    frame = fleet(3, lost=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own convergence remarks
        parts = {"cond": "0 + C(tokens)", "subject": "0 + C(rep)"}
        other = smf.mixedlm("y ~ C(tokens)", frame, groups="gpu", re_formula="1", vc_formula=parts).fit(reml=True)
    ours = analyse(frame)["lmm_device_condition"]["var"]
    assert ours["device"] == pytest.approx(float(other.cov_re.iloc[0, 0]), rel=2e-3)
    assert (ours["device_condition"], ours["subject"]) == pytest.approx(tuple(map(float, other.vcomp)), rel=2e-3)
    assert ours["residual"] == pytest.approx(float(other.scale), rel=2e-3)


def test_an_effect_that_differs_between_devices_is_said_and_costs_df() -> None:
    tree = analyse(fleet(1, slope=2.0))
    assert tree["lmm_device_condition"]["df2_kr"]["tokens"] < 10 < tree["lmm_device"]["df2_kr"]["tokens"]
    assert tree["lmm_device_condition"]["p_kr"]["tokens"] > tree["lmm_device"]["p_kr"]["tokens"]
    assert any("effect itself differs between the devices" in sentence for sentence in tree["plain"])


def test_type_one_error_with_devices_that_differ() -> None:
    """No effect on average over devices: ignoring that it differs rejects far too often, this model does not."""
    rejected = {"lmm_device": 0, "lmm_device_condition": 0}
    for seed in range(60):
        frame = fleet(seed, devices=6, blocks=3)
        frame["y"] -= 0.8 * (frame["tokens"] - 1)
        tree = analyse(frame)
        for name in rejected:
            rejected[name] += tree[name]["p_kr"]["tokens"] < 0.05
    assert rejected["lmm_device"] > 20
    assert rejected["lmm_device_condition"] <= 0.05 * 60 + 3 * (0.05 * 0.95 * 60) ** 0.5


def test_without_such_a_difference_its_variance_is_small_or_zero() -> None:
    tree = analyse(fleet(2, slope=0.0, devices=4, blocks=8))
    model = tree["lmm_device_condition"]
    assert model["var"]["device_condition"] < 0.1
    if model["at_zero"]:
        assert any("not seen to differ" in sentence for sentence in tree["plain"])


def test_two_devices_are_too_few_for_it() -> None:
    tree = analyse(fleet(0, devices=2, blocks=6))
    assert tree["lmm_device_condition"] is None
    assert any("takes at least three" in note for note in tree["notes"])
    assert any("effective n is 2, not 12" in note for note in tree["notes"])


def test_every_model_shows_both_kinds_of_df(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.csv"
    frame = fleet(4, lost=0.05)
    frame.assign(run=np.random.default_rng(0).permutation(len(frame))).to_csv(path, index=False)
    table = ["analyze", str(path), "--dv", "y", "--within", "tokens", "--subject", "rep"]
    assert run_command([*table, "--device", "gpu", "--order", "run", "--json", "-"]) == 0
    tree = json.loads(capsys.readouterr().out)
    names = ["lmm_random_intercept", "lmm_subject", "lmm_device", "lmm_device_condition", "lmm_device_fixed"]
    for name in [*names, "lmm_device_drift"]:
        for key in ("df2_kr", "p_kr", "df2_satterthwaite", "p_satterthwaite"):
            value = tree[name][key]
            assert (value["tokens"] if isinstance(value, dict) else value) > 0
    lines = mixed_text(tree)
    assert sum("Satterthwaite: df" in line for line in lines) == 6


class TestUndefinedModels:
    def terms(self, device: np.ndarray, cell: np.ndarray, subject: np.ndarray) -> list[RandomTerm]:
        names = ("device", "device_condition", "subject")
        return [RandomTerm(n, c) for n, c in zip(names, (device, device * 10 + cell, subject), strict=True)]

    def test_one_subject_per_device_leaves_no_residual(self) -> None:
        device, cell = (part.ravel() for part in np.indices((4, 3)))
        y = np.random.default_rng(0).normal(size=12)
        with pytest.raises(UndefinedModelError, match="no row left"):
            fit_crossed(y, np.eye(3)[cell], self.terms(device, cell, device))

    def test_exact_fit(self) -> None:
        device, block, cell = (part.ravel() for part in np.indices((3, 3, 3)))
        y = device * 2.0 + cell
        with pytest.raises(UndefinedModelError, match="residual variance is zero"):
            fit_crossed(y, np.eye(3)[cell], self.terms(device, cell, device * 3 + block))

    def test_too_many_rows_on_a_device(self) -> None:
        device = np.repeat([0, 1, 2], [LARGEST_DEVICE + 2, 4, 4])
        cell, subject = np.arange(len(device)) % 2, np.arange(len(device)) // 2
        y = np.random.default_rng(0).normal(size=len(device))
        with pytest.raises(UndefinedModelError, match="rows on one device"):
            fit_crossed(y, np.eye(2)[cell], self.terms(device, cell, subject))

    def test_a_subject_on_two_devices(self) -> None:
        device, block, cell = (part.ravel() for part in np.indices((3, 4, 2)))
        y = np.random.default_rng(0).normal(size=24)
        with pytest.raises(UndefinedModelError, match="subject does not lie within device"):
            fit_crossed(y, np.eye(2)[cell], self.terms(device, cell, block))


def test_a_temperature_column_of_a_table_enters_beside_the_order() -> None:
    frame = fleet(5, devices=3, slope=0.5)
    rng = np.random.default_rng(1)
    frame["run"], frame["temp_start_c"] = rng.permutation(len(frame)), 40 + rng.normal(0, 3, len(frame))
    frame["y"] += 0.3 * frame["temp_start_c"]
    request = AnalysisRequest(("y",), ("tokens",), "rep", device="gpu", order="run")
    model = analyze_frame(frame, request)["lmm_start_temperature"]
    assert list(model["F_kr"]) == ["tokens", "run", "temp_start_c"]
    assert model["temperature_ci95"]["lo"] < 0.3 < model["temperature_ci95"]["hi"]
    assert model["temperature_p"] < 0.001
    frame.loc[3, "temp_start_c"] = np.nan
    assert "lmm_start_temperature" not in analyze_frame(frame, request)


def test_a_fleet_too_large_for_the_check_is_refused_at_once_instead_of_taking_minutes() -> None:
    rows = np.arange(6000)
    terms = [RandomTerm("device", rows // 12), RandomTerm("subject", rows // 3)]
    with pytest.raises(UndefinedModelError, match="6000 rows with 2501 effects: this mixed model is not computed"):
        fit_crossed(np.sin(rows * 1.0), np.ones((6000, 1)), terms)
