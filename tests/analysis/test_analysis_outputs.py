"""Text details, LaTeX, CSV and the methods paragraph: complete, safe, and true to the tree."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.cells import lay_out
from rayscale.analysis.csv_tables import HEADER, to_csv
from rayscale.analysis.latex import apa_sentences, escape, math_number, math_p, to_latex
from rayscale.analysis.methods import methods_paragraph
from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records
from rayscale.analysis.sentences import plain_sentences
from rayscale.analysis.text import WIDTH, render_text
from rayscale.analysis.tree import build_tree
from rayscale.record import Record
from rayscale.spec import SweepSpec

Build = Callable[..., dict[str, Any]]


@pytest.fixture
def measure() -> Build:
    """Analyse 12 subjects x given factors with everything switched on."""

    def build(factors: dict[str, list[str]] | None = None, dv: str = "y_1", **options: Any) -> dict[str, Any]:
        factors = factors or {"tokens": ["500K", "1M", "2M"]}
        grid = pd.MultiIndex.from_product([range(12), *factors.values()], names=["rep", *factors]).to_frame(index=False)
        rng = np.random.default_rng(4)
        grid[dv] = np.exp(rng.normal(size=len(grid)) * 0.3 + grid[next(iter(factors))].str.len() * 0.2)
        cells = lay_out(grid, dv, list(factors), "rep")
        tree: dict[str, Any] = {"dv": dv, "unit": "J", "definition": None, "within": list(factors), "subject": "rep"}
        tree |= {"levels": factors, "alpha": 0.05, "correction": "holm", "energy_estimated": True}
        tree |= {"mechanical_exponent": 1.0 if "tokens" in factors else None}
        tree |= build_tree(cells, 0.05, **{"resamples": 199, "margin": 0.5, **options})
        return tree | {"plain": plain_sentences(tree)}

    return build


def leaves(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(leaves(value) for value in tree.values())
    return sum(leaves(value) for value in tree) if isinstance(tree, list) else 1


def test_text_names_every_kind_of_result_within_its_width(measure: Build) -> None:
    text = render_text(measure())
    assert max(map(len, text.splitlines())) <= WIDTH
    joined = re.sub(r"\s+", " ", text)
    for expected in (
        "95% CI of partial eta2",
        "on the log scale (beside the raw scale, which is primary)",
        "by permutation within blocks (199 random orders)",
        "tokens, trend, each doubling of tokens taken as one step: linear F(1, 11)",
        "within ±0.5 (TOST, with 90% CI)",
        "bootstrap 95% CI of the difference",
        "Assumptions",
        "Shapiro-Wilk",
        "BF10",
    ):
        assert expected in joined, expected


def test_text_of_a_factorial_design_has_a_line_per_factor(measure: Build) -> None:
    text = render_text(measure({"tokens": ["1K", "2K"], "precision": ["bf16", "fp32", "fp16"]}, scale="log"))
    joined = re.sub(r"\s+", " ", text)
    assert "tokens by permutation" in joined
    assert "precision by permutation" in joined
    assert "tokens:precision on the log scale (primary, as declared)" in joined
    assert "trend over log2 precision" not in joined


def test_csv_has_a_row_per_leaf_and_reads_back(measure: Build) -> None:
    tree = measure()
    rows = list(csv.DictReader(io.StringIO(to_csv(tree))))
    assert tuple(rows[0]) == HEADER
    assert len(rows) == leaves(tree)
    found = {(row["section"], row["item"], row["name"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    assert float(found["anova", "", "F"]) == tree["anova"]["F"]
    pair = found["pairwise", "500K|1M/cohen_dz_ci95", "lo"]
    assert float(pair) == tree["pairwise"]["500K|1M"]["cohen_dz_ci95"]["lo"]


def test_csv_of_several_measures_keeps_the_head_apart(measure: Build) -> None:
    rows = list(csv.reader(io.StringIO(to_csv({"sweep": "s", "results": {"a": measure(), "b": measure(dv="b")}}))))
    assert rows[1] == ["", "study", "", "sweep", "s"]
    assert {row[0] for row in rows[2:]} == {"a", "b"}


@pytest.mark.parametrize("options", [{}, {"scale": "log"}, {"margin": None, "resamples": 0}])
def test_latex_is_balanced_and_escaped(measure: Build, options: dict[str, Any]) -> None:
    text = to_latex(measure(**options))
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count(r"\toprule") == text.count(r"\bottomrule")
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    shown = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)_1", shown)
    for block in re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns, body = block
        assert {line.count("&") for line in body.splitlines() if "&" in line} == {len(columns) - 1}


def test_apa_sentence_has_the_numbers_of_the_tree(measure: Build) -> None:
    tree = measure()
    row, (sentence,) = tree["anova"], apa_sentences(tree)
    eps = row["eps_GG"]
    assert f"F({eps * 2:.2f}, {eps * 22:.2f}) = {row['F']:.2f}" in sentence
    assert f"\\eta^2_p = {row['partial_eta2']:.3f}".replace("0.", ".") in sentence
    assert ("no significant effect" in sentence) == (row["p_GG"] >= 0.05)


def test_latex_has_the_further_tests(measure: Build) -> None:
    tree = measure()
    text = to_latex(tree)
    assert f"Friedman, Kendall $W = {tree['friedman']['kendall_W']:.3f}$".replace("0.", ".") in text
    assert "Permutation within blocks (random $199$ orders)" in text
    assert "Quadratic trend over the logarithm" in text
    assert text.count("Equivalence within $0.5$") == 3
    assert "Further tests" in to_latex(measure(margin=None, resamples=0))


def test_text_pairs_follow_the_declared_scale(measure: Build) -> None:
    tree = measure(scale="log")
    text = render_text(tree)
    assert "500K / 1M" in text
    assert f"{tree['log_scale']['pairwise']['500K|1M']['ratio']:.4g}" in text
    assert "500K - 1M  " in render_text(measure())


def test_apa_sentence_of_two_levels_has_no_correction(measure: Build) -> None:
    (sentence,) = apa_sentences(measure({"tokens": ["1K", "2K"]}))
    assert "F(1, 11)" in sentence
    assert "Greenhouse" not in sentence


def test_latex_numbers() -> None:
    assert math_number(None) == "---"
    assert math_number(1.23e-9, 3) == r"$1.23 \times 10^{-9}$"
    assert math_p(None, -20022.3) == r"$5.0 \times 10^{-20023}$"
    assert math_p(0.04321, None) == "$0.043$"
    assert escape("a_b 5% {x}\\") == r"a\_b 5\% \{x\}\textbackslash{}"


def test_undefined_analysis_is_still_written(measure: Build) -> None:
    for factors, gone in ((["a"], 1), (["a", "b"], 2)):
        frame = pd.DataFrame({"s": [1, 1, 2], "a": [1, 2, 1], "b": [1, 2, 2], "y": [1.0, 2.0, 3.0]})
        tree = analyze_frame(frame, AnalysisRequest(("y",), tuple(factors), "s"))
        assert r"\toprule" in to_latex(tree)
        assert "could not be tested" in to_latex(tree)
        assert to_csv(tree).startswith("measure,")
        assert f"left out listwise: {gone} of 2 for y" in methods_paragraph(tree)
        assert "Greenhouse" not in methods_paragraph(tree)


def test_methods_say_what_was_done_and_nothing_else(measure: Build) -> None:
    full, plain = methods_paragraph(measure()), methods_paragraph(measure(margin=None, resamples=0))
    for phrase in (
        "adjusted after Holm",
        "margin ±0.5 for y_1",
        "199 random rearrangements",
        "was estimated by a model",
    ):
        assert phrase in full, phrase
    assert "margin" not in plain
    assert "rearrangements" not in plain
    assert "y_1 on the raw scale" in plain
    assert "y_1 on the log scale" in methods_paragraph(measure(scale="log"))


def test_methods_of_a_sweep_tell_its_design(
    make_spec: Callable[..., SweepSpec], make_records: Callable[..., list[Record]]
) -> None:
    spec = make_spec(repetitions=4, analysis={"dv": ["energy_delay_product", "perplexity"]})
    text = methods_paragraph(analyze_records(make_records(spec), spec))
    assert "were trained in a design of 4 blocks; each block held all 3 conditions" in text
    assert "in an order drawn at random for each block" in text
    assert "Of 12 planned runs 12 were completed and none excluded." in text
    assert "the slope of the logarithm" in text
    assert "A repeated-measures analysis of variance" in text
    assert "\n" not in text
