"""Residuals, outliers, sphericity and pairing: the numbers against regression, the sentences against the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.assumptions import icc_interval, outliers, shapiro_residuals
from rayscale.analysis.cells import lay_out
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.sentences import plain_sentences
from rayscale.analysis.tree import build_tree

Table = Callable[..., pd.DataFrame]


def noise(seed: int, n: int = 12, k: int = 3, subject: float = 1.0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) + subject * rng.normal(size=(n, 1)) + 10


def deletion_t(values: FloatArray, subject: int, cell: int) -> float:
    """T of a dummy for one cell in the regression on subjects and cells: the externally studentised residual."""
    n, k = values.shape
    rows = np.array([(i, j) for i in range(n) for j in range(k)])
    columns = [(rows[:, 0] == i) for i in range(n)] + [(rows[:, 1] == j) for j in range(1, k)]
    design = np.column_stack([*columns, (rows[:, 0] == subject) & (rows[:, 1] == cell)]).astype(float)
    solution, squares, _, _ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    variance = float(squares[0]) / (n * k - design.shape[1]) * np.linalg.inv(design.T @ design)[-1, -1]
    return float(solution[-1] / np.sqrt(variance))


def tree_of(values: FloatArray, long_table: Table, **options: Any) -> dict[str, Any]:
    cells = lay_out(long_table(values.tolist(), ["1K", "2K", "4K", "8K"][: values.shape[1]]), "y", ["a"], "s")
    return build_tree(cells, 0.05, **options)


def as_measure(tree: dict[str, Any]) -> dict[str, Any]:
    head = {"dv": "y", "subject": "s", "within": ["a"], "alpha": 0.05, "correction": "holm", "energy_estimated": False}
    return {**head, "mechanical_exponent": None, **tree}


def test_studentised_residual_is_the_t_of_a_dummy() -> None:
    values = noise(1)
    values[4, 1] += 9
    found = outliers(values)
    assert (found[0].subject, found[0].cell) == (4, 1)
    assert found[0].studentised == pytest.approx(deletion_t(values, 4, 1), rel=1e-9)
    assert found[0].p_bonferroni < 1e-4


def test_outlier_is_named_and_its_weight_shown(long_table: Table) -> None:
    values = noise(2)
    values[7, 2] += 12
    tree = tree_of(values, long_table)
    assert tree["outliers"]["cells"][0]["subject"] == "s8"
    assert tree["outliers"]["cells"][0]["level"] == "4K"
    assert tree["outliers"]["without_subjects"]["n_subjects"] == 11
    assert "4K of subject s8" in tree["outliers"]["implies"]
    assert "nothing is left out for it" in tree["outliers"]["implies"]
    assert tree["outliers"]["implies"] in tree["assumptions"]


def test_outlier_of_a_design_with_gaps_keeps_its_subject(long_table: Table) -> None:
    values = noise(2)
    values[7, 2] += 12
    frame = long_table(values.tolist(), ["1K", "2K", "4K"])
    frame.loc[(frame["s"] == "s1") & (frame["a"] == "2K"), "y"] = np.nan
    tree = build_tree(lay_out(frame, "y", ["a"], "s"), 0.05)
    assert tree["outliers"]["cells"][0]["subject"] == "s8"


def test_skewed_residuals_are_called_so(long_table: Table) -> None:
    skewed = np.random.default_rng(3).lognormal(sigma=1.5, size=(40, 3))
    assert shapiro_residuals(skewed).p < 1e-6
    assert "not normally distributed" in tree_of(skewed, long_table)["normality"]["implies"]
    assert "no sign against" in tree_of(noise(4, 40), long_table)["normality"]["implies"]


def test_too_many_residuals_for_shapiro_is_null_with_a_reason() -> None:
    found = shapiro_residuals(noise(5, 2000))
    assert np.isnan(found.p)
    assert found.note is not None
    assert abs(found.skewness) < 0.2


def test_no_error_variance_leaves_assumptions_out(long_table: Table) -> None:
    values = np.arange(5.0)[:, None] + np.arange(3.0)
    tree = tree_of(values, long_table)
    assert "assumptions" not in tree
    assert outliers(values) == []


def test_sphericity_says_what_follows(long_table: Table) -> None:
    values = noise(6, 30)
    assert "no sign" in tree_of(values, long_table)["sphericity"]["implies"][0]
    values[:, 2] += 8 * np.random.default_rng(7).normal(size=30)
    assert "do not all vary alike" in tree_of(values, long_table)["sphericity"]["implies"][0]
    assert tree_of(values[:, :2], long_table)["sphericity"]["implies"] == ["two levels: sphericity always holds"]


def test_uninformative_pairing_is_said(long_table: Table) -> None:
    tree = tree_of(noise(8, 50, 3, subject=0.0), long_table)
    assert tree["design"]["pairing_informative"] is False
    low, high = tree["design"]["icc_consistency_ci95"].values()
    assert low < 0 < high
    text = " ".join(plain_sentences(as_measure(tree)))
    assert "Pairing carried no information" in text


def test_informative_pairing_says_what_it_bought(long_table: Table) -> None:
    tree = tree_of(noise(9, 30, 3, subject=3.0), long_table)
    assert tree["design"]["pairing_informative"] is True
    text = " ".join(plain_sentences(as_measure(tree)))
    assert "paid: without it about" in text


def test_icc_interval_of_shrout_and_fleiss() -> None:
    """Their table 4: BMS 11.24, EMS 1.02, n 6, k 4: ICC(3,1) = .71, interval .34 to .95 (two-sided 95 %)."""
    low, high = icc_interval(11.24 / 1.02, 6, 4, 0.95)
    assert (low, high) == pytest.approx((0.34, 0.95), abs=0.006)


def test_declared_log_scale_leads_and_cannot_be_had_for_negative_values(long_table: Table) -> None:
    values = np.exp(noise(10, 20) / 4)
    tree = tree_of(values, long_table, scale="log")
    assert tree["scale"] == "log"
    pair = tree["log_scale"]["pairwise"]["1K|2K"]
    assert pair["ratio"] == pytest.approx(
        float(np.exp(np.mean(np.log(values[:, 0]) - np.log(values[:, 1])))), rel=1e-12
    )
    assert pair["ratio_ci95"]["lo"] < pair["ratio"] < pair["ratio_ci95"]["hi"]
    text = " ".join(plain_sentences(as_measure(tree)))
    assert "As declared, y is compared on the log scale" in text
    negative = tree_of(noise(10, 20) - 10, long_table, scale="log")
    assert negative["scale"] == "raw"
    assert any("declared primary scale (log) does not exist" in note for note in negative["notes"])


def test_equivalence_only_with_a_declared_margin(long_table: Table) -> None:
    values = noise(11, 40)
    assert "equivalence" not in tree_of(values, long_table)
    tree = tree_of(values, long_table, margin=2.0)
    assert tree["equivalence"]["1K|2K"]["equivalent"] is True
    assert "equal within the declared margin of 2" in " ".join(plain_sentences(as_measure(tree)))
    strict = as_measure(tree_of(values, long_table, margin=0.001))
    assert "No two levels of a are shown to be equal" in " ".join(plain_sentences(strict))
