"""Mixed models, devices, drift and order of runs as `analyze_frame` and `analyze_records` give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.mixed_text import mixed_text
from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records, to_json
from rayscale.cli import run_command
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import SweepSpec

LEVELS = (500_000, 1_000_000, 2_000_000)


def sweep_table(seed: int = 1, devices: int = 4, blocks: int = 6, drift: float = 0.15, nested: bool = False) -> Any:
    """Blocks on devices that run side by side; `run` counts a device's own runs."""
    rng = np.random.default_rng(seed)
    rows = []
    for device in range(devices):
        gain = rng.normal(0, 1.3)
        spread = rng.normal(0, 0.5, blocks)
        plan = [(block, level) for block in range(blocks) for level in rng.permutation(3)]
        plan = sorted(plan, key=lambda run: int(run[1])) if nested else plan
        for run, (block, level) in enumerate(plan):
            y = 10 + 0.3 * level + gain + spread[block] + drift * run + rng.normal(0, 0.4)
            rows.append((device * blocks + block, f"GPU-{device}", LEVELS[level], run, y))
    return pd.DataFrame(rows, columns=["rep", "gpu", "tokens", "run", "y"])


def analyse(frame: pd.DataFrame, **options: Any) -> Any:
    return analyze_frame(frame, AnalysisRequest(("y",), ("tokens",), "rep", **options))


