"""The page leads with the scale that the sweep file declared, and shows assumptions and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import make_ledger

from rayscale.analysis.cells import Cells
from rayscale.analysis.run import analyze_records
from rayscale.analysis.tree import build_tree
from rayscale.report.build import build_report
from rayscale.report.findings import anova_table, pairwise_table
from rayscale.report.measures import describe


def tree_on(scale: str) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(size=(9, 3)) / 5 + np.arange(3))
    cells = Cells(("tokens",), (("1", "2", "4"),), tuple("abcdefghi"), values, 27, 0)
    return {"within": ["tokens"], "alpha": 0.05, **build_tree(cells, 0.05, scale=scale)}


@pytest.mark.parametrize("scale", ["raw", "log"])
def test_tables_follow_the_declared_scale(scale: str) -> None:
    tree, measure = tree_on(scale), describe("energy_j", {}, energy_estimated=False)
    anova, pairs = anova_table("x", measure, tree), pairwise_table("x", measure, tree, "bonferroni")
    line = tree["log_scale"]["anova"] if scale == "log" else tree["anova"]
    assert anova.rows[0][3].title.startswith(f"{line['F']:.10g}"[:8])
    assert ("log scale (primary" in anova.caption) == (scale == "log")
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
    assert "Models were trained in 5 blocks" in html
