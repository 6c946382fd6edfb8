"""The sections on scaling, accounts and returns: there with data, absent without, plain words in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.fit_text import render_fit
from rayscale.analysis.fitted import SWEEP_RESAMPLES, sweep_scaling
from rayscale.analyzing import analyze_ledger, render_tree
from rayscale.ledger import Ledger
from rayscale.report.build import build_report


@pytest.fixture(scope="module")
def sizes() -> pd.DataFrame:
    """4 model sizes x 4 token counts on a noisy surface, in the columns of a ledger."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1e7, 4), np.geomspace(1e6, 1e8, 4)))
    noise = np.exp(0.005 * np.random.default_rng(2).standard_normal(n.size))
    loss = (1.7 + 60 / n**0.34 + 90 / d**0.28) * noise
    return pd.DataFrame({"params": n, "trained_tokens": d, "eval_loss": loss})


def test_a_size_factor_is_fitted(laptop: Ledger, sizes: pd.DataFrame, tmp_path: Path) -> None:
    fit = sweep_scaling(sizes, "toy")
    assert fit is not None
    assert fit["alpha"] == pytest.approx(0.34, abs=0.1)
    assert set(fit["profile95"]) == {"E", "A", "alpha", "B", "beta"}
    tree = analyze_ledger(laptop, laptop.read_plan())
    assert "scaling" not in tree
    assert "Scaling law" in render_tree(tree | {"scaling": fit}, "text")
    page = build_report(laptop, tree | {"scaling": fit}, tmp_path / "r.html").read_text(encoding="utf-8")
    for words in ('id="scaling"', "table-scaling", "grows as C^", "bootstrap by run"):
        assert words in page
    assert 'id="scaling"' not in build_report(laptop, tree, tmp_path / "s.html").read_text(encoding="utf-8")
    assert "(profile)" in render_fit(fit)
    assert SWEEP_RESAMPLES >= 100


def test_what_a_sweep_cannot_identify_is_not_fitted(sizes: pd.DataFrame) -> None:
    assert sweep_scaling(sizes.assign(params=1e6), "toy") is None
    assert sweep_scaling(sizes.assign(trained_tokens=20 * sizes["params"]), "toy") is None
    assert sweep_scaling(sizes[sizes["params"] < 1e6], "toy") is None  # two sizes
    assert sweep_scaling(sizes.assign(eval_loss=np.nan), "toy") is None


def test_old_analyses_without_the_new_parts_are_reported(laptop: Ledger, tmp_path: Path) -> None:
    tree = analyze_ledger(laptop, laptop.read_plan())
    old = {name: part for name, part in tree.items() if name not in ("accounting", "pareto", "marginal")}
    page = build_report(laptop, old, tmp_path / "old.html").read_text(encoding="utf-8")
    for words in ("What the sweep took", "What the loss cost", "Scaling law"):
        assert words not in page
