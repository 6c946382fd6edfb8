"""Every result has a plain sentence, no sentence claims too much, and a nested order of runs loses the usual name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.details_models import details, sequential_lines, sequential_sentences
from rayscale.analysis.latex import to_latex
from rayscale.analysis.methods import methods_paragraph
from rayscale.analysis.run import AnalysisRequest, analyze_frame
from rayscale.analysis.text import render_text

Tree = dict[str, Any]

NO_RESULT = {
    *("dv", "unit", "definition", "within", "subject", "levels", "alpha", "correction", "scale", "n_subjects"),
    *("energy_estimated", "mechanical_exponent", "missing", "notes", "plain", "explained", "assumptions", "cells"),
    *("tukey_note", "trend_scores", "n_devices", "interaction_permutation_note"),
}
"""Parts of a tree that say what was analysed, or are words already."""


def table(n: int = 12, effect: float = 0.4, seed: int = 3, levels: int = 3, factors: int = 1) -> pd.DataFrame:
    """A long table with devices, run order in random blocks, and start temperature."""
    rng = np.random.default_rng(seed)
    grid = [{"tokens": 1000 * 2**level} for level in range(levels)]
    if factors == 2:
        grid = [{**row, "precision": name} for row in grid for name in ("bf16", "fp32")]
    rows, order = [], 0
    for subject in range(n):
        shared = rng.normal()
        for index in rng.permutation(len(grid)):
            y = 20 + effect * index + shared + rng.normal(scale=0.5)
            rows.append({**grid[index], "run": subject, "gpu": f"g{subject % 4}", "order": order, "y": y})
            order += 1
    return pd.DataFrame(rows)


def nested(frame: pd.DataFrame) -> pd.DataFrame:
    """The same runs executed level after level."""
    frame = frame.sort_values(["tokens", "run"]).reset_index(drop=True)
    return frame.assign(order=range(len(frame)))


def analysed(frame: pd.DataFrame, **options: Any) -> Tree:
    within = tuple(name for name in ("tokens", "precision") if name in frame)
    return analyze_frame(frame, AnalysisRequest(("y",), within, "run", **{"resamples": 199, **options}))


def has_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_number, value.values()))
    if isinstance(value, list):
        return any(map(has_number, value))
    return isinstance(value, float)


def sentences_of(tree: Tree) -> Iterator[str]:
    for said in tree["explained"].values():
        yield from (said.values() if isinstance(said, dict) else [said])
    yield from tree["plain"]


CASES: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "one factor": (table(), {"equivalence": {"y": 0.5}}),
    "log scale": (table(), {"scale": "log"}),
    "two factors": (table(factors=2), {"order": "order"}),
    "two levels": (table(levels=2), {}),
    "devices and drift": (table(n=16), {"device": "gpu", "order": "order"}),
    "missing cells": (table().drop(index=[3, 17]), {}),
    "repeated cells": (pd.concat([table(), table(seed=4)]), {"aggregate": "mean"}),
    "level after level": (nested(table()), {"order": "order"}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_result_of_the_tree_has_a_plain_sentence(case: str) -> None:
    frame, options = CASES[case]
    tree = analysed(frame, **options)
    results = {name for name, part in tree.items() if name not in NO_RESULT and has_number(part)}
    assert len(results) > 12
    assert results - set(tree["explained"]) == set()
    for sentence in sentences_of(tree):
        assert sentence.endswith("."), sentence
        assert not re.search(r"\b(None|nan)\b", sentence), sentence


@pytest.mark.parametrize("case", CASES)
def test_every_line_of_numbers_comes_with_its_sentence(case: str) -> None:
    frame, options = CASES[case]
    tree = analysed(frame, **options)
    text = re.sub(r"\s+", " ", render_text(tree))
    shown = [item for item in details(tree) if not item.secondary]
    assert len(shown) >= 6
    for item in shown:
        assert item.plain
        assert f"> {item.plain}" in text


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.3]), st.integers(3, 12))
def test_no_sentence_turns_a_large_p_into_no_effect(seed: int, effect: float, n: int) -> None:
    tree = analysed(table(n=n, effect=effect, seed=seed), resamples=0)
    clear = tree["anova"]["p_GG"] < 0.05
    assert ("by more than chance explains" in tree["explained"]["anova"]) == clear
    assert ("does not show that there is none" in tree["explained"]["anova"]) == (not clear)
    friedman = tree["explained"]["friedman"]
    assert ("a difference is shown" in friedman) == (tree["friedman"]["p"] < 0.05)
    for sentence in sentences_of(tree):
        assert not re.search(r"\bno effect\b|\bproves?\b|\bare equal\b(?! within)", sentence), sentence


@pytest.mark.parametrize("n", [5, 12])
def test_few_subjects_are_said_to_be_few(n: int) -> None:
    few = any("only large differences can be found" in sentence for sentence in analysed(table(n=n))["plain"])
    assert few == (n < 10)


def test_runs_executed_level_after_level_are_nowhere_called_repeated_measures_without_the_warning() -> None:
    tree = analysed(nested(table()), order="order")
    warning = tree["run_order"]["sentence"]
    assert warning.startswith("WARNING")
    text, latex, methods = (re.sub(r"\s+", " ", write(tree)) for write in (render_text, to_latex, methods_paragraph))
    assert text.index("WARNING") < text.index(" tokens n mean")
    assert latex.index("WARNING") < latex.index(r"\begin{table}")
    assert "not a repeated-measures experiment" in methods
    for written in (text, latex, methods):
        rest = re.sub(r"(is )?not a repeated-measures experiment", "", written)
        assert not re.search(r"repeated[- ]measures", rest, re.IGNORECASE)
    assert "a drift over time made the difference cannot be told" in tree["explained"]["anova"]


def test_runs_in_random_order_keep_the_name() -> None:
    tree = analysed(table(), order="order")
    assert "Repeated-measures analysis of variance" in to_latex(tree)
    assert "WARNING" not in render_text(tree)
    assert "A repeated-measures analysis of variance" in methods_paragraph(tree)


STOPPED: Tree = {
    **{"dv": "pee", "factor": "tokens", "alpha": 0.05, "repetitions": 50, "n_used": 20, "saved_repetitions": 30},
    **{"decision": "efficacy", "p_adjusted": 0.012, "log10_p_adjusted": -1.9, "significant": True},
    "looks": [{}, {}],
}


def test_a_stopped_sweep_says_which_p_counts() -> None:
    said = " ".join(sequential_sentences(STOPPED))
    assert "looked at pee twice" in said
    assert "used 20 of 50 repetitions and so saved 30" in said
    assert "adjusted p = 0.012" in said
    assert "may well be smaller" in said
    going = " ".join(sequential_sentences(STOPPED | {"decision": "continue", "saved_repetitions": 0}))
    assert "not the final ones" in going
    assert "adjusted p" not in going


@pytest.mark.parametrize(("shrinkage", "words"), [(0.9, "10% smaller"), (0.999, "less than 0.5%")])
def test_a_stopped_sweep_says_how_far_its_differences_are_overstated(shrinkage: float, words: str) -> None:
    row = {"mean_diff": 2.0, "mean_diff_adjusted": 1.8, "repeated_ci95": {"lo": 0.5, "hi": 3.1}}
    part = STOPPED | {"estimates": {"shrinkage": shrinkage, "pairs": {"1K|2K": row}}}
    assert words in sequential_sentences(part)[-1]
    assert sequential_lines(part) == [
        "1K - 2K: difference 2, with the looks allowed for 1.8 (95% CI 0.5 to 3.1)",
    ]
    assert r"\caption{Differences of pee" in to_latex({"results": {}, "sequential": part})


def test_equivalence_as_a_ratio_is_explained() -> None:
    tree = analysed(table(effect=0.02), equivalence_ratio={"y": 1.2})
    assert "within the declared ratio of 1.2" in " ".join(sentences_of(tree))
    assert "ratios of the pairs tested for equivalence" in render_text(tree).replace("\n  ", " ")
    assert "a ratio of 1.2 for y (log scale)" in methods_paragraph(tree)
