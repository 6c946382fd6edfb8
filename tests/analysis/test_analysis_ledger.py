"""From records to the tree, and the tree as text."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records, to_json
from rayscale.analysis.text import render_text
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import SweepSpec

Specs = Callable[..., SweepSpec]
Records = Callable[..., list[Record]]


def test_every_declared_measure_is_analysed(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec()
    tree = analyze_records(make_records(spec), spec)
    assert tree["sweep"] == "toy"
    assert (tree["n_trials"], tree["n_planned"], tree["excluded"]) == (12, 12, [])
    assert list(tree["results"]) == spec.analysis.dv
    for dv, part in tree["results"].items():
        assert part["dv"] == dv
        assert part["anova"]["df1"] == 2
        assert part["anova"]["df2"] == 6
        assert part["levels"] == {"tokens": ["500000", "1000000", "2000000"]}
        assert part["n_subjects"] == 4
        assert set(part["pairwise"]) == {"500000|1000000", "500000|2000000", "1000000|2000000"}
        assert part["descriptives"]["500000"]["n"] == 4
    assert json.loads(to_json(tree))["results"]["pee"]["anova"]["F"] > 0


def test_excluded_trials_are_named_and_their_subject_left_out(
    make_spec: Specs, make_records: Records, with_verdict: Callable[[Record, str], Record]
) -> None:
    spec = make_spec()
    records = make_records(spec)
    records[4] = with_verdict(records[4], "invalid")
    records[5] = with_verdict(records[5], "suspect")
    tree = analyze_records(records, spec)
    assert [entry["trial_key"] for entry in tree["excluded"]] == [records[4].trial_key]
    assert tree["excluded"][0]["reasons"] == ["coverage"]
    part = tree["results"]["perplexity"]
    assert part["n_subjects"] == 3
    assert part["missing"]["dropped_subjects"] == [str(records[4].repetition)]
    assert any("1 of 12 trials are excluded" in note for note in part["notes"])
    both = make_spec(analysis={"exclude": ["invalid", "suspect"]})
    assert len(analyze_records(records, both)["excluded"]) == 2


def test_unfinished_sweeps_do_not_crash(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec()
    records = make_records(spec)
    for count in range(len(records)):
        tree = analyze_records(records[:count], spec)
        part = tree["results"]["perplexity"]
        assert any(f"{count} of 12 planned trials" in note for note in part["notes"])
        assert (part["anova"]["F"] is None) == (count < 6)
        json.loads(to_json(tree))
        assert "perplexity" in render_text(tree)


def test_a_measure_that_is_nowhere_available(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(analysis={"dv": ["mfu", "perplexity"]})
    tree = analyze_records(make_records(spec), spec)
    assert tree["results"]["mfu"]["anova"]["F"] is None
    assert any("not available" in note for note in tree["results"]["mfu"]["notes"])
    assert tree["results"]["perplexity"]["anova"]["F"] > 0


def test_unknown_measure_names_the_nearest(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(analysis={"dv": ["perplexty"]})
    with pytest.raises(InputError, match="did you mean `perplexity`"):
        analyze_records(make_records(spec), spec)


def test_single_level_is_descriptive_only(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec({"tokens": [1000]}, analysis={"dv": ["perplexity"]})
    tree = analyze_records(make_records(spec), spec, as_multi=False)
    assert tree["anova"]["F"] is None
    assert tree["descriptives"]["1000"]["n"] == 4
    assert any("one level" in note for note in tree["notes"])


def test_two_factors(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec({"tokens": [1000, 2000, 4000], "train.precision": ["fp32", "bf16"]}, 5)
    tree = analyze_records(make_records(spec), spec)
    part = tree["results"]["perplexity"]
    assert set(part["anova"]) == {"tokens", "train.precision", "tokens:train.precision", "SS_subject"}
    assert part["levels"]["train.precision"] == ["fp32", "bf16"]
    assert part["descriptives"]["tokens"]["1000"]["n"] == 5
    assert "tokens=1000,train.precision=fp32" in part["descriptives"]["cells"]
    text = render_text(tree)
    assert "tokens:train.precision: F(2, 8)" in text
    partial = analyze_records(make_records(spec)[:7], spec)["results"]["perplexity"]
    assert partial["anova"]["tokens"]["F"] is None
    assert "cells" in partial["descriptives"]


def test_estimated_energy_is_said_wherever_it_matters(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(analysis={"dv": ["pee", "perplexity", "w"], "metrics": {"v": "energy_j * 2", "w": "v + 1"}})
    tree = analyze_records(make_records(spec, estimated=True), spec)
    assert tree["energy_estimated"]
    assert [part["energy_estimated"] for part in tree["results"].values()] == [True, False, True]
    lines = render_text(tree).splitlines()
    titles = [line for line, below in itertools.pairwise(lines) if below and set(below) == {"="}]
    assert ["*estimated*" in title for title in titles] == [True, False, True]
    measured = analyze_records(make_records(spec), spec)
    assert not measured["energy_estimated"]
    assert "estimated" not in render_text(measured)


def test_text_fits_and_says_what_was_found(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(repetitions=6)
    text = render_text(analyze_records(make_records(spec), spec))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "tokens: F(2, 10) = " in text
    assert "mechanical" in text
    assert "p bonferroni" in text
    assert "GG epsilon = " in text
    assert "generalized eta2 = " in text


def test_text_of_a_clear_and_of_no_difference(long_table: Callable[..., pd.DataFrame]) -> None:
    ask = AnalysisRequest(("y",), ("a",), "s", alpha=0.01, correction="holm")
    clear = render_text(analyze_frame(long_table([[1, 5, 9.5], [2, 6, 9], [1.5, 5.2, 9.1], [1, 5.3, 9.9]]), ask))
    assert "differs between the levels of a by more than chance explains" in clear
    assert "99% CI" in clear
    assert "p holm" in clear
    nothing = render_text(analyze_frame(long_table([[1, 2, 1], [2, 1, 2], [1, 2, 2], [2, 2, 1]]), ask))
    assert "No difference of y" in nothing
    assert "does not show that there is none" in " ".join(nothing.split())


def test_several_measures_of_a_table(long_table: Callable[..., pd.DataFrame]) -> None:
    frame = long_table([[1, 5, 9], [2, 6, 9], [1, 5, 8]])
    frame["z"] = frame["y"] ** 2
    tree = analyze_frame(frame, AnalysisRequest(("y", "z"), ("a",), "s"))
    assert list(tree["results"]) == ["y", "z"]
    assert "z\n=" in render_text(tree)


def test_json_has_only_finite_numbers() -> None:
    tree: dict[str, Any] = {"a": [math.nan, 1.0, (math.inf, 2)], "b": {"c": -math.inf}}
    assert json.loads(to_json(tree)) == {"a": [None, 1.0, [None, 2]], "b": {"c": None}}


def test_importing_the_analysis_is_light() -> None:
    heavy = ("torch", "ray", "mlflow", "statsmodels", "pandas", "scipy.stats", "matplotlib", "transformers")
    code = f"import sys, rayscale.analysis.run, rayscale.analysis.text; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
