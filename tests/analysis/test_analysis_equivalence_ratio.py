"""Equivalence as a ratio: against scipy's one-sided tests, on the log scale, declared in the file or on the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.equivalence_ratio import parse_margin
from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records
from rayscale.cli import run_command
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import SweepSpec


def table(seed: int = 0, ratio: float = 1.0, spread: float = 0.02) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (s, level, 50 * ratio**j * math.exp(rng.normal(0, spread))) for s in range(12) for j, level in enumerate("ab")
    ]
    return pd.DataFrame(rows, columns=["s", "x", "y"])


def request(margin: float) -> AnalysisRequest:
    return AnalysisRequest(("y",), ("x",), "s", equivalence_ratio={"y": margin})


def test_agrees_with_two_one_sided_t_tests_of_the_logarithms() -> None:
    from scipy import stats

    frame = table(1, 1.01)
    a, b = (np.log(frame[frame["x"] == level]["y"].to_numpy()) for level in "ab")
    row = analyze_frame(frame, request(1.05))["log_scale"]["equivalence"]["a|b"]
    bound = math.log(1.05)
    lower = stats.ttest_1samp(a - b, -bound, alternative="greater")
    upper = stats.ttest_1samp(a - b, bound, alternative="less")
    assert (row["p_lower"], row["p_upper"]) == pytest.approx((lower.pvalue, upper.pvalue), rel=1e-9)
    interval = stats.ttest_1samp(a - b, 0).confidence_interval(0.9)
    assert (row["ratio_ci90"]["lo"], row["ratio_ci90"]["hi"]) == pytest.approx(tuple(np.exp(list(interval))), rel=1e-9)
    assert row["equivalent"] is True
    assert row["ratio"] == pytest.approx(math.exp((a - b).mean()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.9, 1.1), st.floats(1.01, 1.3), st.sampled_from([1e-100, 1.0, 1e100]))
def test_equivalent_if_and_only_if_the_interval_lies_within_the_margin(
    seed: int, ratio: float, margin: float, scale: float
) -> None:
    frame = table(seed, ratio)
    frame["y"] *= scale
    row = analyze_frame(frame, request(margin))["log_scale"]["equivalence"]["a|b"]
    inside = 1 / margin < row["ratio_ci90"]["lo"] and row["ratio_ci90"]["hi"] < margin
    assert row["equivalent"] is inside


def test_it_is_said_in_plain_words() -> None:
    assert any("equal within the declared ratio of 1.05" in s for s in analyze_frame(table(), request(1.05))["plain"])
    far = analyze_frame(table(0, 1.2), request(1.05))
    assert any("does not show that they differ" in sentence for sentence in far["plain"])


def test_the_sweep_file_declares_margin_and_scale(
    make_spec: Callable[..., SweepSpec], make_records: Callable[..., list[Record]]
) -> None:
    margins = {"perplexity": {"ratio": 3.0}, "joules_per_token": 5.0}
    dvs = ["perplexity", "joules_per_token"]
    spec = make_spec(repetitions=6, analysis={"dv": dvs, "scale": "log", "equivalence": margins})
    results = analyze_records(make_records(spec), spec)["results"]
    assert results["perplexity"]["scale"] == "log"
    assert results["perplexity"]["log_scale"]["equivalence"]["500000|1000000"]["equivalent"] is True
    assert "equivalence" not in results["perplexity"]
    assert results["joules_per_token"]["equivalence"]["500000|1000000"]["margin"] == 5.0
    assert "equivalence" not in results["joules_per_token"]["log_scale"]
    for wrong in ({"ratio": 1.0}, {"ratio": 0.9}, -1.0, {"rato": 1.1}):
        with pytest.raises(ValueError, match="equivalence"):
            make_spec(analysis={"dv": ["perplexity"], "equivalence": {"perplexity": wrong}})


def test_values_that_are_not_positive_have_no_ratio() -> None:
    frame = table()
    frame.loc[0, "y"] = -1.0
    tree = analyze_frame(frame, request(1.05))
    assert tree["log_scale"] is None
    assert any("not positive" in note for note in tree["notes"])


def test_several_factors_have_it_per_factor() -> None:
    frame = pd.concat([table(2).assign(z=1), table(3, 1.1).assign(z=2)])
    tree = analyze_frame(frame, AnalysisRequest(("y",), ("x", "z"), "s", equivalence_ratio={"y": 1.1}))
    assert list(tree["log_scale"]["equivalence"]) == ["x", "z"]


class TestCommandLine:
    def test_margin_and_scale(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "t.csv"
        table(1).to_csv(path, index=False)
        command = ["analyze", str(path), "--dv", "y", "--within", "x", "--subject", "s", "--json", "-"]
        assert run_command([*command, "--margin", "x1.05", "--scale", "log"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["scale"] == "log"
        assert tree["log_scale"]["equivalence"]["a|b"]["margin_ratio"] == 1.05
        assert run_command([*command, "--margin", "2.5"]) == 0
        assert json.loads(capsys.readouterr().out)["equivalence"]["a|b"]["margin"] == 2.5
        assert run_command([*command, "--scale", "ln"]) == 2
        assert "unknown scale `ln`" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("margin", "message"),
        [
            ("{ratio: 0.9}", "perplexity.ratio: input should be greater than 1, got 0.9"),
            ("{rato: 1.1}", "rato: unknown key; did you mean `ratio`?"),
            ("-3", "perplexity: input should be greater than 0, got -3"),
        ],
    )
    def test_a_wrong_margin_in_the_sweep_file_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], margin: str, message: str
    ) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text(
            "name: x\ndesign: {factors: {tokens: [500, 1000]}, repetitions: 2}\nmodel: {config: {hidden_size: 8}}\n"
            "data: {corpus: python-stdlib, tokenizer: bytes, sequence_length: 64}\n"
            f"analysis:\n  dv: [perplexity]\n  equivalence: {{perplexity: {margin}}}\n"
        )
        assert run_command(["plan", str(path), "--no-calibrate"]) == 2
        error = capsys.readouterr().err
        assert "sweep.yaml:7: analysis.equivalence." in error
        assert message in error

    @pytest.mark.parametrize("text", ["x1", "x0.9", "0", "-1", "5%", "xx", "nan", "inf"])
    def test_no_margin(self, text: str) -> None:
        with pytest.raises(InputError, match="expected a margin"):
            parse_margin(text)