class TestDevices:
    def test_every_name_of_the_contract(self) -> None:
        tree = analyse(sweep_table(), device="gpu", order="run")
        assert set(tree["device_as_subject_anova"]) == {"F", "df1", "df2", "p_unc"}
        for name, terms in {"lmm_subject": 1, "lmm_device": 1, "lmm_device_drift": 2}.items():
            model = tree[name]
            assert list(model["F_kr"]) == list(model["df2_kr"]) == ["tokens", "run"][:terms]
            assert list(model["emmean"]) == list(model["emmean_se"]) == ["500000", "1000000", "2000000"]
        assert list(tree["lmm_device"]["var"]) == ["device", "subject", "residual"]
        json.loads(to_json(tree))

    def test_device_as_subject_is_the_anova_of_the_device_means(self) -> None:
        frame = sweep_table()
        means = frame.groupby(["gpu", "tokens"], as_index=False)["y"].mean()
        direct = analyze_frame(means, AnalysisRequest(("y",), ("tokens",), "gpu"))["anova"]
        found = analyse(frame, device="gpu")["device_as_subject_anova"]
        assert (found["df1"], found["df2"]) == (direct["df1"], direct["df2"]) == (2, 6)
        assert (found["F"], found["p_unc"]) == pytest.approx((direct["F"], direct["p_unc"]))

    def test_devices_in_general_are_known_less_well(self) -> None:
        tree = analyse(sweep_table(), device="gpu", order="run")
        ignoring, general = tree["lmm_subject"], tree["lmm_device"]
        assert general["emmean_se"]["500000"] > 1.5 * ignoring["emmean_se"]["500000"]
        assert general["emmean_df"]["500000"] < 4 < 20 < ignoring["emmean_df"]["500000"]
        assert general["F_kr"]["tokens"] == pytest.approx(tree["anova"]["F"])
        assert any("only 4 devices" in note and "effective n is 4, not 24" in note for note in tree["notes"])
        assert any("spread over 4 devices" in sentence for sentence in tree["plain"])

    def test_variances_of_a_balanced_study_are_those_of_the_mean_squares(self) -> None:
        frame = sweep_table(drift=0.0)
        model = analyse(frame, device="gpu")["lmm_device"]
        wide = frame.pivot(index="rep", columns="tokens", values="y").to_numpy()
        subject_means = wide.mean(axis=1).reshape(4, 6)
        centred = wide - wide.mean(axis=1, keepdims=True) - wide.mean(axis=0) + wide.mean()
        ms_error = float(np.sum(centred**2)) / (23 * 2)
        within_device = float(subject_means.var(axis=1, ddof=1).mean())
        assert model["var"]["residual"] == pytest.approx(ms_error)
        assert model["var"]["subject"] == pytest.approx(within_device - ms_error / 3)
        between = float(subject_means.mean(axis=1).var(ddof=1))
        assert model["var"]["device"] == pytest.approx(between - within_device / 6)

    def test_the_drift_is_found_and_taken_out(self) -> None:
        tree = analyse(sweep_table(drift=0.15), device="gpu", order="run")
        model = tree["lmm_device_drift"]
        assert model["drift_ci95"]["lo"] < 0.15 < model["drift_ci95"]["hi"]
        assert model["drift_p"] < 0.001
        assert model["var"]["residual"] < tree["lmm_device"]["var"]["residual"]
        assert any("drifts with the order" in sentence for sentence in tree["plain"])

    def test_one_device_is_said(self) -> None:
        tree = analyse(sweep_table(devices=1, blocks=8), device="gpu", order="run")
        assert tree["lmm_device"] is tree["device_as_subject_anova"] is None
        assert tree["lmm_device_drift"]["drift_per_run"] == pytest.approx(0.15, abs=0.06)
        assert any("all runs are on one device (GPU-0)" in note for note in tree["notes"])

    def test_a_subject_on_two_devices_is_said(self) -> None:
        frame = sweep_table()
        frame.loc[0, "gpu"] = "GPU-3"
        notes = analyse(frame, device="gpu")["notes"]
        assert any(note.startswith("1 subjects have runs on more than one device") for note in notes)

    def test_labels_that_repeat_on_each_device_are_other_subjects(self) -> None:
        frame = sweep_table()
        again = frame.assign(rep=frame["rep"] % 6)
        tree, other = analyse(frame, device="gpu", order="run"), analyse(again, device="gpu", order="run")
        assert other["n_subjects"] == 24
        assert any("within its device" in note for note in other["notes"])
        for name in ("anova", "device_as_subject_anova", "lmm_device", "lmm_device_drift", "run_order"):
            assert to_json(other[name]) == to_json(tree[name])
        with pytest.raises(InputError, match="several rows"):
            analyse(pd.concat([again, again]), device="gpu")

    def test_one_block_per_device_leaves_the_models_null(self) -> None:
        tree = analyse(sweep_table(devices=6, blocks=1), device="gpu")
        assert tree["lmm_device"] is tree["lmm_device_fixed"] is None
        assert any(note.startswith("lmm_device is null") for note in tree["notes"])
        assert tree["lmm_subject"]["F_kr"]["tokens"] == pytest.approx(tree["anova"]["F"])

    def test_two_factors(self) -> None:
        first = sweep_table(seed=2).assign(precision="bf16")
        frame = pd.concat([first, first.assign(precision="fp32", y=first["y"] + 1, run=first["run"] + 18)])
        frame["y"] += np.random.default_rng(0).normal(0, 0.1, len(frame))
        request = AnalysisRequest(("y",), ("tokens", "precision"), "rep", device="gpu", order="run")
        tree = analyze_frame(frame, request)
        assert list(tree["lmm_device"]["F_kr"]) == ["tokens", "precision", "tokens:precision"]
        assert list(tree["lmm_device"]["emmean"]["precision"]) == ["bf16", "fp32"]
        assert list(tree["device_as_subject_anova"]) == ["tokens", "precision", "tokens:precision"]
        assert tree["run_order"]["verdict"] == "level_after_level"
        assert mixed_text(tree)

    def test_roles_and_columns_are_checked(self) -> None:
        with pytest.raises(InputError, match="two roles"):
            analyse(sweep_table(), device="rep")
        with pytest.raises(InputError, match="did you mean `gpu`"):
            analyse(sweep_table(), device="gpus")
        empty = sweep_table().astype({"run": float})
        empty.loc[4, "run"] = np.nan
        with pytest.raises(InputError, match="`run`: row 5 is empty"):
            analyse(empty, order="run")
        with pytest.raises(InputError, match="expected a number or a time, got 'soon'"):
            analyse(sweep_table().assign(run="soon"), order="run")


