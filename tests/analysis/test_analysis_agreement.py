"""Textbook identities of the whole tree, and agreement with other implementations on random tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.tree import build_tree
from rayscale.spec import SweepSpec


def random_table(seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(4, 12)), int(rng.integers(2, 5))
    return rng.normal(size=(n, k)) + rng.normal(size=(n, 1)) + rng.normal(size=k) * 0.5 + 20


def tree_of(values: FloatArray, **options: Any) -> dict[str, Any]:
    n, k = values.shape
    labels = tuple(str(2**j) for j in range(k))
    cells = Cells(("tokens",), (labels,), tuple(f"s{i}" for i in range(n)), values, values.size, 0)
    return build_tree(cells, 0.05, **options)


def test_agrees_with_statsmodels_on_500_random_tables() -> None:
    from statsmodels.stats.anova import AnovaRM

    for seed in range(500):
        values = random_table(seed)
        k = values.shape[1]
        row = AnovaRM(long_frame(values), "y", "who", ["level"]).fit().anova_table.iloc[0]
        effect = anova(values, (k,), ("level",)).effects[0]
        expected = (float(row["F Value"]), float(row["Pr > F"]))
        assert (effect.F, effect.p_unc) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.skipif(find_spec("pingouin") is None, reason="pingouin (GPL-3, no dependency) is not installed")
def test_agrees_with_pingouin_on_500_random_tables() -> None:
    rm_anova = importlib.import_module("pingouin").rm_anova
    names = {"F": "F", "p_unc": "p_unc", "p_GG": "p_GG_corr", "eps_GG": "eps", "generalized_eta2": "ng2"}
    for seed in range(500):
        values = random_table(seed)
        n, k = values.shape
        frame = long_frame(values)
        row = rm_anova(data=frame, dv="y", within="level", subject="who", correction=True, detailed=True).iloc[0]
        effect = anova(values, (k,), ("level",)).effects[0]
        for ours, theirs in names.items():
            if k > 2 or ours != "p_GG":  # with two levels there is nothing to correct
                assert getattr(effect, ours) == pytest.approx(float(row[theirs]), rel=1e-7, abs=1e-12), (seed, ours)
        if 2 < k < n:
            assert pytest.approx(float(row["W_spher"]), rel=1e-7) == effect.sphericity.W, seed
            assert effect.sphericity.p_R_formula == pytest.approx(float(row["p_spher"]), rel=1e-6, abs=1e-9), seed


def long_frame(values: FloatArray) -> pd.DataFrame:
    n, k = values.shape
    return pd.DataFrame({"who": np.repeat(np.arange(n), k), "level": np.tile(np.arange(k), n), "y": values.ravel()})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_subjects_does_not_matter(seed: int) -> None:
    values = random_table(seed)
    shuffled = np.random.default_rng(seed).permutation(values)
    first, second = tree_of(values), tree_of(shuffled)
    for name in ("anova", "effect_size", "pairwise", "pairwise_pooled_error", "friedman", "normality", "log_scale"):
        assert flat(first[name]) == pytest.approx(flat(second[name]), rel=1e-6, abs=1e-9), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2.0**-40, 2.0**30]), st.integers(-1000, 1000))
def test_units_do_not_matter_to_what_has_none(seed: int, scale: float, shift: int) -> None:
    values = np.rint(1024 * random_table(seed))
    first, second = tree_of(values), tree_of((values + 1024 * shift) * scale)
    for name in ("effect_size", "friedman", "page", "pairwise_pooled_error"):
        assert flat(first[name]) == pytest.approx(flat(second[name]), rel=1e-7, abs=1e-12), name
    for pair, row in first["pairwise"].items():
        for key in ("t", "p_raw", "cohen_dz", "log10_bayes_factor_10", "wilcoxon_V"):
            assert row[key] == pytest.approx(second["pairwise"][pair][key], rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_reversing_the_levels_flips_signs_only(seed: int) -> None:
    values = random_table(seed)
    first, second = tree_of(values), tree_of(values[:, ::-1])
    assert first["anova"]["F"] == pytest.approx(second["anova"]["F"], rel=1e-9)
    ends = list(first["pairwise"])[values.shape[1] - 2]  # the pair of lowest and highest level
    row, mirrored = first["pairwise"][ends], second["pairwise"][ends]
    assert row["cohen_dz_ci95"]["lo"] == pytest.approx(-mirrored["cohen_dz_ci95"]["hi"], rel=1e-6, abs=1e-9)
    assert row["log10_bayes_factor_10"] == pytest.approx(mirrored["log10_bayes_factor_10"], rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_adjusted_p_values_keep_their_textbook_order(seed: int) -> None:
    tree = tree_of(random_table(seed))
    for row in tree["pairwise"].values():
        chain = [row[key] for key in ("p_raw", "p_BH", "p_hommel", "p_hochberg", "p_holm", "p_bonferroni")]
        assert all(low <= high * (1 + 1e-12) for low, high in zip(chain[:1] + chain[2:], chain[2:], strict=False))
        assert chain[0] <= chain[1] <= chain[-1]
    for row in tree["pairwise_pooled_error"].values():
        assert row["p_none"] * (1 - 1e-6) <= row["p_tukey"] <= row["p_bonferroni"] * (1 + 1e-6) + 1e-9


def flat(tree: Any) -> dict[str, float]:
    """The numbers of a tree by dotted name."""
    if not isinstance(tree, dict):
        return {"": float(tree)} if isinstance(tree, (int, float)) else {}
    return {f"{key}.{name}": value for key, item in tree.items() for name, value in flat(item).items()}


def test_margins_and_scale_are_declared_in_the_sweep_file(make_spec: Callable[..., SweepSpec]) -> None:
    spec = make_spec(analysis={"dv": ["perplexity"], "scale": "log", "equivalence": {"perplexity": 0.5}})
    assert (spec.analysis.scale, spec.analysis.equivalence) == ("log", {"perplexity": 0.5})
    with pytest.raises(ValidationError, match="`pee` is not among"):
        make_spec(analysis={"dv": ["perplexity"], "equivalence": {"pee": 0.5}})
    with pytest.raises(ValidationError, match="greater than 0"):
        make_spec(analysis={"dv": ["perplexity"], "equivalence": {"perplexity": 0.0}})
