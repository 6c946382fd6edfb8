"""The page leads with the scale that the sweep file declared, and shows assumptions and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ledgers import make_ledger

from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records
from rayscale.report.build import build_report
from rayscale.report.measures import describe
from rayscale.report.stat_tables import anova_table, pairwise_table


def tree_on(scale: str) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(size=(9, 3)) / 5 + np.arange(3))
    rows = [
        {"run": run, "tokens": tokens, "energy_j": values[run, index]}
        for run in range(9)
        for index, tokens in enumerate((1, 2, 4))
    ]
    return analyze_frame(pd.DataFrame(rows), AnalysisRequest(("energy_j",), subject="run", scale=scale))


@pytest.mark.parametrize("scale", ["raw", "log"])
def test_tables_follow_the_declared_scale(scale: str) -> None:
    tree, measure = tree_on(scale), describe("energy_j", {}, energy_estimated=False)
    anova, pairs = anova_table("x", measure, tree), pairwise_table("x", measure, tree, "bonferroni")
    line = tree["log_scale"]["anova"] if scale == "log" else tree["anova"]
    assert anova.rows[0][3].title.startswith(f"{line['F']:.10g}"[:8])
    assert ("log scale (primary" in anova.caption) == (scale == "log")
    assert any(note.startswith("In plain words: Compared by ratios") for note in anova.notes) == (scale == "log")
    assert any("by more than chance explains" in note for note in anova.notes) == (scale == "raw")
    assert ("ratio" in pairs.head[1]) == (scale == "log")
    assert ("ratios" in pairs.caption.lower() or "logarithms" in pairs.caption) == (scale == "log")


def test_page_shows_assumptions_and_a_methods_paragraph(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    plan = ledger.read_plan()
    tree = analyze_records(ledger.records(plan), plan.spec)
    html = build_report(ledger, tree, tmp_path / "report.html").read_text()
    assert "Assumptions, and what they imply" in html
    assert "Shapiro-Wilk W" in html
    assert "Methods paragraph" in html
    assert "were trained in a design of 5 blocks" in html


@pytest.mark.parametrize("scale", ["raw", "log"])
@pytest.mark.parametrize("correction", ["bonferroni", "holm"])
def test_intervals_of_pairs_are_as_strict_as_the_p_that_leads(scale: str, correction: str) -> None:
    tree = tree_on(scale)
    table = pairwise_table("x", describe("energy_j", {}, energy_estimated=False), tree, correction)
    line = (tree["log_scale"] if scale == "log" else tree)["pairwise"]["1|2"]
    key = ("ratio_" if scale == "log" else "") + "ci95" + ("_bonferroni" if correction == "bonferroni" else "")
    assert float(table.rows[0][2].title) == pytest.approx(line[key]["lo"])
    assert ("simultaneous" in table.notes[0]) == (correction == "bonferroni")