class TestCommandLine:
    def test_device_and_order_are_options_for_tables(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "sweep.csv"
        sweep_table().to_csv(path, index=False)
        table = ["analyze", str(path), "--dv", "y", "--within", "tokens", "--subject", "rep"]
        assert run_command([*table, "--device", "gpu", "--order", "run", "--json", "-"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["lmm_device_drift"]["F_kr"]["run"] > 1
        assert tree["run_order"]["verdict"] == "varied_within_blocks"
        assert run_command([*table, "--device", "gpus"]) == 2
        assert "did you mean `gpu`" in capsys.readouterr().err


class TestOrder:
    def test_level_after_level_comes_first_and_loud(self) -> None:
        tree = analyse(sweep_table(nested=True), device="gpu", order="run")
        assert tree["run_order"]["verdict"] == "level_after_level"
        assert tree["notes"][0] == tree["plain"][0] == tree["run_order"]["sentence"]
        assert tree["notes"][0].startswith("WARNING")
        assert not any("drift of y" in sentence for sentence in tree["plain"])

    def test_random_blocks_are_said_to_be_fine(self) -> None:
        tree = analyse(sweep_table(), device="gpu", order="run")
        assert tree["run_order"]["verdict"] == "varied_within_blocks"
        assert not any(note.startswith("WARNING") for note in tree["notes"])

    def test_timestamps_are_ranked(self) -> None:
        frame = sweep_table(devices=1, blocks=8)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        frame["at"] = [(start + timedelta(minutes=5 * int(run))).isoformat() for run in frame["run"]]
        by_rank, by_time = analyse(frame, order="run"), analyse(frame, order="at")
        slopes = [tree["lmm_device_drift"]["drift_per_run"] for tree in (by_rank, by_time)]
        assert slopes[0] == pytest.approx(slopes[1])

    def test_seconds_since_1970_are_an_order_too(self) -> None:
        frame = sweep_table(devices=1, blocks=8)
        frame["at"] = 1.7e9 + 300.0 * frame["run"]
        ranks, seconds = analyse(frame, order="run"), analyse(frame, order="at")
        model, other = ranks["lmm_device_drift"], seconds["lmm_device_drift"]
        assert other["drift_per_run"] == pytest.approx(model["drift_per_run"] / 300)
        assert other["F_kr"]["at"] == pytest.approx(model["F_kr"]["run"])


class TestMissingAndRepeatedCells:
    def test_the_mixed_model_stands_beside_the_listwise_result(self) -> None:
        frame = sweep_table(drift=0.0).drop(index=[0, 10, 40])
        tree = analyse(frame)
        model = tree["lmm_random_intercept"]
        assert tree["listwise"]["df2"] == 40 < model["df2_kr"]
        assert model["n_rows"] == 69
        assert any("keeps all 69 rows in spite of 3 missing cells" in sentence for sentence in tree["plain"])

    def test_complete_data_need_no_mixed_model(self) -> None:
        assert "lmm_random_intercept" not in analyse(sweep_table())

    def test_no_complete_subject_still_gives_the_mixed_model(self) -> None:
        frame = sweep_table(drift=0.0).groupby("rep").head(2)
        tree = analyse(frame)
        assert tree["anova"]["F"] is None
        assert tree["lmm_random_intercept"]["F_kr"] > 0
        assert any("too few subjects are complete" in sentence for sentence in tree["plain"])

    def test_nested_model_of_repeated_cells(self) -> None:
        rng = np.random.default_rng(3)
        frame = pd.concat([sweep_table(drift=0.0)] * 3, ignore_index=True)
        frame["y"] += rng.normal(0, 0.1, len(frame))
        tree = analyse(frame, aggregate="mean", device="gpu", order="run")
        model = tree["lmm_nested"]
        assert model["F_kr"] == pytest.approx(tree["anova"]["F"])
        assert model["df2_kr"] == pytest.approx(46)
        assert list(model["var"]) == ["subject", "cell", "residual"]
        assert model["var"]["residual"] == pytest.approx(0.01, rel=0.3)
        assert tree["lmm_device"]["n_rows"] == tree["lmm_device_drift"]["n_rows"] == 72

    def test_nested_model_without_repeated_cells_is_null(self) -> None:
        tree = analyse(sweep_table(), aggregate="mean")
        assert tree["lmm_nested"] is None
        assert any(note.startswith("lmm_nested is null") for note in tree["notes"])

    def test_constant_measure(self) -> None:
        tree = analyse(sweep_table().assign(y=3.0), device="gpu", order="run")
        assert tree["lmm_device"] is tree["lmm_device_drift"] is None
        assert any("residual variance is zero" in note for note in tree["notes"])
        assert mixed_text(tree)


Maker = Callable[..., SweepSpec]


class TestLedger:
    @pytest.fixture
    def spread_records(self, make_spec: Maker, make_records: Callable[..., list[Record]]) -> Callable[..., Any]:
        """Twelve repetitions on so many devices, started one after the other, with noise of 1 % and a warm-up."""

        def build(devices: int, start: bool = True, nested: bool = False) -> tuple[list[Record], SweepSpec]:
            spec = make_spec(repetitions=12, analysis={"dv": ["perplexity"]})
            records = make_records(spec)
            turn = sorted(records, key=lambda record: record.condition["tokens"]) if nested else records
            rng, zero = np.random.default_rng(0), datetime(2026, 1, 1, tzinfo=UTC)
            found = []
            for place, record in enumerate(turn):
                device = record.device.model_copy(update={"uuid": f"GPU-{record.repetition % devices}"})
                loss = float(record.evaluation.perplexity * (1 + rng.normal(0, 0.01)))
                evaluation = record.evaluation.model_copy(update={"perplexity": loss})
                energy = record.energy.model_copy(update={"temp_start_c": 40 + float(rng.normal())})
                changes: dict[str, Any] = {"device": device, "evaluation": evaluation, "energy": energy}
                if start:
                    changes["started_at"] = (zero + timedelta(minutes=place)).isoformat()
                found.append(record.model_copy(update=changes))
            return sorted(found, key=lambda record: record.run_order), spec

        return build

    def test_several_devices(self, spread_records: Callable[..., Any]) -> None:
        tree = analyze_records(*spread_records(3))["results"]["perplexity"]
        assert tree["n_devices"] == 3
        assert list(tree["lmm_device_drift"]["F_kr"]) == ["tokens", "order"]
        assert list(tree["lmm_start_temperature"]["F_kr"]) == ["tokens", "order", "temp_start_c"]
        assert tree["run_order"]["verdict"] == "varied_within_blocks"
        assert tree["run_order"]["warning"] is False
        assert any("effective n is 3, not 12" in note for note in tree["notes"])
        for name in ("lmm_subject", "lmm_device", "lmm_device_condition", "lmm_device_fixed", "lmm_device_drift"):
            assert tree[name]["df2_kr"]["tokens"] > 0
            assert tree[name]["df2_satterthwaite"]["tokens"] > 0

    def test_one_device_gets_the_drift_only(self, spread_records: Callable[..., Any]) -> None:
        tree = analyze_records(*spread_records(1))["results"]["perplexity"]
        assert "lmm_device" not in tree
        assert list(tree["lmm_device_drift"]["var"]) == ["subject", "residual"]
        assert tree["n_devices"] == 1
        assert any("all runs are on one device (GPU-0): the results hold for this device" in n for n in tree["notes"])

    def test_without_start_times_nothing_is_claimed(self, spread_records: Callable[..., Any]) -> None:
        tree = analyze_records(*spread_records(1, start=False))["results"]["perplexity"]
        assert "run_order" not in tree
        assert "lmm_device_drift" not in tree

    def test_level_after_level_is_the_first_note(self, spread_records: Callable[..., Any]) -> None:
        records, spec = spread_records(1, nested=True)
        tree = analyze_records(records[:-1], spec)["results"]["perplexity"]
        assert tree["run_order"]["warning"] is True
        assert tree["notes"][0].startswith("WARNING: the runs were executed level after level")
        assert "not finished" in tree["notes"][1]
