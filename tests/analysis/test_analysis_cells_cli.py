"""Issue 4, parts 8 and 9 on the command line: cells that are missing, excluded, repeated or not finite; assumptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ledgers import example_spec, make_ledger

from rayscale.cli import run_command

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [(f"r{s}", tokens, s + tokens / 1000 + rng.normal()) for s in range(8) for tokens in (1000, 2000, 4000)]
    return pd.DataFrame(rows, columns=["rep", "tokens", "loss"])


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Analyse a table with the command: exit code, JSON (None after an error), stderr."""

    def call(frame: pd.DataFrame, *options: str) -> tuple[int, Any, str]:
        path = tmp_path / "table.csv"
        frame.to_csv(path, index=False)
        table = ["analyze", str(path), "--dv", "loss", "--within", "tokens", "--subject", "rep"]
        code = run_command([*table, *options, "--json", "-"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if code == 0 else None, captured.err

    return call


class TestMissing:
    def test_an_empty_and_an_absent_cell_are_counted_and_named(self, frame: pd.DataFrame, run: Run) -> None:
        frame.loc[4, "loss"] = np.nan
        code, tree, _ = run(frame.drop(index=20))
        assert code == 0
        assert tree["missing"]["cells"] == [{"subject": "r1", "level": "2000"}, {"subject": "r6", "level": "4000"}]
        assert (tree["missing"]["n_total"], tree["missing"]["n_complete"]) == (8, 6)
        assert tree["missing"]["dropped_subjects"] == ["r1", "r6"]
        assert any("subject r1 lacks 2000; subject r6 lacks 4000" in note for note in tree["notes"])

    def test_listwise_and_mixed_stand_side_by_side(self, frame: pd.DataFrame, run: Run) -> None:
        _, tree, _ = run(frame.drop(index=20))
        assert tree["listwise"]["F"] == tree["anova"]["F"]
        assert tree["listwise"]["df2"] == 12
        assert tree["lmm_random_intercept"]["n_rows"] == 23
        assert tree["lmm_random_intercept"]["df2_kr"] > 12
        assert any("keeps all 23 rows in spite of 1 missing" in sentence for sentence in tree["plain"])

    def test_every_level_equally_often_is_not_complete(self, frame: pd.DataFrame, run: Run) -> None:
        """Three subjects that each lack another level leave the levels balanced, yet three subjects are incomplete."""
        _, tree, _ = run(frame.drop(index=[0, 4, 8]))
        assert tree["n_subjects"] == 5
        assert tree["missing"]["dropped_subjects"] == ["r0", "r1", "r2"]


class TestRepeated:
    def test_duplicates_are_refused_by_name(self, frame: pd.DataFrame, run: Run) -> None:
        code, _, error = run(pd.concat([frame, frame.iloc[[4]]]))
        assert code == 2
        assert "several rows for rep r1, tokens 2000" in error
        assert "expected one, or an aggregate like mean" in error
        assert "Traceback" not in error

    def test_an_aggregate_is_reported(self, frame: pd.DataFrame, run: Run) -> None:
        again = frame.iloc[[4, 4, 5]].assign(loss=[3.0, 4.0, 5.0])
        code, tree, _ = run(pd.concat([frame, again]), "--aggregate", "mean")
        assert code == 0
        assert tree["cells"] == {"n_obs": 27, "n_duplicate_rows": 3, "aggregate": "mean"}
        assert any("3 further rows of the same cells were joined by mean" in note for note in tree["notes"])
        assert tree["lmm_nested"]["n_rows"] == 27

    def test_an_unknown_aggregate_is_refused(self, frame: pd.DataFrame, run: Run) -> None:
        code, _, error = run(frame, "--aggregate", "mode")
        assert code == 2
        assert "unknown aggregate `mode`; expected one of mean, median" in error


class TestNotFinite:
    @pytest.mark.parametrize("value", [np.inf, -np.inf, 1e301])
    def test_refused_by_subject_and_level(self, frame: pd.DataFrame, run: Run, value: float) -> None:
        frame.loc[7, "loss"] = value
        code, _, error = run(frame)
        assert code == 2
        assert "`loss` of rep r2, tokens 2000 is" in error
        assert "expected a finite number" in error

    def test_all_of_them_at_once(self, frame: pd.DataFrame, run: Run) -> None:
        frame.loc[[7, 9], "loss"] = np.inf
        _, _, error = run(frame)
        assert "rep r2, tokens 2000" in error
        assert "rep r3, tokens 1000" in error

    def test_no_number(self, frame: pd.DataFrame, run: Run) -> None:
        code, _, error = run(frame.assign(loss=[*frame["loss"][:-1].map(str), "n/k"]))
        assert code == 2
        assert "row 24: expected a number, got 'n/k'" in error


class TestExcluded:
    def test_a_ledger_names_what_its_rule_leaves_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        spec = example_spec(repetitions=5, analysis={"dv": ["perplexity"]})
        ledger = make_ledger(tmp_path, spec, estimated=False)
        record = ledger.records()[4]
        quality = record.quality.model_copy(update={"verdict": "invalid"})
        ledger.write_record(record.model_copy(update={"quality": quality}))
        assert run_command(["analyze", str(ledger.root), "--json", "-"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert [row["trial_key"] for row in tree["excluded"]] == [record.trial_key]
        part = tree["results"]["perplexity"]
        assert (part["missing"]["n_missing_cells"], part["n_subjects"]) == (1, 4)
        assert any(f"1 of 15 trials are excluded by the declared rule: {record.trial_key}" in n for n in part["notes"])
        assert part["lmm_random_intercept"]["n_rows"] == 14


class TestAssumptions:
    def test_each_look_says_what_it_implies(self, frame: pd.DataFrame, run: Run) -> None:
        _, tree, _ = run(frame)
        assert tree["normality"]["shapiro_residuals"]["W"] > 0.8
        assert "no sign against a normal distribution" in tree["normality"]["implies"]
        assert "No cell is an outlier" in tree["outliers"]["implies"]
        assert "p(GG) shown allows for it" in tree["sphericity"]["implies"][0]
        assert len(tree["assumptions"]) == 3

    def test_an_outlier_is_named_with_the_result_without_it(self, frame: pd.DataFrame, run: Run) -> None:
        frame.loc[13, "loss"] += 60
        _, tree, _ = run(frame)
        worst = tree["outliers"]["cells"][0]
        assert (worst["subject"], worst["level"]) == ("r4", "2000")
        assert worst["studentised"] > 3
        assert tree["outliers"]["without_subjects"]["n_subjects"] == 7
        assert "nothing is left out for it. Without that subject p(GG) of tokens is" in tree["outliers"]["implies"]
        assert "not normally distributed" in tree["normality"]["implies"]
        assert "compare the permutation and rank tests" in tree["normality"]["implies"]

    def test_unequal_variances_of_differences_are_said_to_spoil_pooled_comparisons(self, run: Run) -> None:
        rng = np.random.default_rng(0)
        rows = [(s, t, rng.normal() * sd) for s in range(30) for t, sd in ((1000, 1), (2000, 1), (4000, 9))]
        _, tree, _ = run(pd.DataFrame(rows, columns=["rep", "tokens", "loss"]))
        assert (
            "uncorrected p is too small and pooled-error comparisons are not valid" in tree["sphericity"]["implies"][0]
        )

    def test_two_levels_always_hold(self, frame: pd.DataFrame, run: Run) -> None:
        _, tree, _ = run(frame[frame["tokens"] < 4000])
        assert tree["sphericity"]["implies"] == ["two levels: sphericity always holds"]
        assert tree["anova"]["mauchly_W"] is None
