"""The behaviour table of degenerate inputs (pub10), case by case from its file: what must be said, null or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.run import AnalysisRequest, analyze_frame, to_json
from rayscale.cli import run_command

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "stats"
FILES = sorted(ORACLES.glob("pub10_*.json"))
CASES = {case["name"]: case for case in json.loads(FILES[0].read_text())["cases"]} if FILES else {}

Outcome = tuple[int, Any, str]


def table(case: dict[str, Any]) -> pd.DataFrame:
    """Make the long table of a case; two of them are described in words only."""
    if case["name"] == "underflow":
        values: Any = np.random.default_rng(0).normal(0, 0.01, (5000, 3)) + np.arange(3)
    elif case["name"] == "balanced_counts_but_missing":
        values = np.random.default_rng(0).normal(size=(8, 3))
        values[[0, 1, 2], [0, 1, 2]] = np.nan
    else:
        values = [[np.nan if v is None else float(v) for v in row] for row in case["values"]]
    levels = case.get("levels") or [1, 2, 3][: len(values[0])]
    rows = [(f"s{i + 1}", level, v) for i, row in enumerate(values) for level, v in zip(levels, row, strict=True)]
    return pd.DataFrame(rows, columns=["s", "tokens", "y"])


def no_f(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert tree["anova"]["F"] is None
    assert tree["anova"]["p_unc"] is None
    assert any("zero" in note or "constant" in note or "do not vary" in note for note in tree["notes"])


def zero_error(outcome: Outcome) -> None:
    no_f(outcome)
    expected = CASES["zero_error_additive"]["expect"]
    found = {name: outcome[1]["anova"][name] for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)


def one_missing(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert (tree["missing"]["n_missing_cells"], tree["missing"]["dropped_subjects"]) == (1, ["s2"])
    assert tree["n_subjects"] == 3
    assert tree["anova"]["F"] is not None
    assert any("1 of 12 cells are missing" in note for note in tree["notes"])


def refused(*words: str) -> Callable[[Outcome], None]:
    def check(outcome: Outcome) -> None:
        code, tree, error = outcome
        assert (code, tree) == (2, None)
        for word in words:
            assert re.search(word, error)

    return check


def one_pair_undefined(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert tree["pairwise"]["1|2"]["t"] is None
    assert tree["pairwise"]["1|3"]["t"] is not None
    assert tree["pairwise"]["2|3"]["t"] is not None
    assert any("zero variance of differences" in note for note in tree["notes"])


def factor_is_there(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert tree["within"] == ["tokens"]
    assert (tree["anova"]["df1"], tree["anova"]["df2"]) == (2, 6)


def levels_by_value(outcome: Outcome) -> None:
    assert outcome[1]["levels"]["tokens"] == ["500K", "1M", "2M"]


def logarithm(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert tree["anova"]["p_unc"] is None
    assert tree["anova"]["log10_p_unc"] < -300
    assert any("decimal logarithm" in note for note in tree["notes"])


def incomplete_by_subject(outcome: Outcome) -> None:
    _, tree, _ = outcome
    assert tree["missing"]["dropped_subjects"] == ["s1", "s2", "s3"]
    assert (tree["anova"]["df1"], tree["anova"]["df2"]) == (2, 8)


MUST: dict[str, Callable[[Outcome], None]] = {
    "zero_error_additive": zero_error,
    "all_constant": no_f,
    "nan_cell": one_missing,
    "inf_cell": refused("s s3, tokens 3", "finite"),
    "one_subject": refused("one subject", "at least two"),
    "one_level": refused("one level", "at least two"),
    "constant_condition_difference": one_pair_undefined,
    "subject_name_is_substring_of_factor": factor_is_there,
    "token_labels_sort_order": levels_by_value,
    "underflow": logarithm,
    "balanced_counts_but_missing": incomplete_by_subject,
}


def test_every_case_of_the_file_is_checked() -> None:
    if not FILES:
        pytest.skip(f"no pub10 in {ORACLES}")
    assert set(CASES) == set(MUST)


@pytest.mark.parametrize("name", CASES)
def test_meets_the_behaviour(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "underflow":  # 5,000 subjects: without the resampling that the command adds
        tree = analyze_frame(table(CASES[name]), AnalysisRequest(("y",), ("tokens",), "s"))
        MUST[name]((0, json.loads(to_json(tree)), ""))
        return
    path = tmp_path / "table.csv"
    table(CASES[name]).to_csv(path, index=False)
    code = run_command(["analyze", str(path), "--dv", "y", "--within", "tokens", "--subject", "s", "--json", "-"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    MUST[name]((code, json.loads(captured.out) if code == 0 else None, captured.err))
