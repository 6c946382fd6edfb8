"""Input that breaks other tools: what must happen is the table pub10 of the oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayscale.analysis.run import AnalysisRequest, analyze_frame, to_json
from rayscale.errors import InputError

ASK = AnalysisRequest(("y",), ("a",), "s")
Table = Callable[..., pd.DataFrame]


def test_zero_error_variance_gives_no_f_but_effect_sizes(long_table: Table) -> None:
    tree = analyze_frame(long_table([[i + j for j in range(3)] for i in range(5)]), ASK)
    anova = tree["anova"]
    assert anova["F"] is None
    assert anova["p_unc"] is None
    assert (anova["SS_effect"], anova["SS_error"], anova["SS_subject"]) == (10.0, 0.0, 30.0)
    assert anova["partial_eta2"] == 1.0
    assert anova["generalized_eta2"] == pytest.approx(0.25, rel=1e-12)
    assert any("error variance is zero" in note for note in tree["notes"])


def test_zero_error_variance_hidden_by_decimal_rounding(long_table: Table) -> None:
    tree = analyze_frame(long_table([[0.1 * (i + j) for j in range(3)] for i in range(7)]), ASK)
    assert tree["anova"]["F"] is None
    assert tree["anova"]["SS_error"] == 0.0


def test_all_constant_is_undefined(long_table: Table) -> None:
    tree = analyze_frame(long_table([[1, 1, 1]] * 5), ASK)
    assert tree["anova"]["F"] is None
    assert tree["anova"]["partial_eta2"] is None
    assert any("0/0" in note for note in tree["notes"])


def test_empty_cell_is_listwise_and_counted(long_table: Table) -> None:
    tree = analyze_frame(long_table([[1, 2, 4], [2, None, 3], [3, 5, 6], [2, 2, 5]]), ASK)
    assert tree["missing"]["n_missing_cells"] == 1
    assert tree["missing"]["dropped_subjects"] == ["s2"]
    assert tree["n_subjects"] == 3
    assert tree["anova"]["F"] > 0
    assert any("s2 lacks 2" in note for note in tree["notes"])


def test_infinite_value_is_refused_by_subject_and_level(long_table: Table) -> None:
    with pytest.raises(InputError, match=r"s s3, a 3 is inf: expected a finite number"):
        analyze_frame(long_table([[1, 2, 4], [2, 3, 3], [3, 5, float("inf")], [2, 2, 5]]), ASK)


def test_one_subject_or_one_level_is_refused(long_table: Table) -> None:
    with pytest.raises(InputError, match="at least two"):
        analyze_frame(long_table([[1, 2, 3]]), ASK)
    with pytest.raises(InputError, match="at least two"):
        analyze_frame(long_table([[1], [2], [3]]), ASK)


def test_one_complete_subject_is_null_with_a_note(long_table: Table) -> None:
    tree = analyze_frame(long_table([[1, 2, 3], [1, None, 3]]), ASK)
    assert tree["anova"]["F"] is None
    assert tree["descriptives"]["1"]["n"] == 2
    assert any("at least two" in note for note in tree["notes"])


def test_constant_difference_of_one_pair(long_table: Table) -> None:
    tree = analyze_frame(long_table([[1, 3, 4], [2, 4, 4], [5, 7, 9], [4, 6, 6]]), ASK)
    pair = tree["pairwise"]["1|2"]
    assert pair["mean_diff"] == -2
    assert pair["t"] is None
    assert pair["p_bonferroni"] is None
    assert any("1|2: zero variance of differences" in note for note in tree["notes"])
    assert tree["pairwise"]["1|3"]["t"] is not None
    assert tree["pairwise"]["1|3"]["p_bonferroni"] == pytest.approx(3 * tree["pairwise"]["1|3"]["p_raw"])


def test_subject_name_inside_the_factor_name() -> None:
    rows = [[1, 2, 4], [2, 3, 3], [3, 5, 7], [2, 2, 5]]
    frame = pd.DataFrame([(i, t, v) for i, r in enumerate(rows) for t, v in enumerate(r)], columns=["s", "tokens", "y"])
    assert analyze_frame(frame, AnalysisRequest(("y",), ("tokens",), "s"))["anova"]["df1"] == 2


def test_token_labels_are_ordered_by_value(long_table: Table) -> None:
    values = [[1, 3, 2], [1.1, 3.2, 2.1], [0.8, 2.9, 2.0], [1.2, 3.1, 1.9]]
    tree = analyze_frame(long_table(values, ["2M", "500K", "1M"]), ASK)
    assert tree["levels"] == {"a": ["500K", "1M", "2M"]}
    assert list(tree["pairwise"]) == ["500K|1M", "500K|2M", "1M|2M"]
    assert tree["trend_log2_scores"]["deg1"]["F_own"] > 0


def test_p_below_the_smallest_double_is_null_with_its_logarithm(long_table: Table) -> None:
    values = np.random.default_rng(0).normal([0.0, 1.0, 2.0], 0.01, (5000, 3))
    tree = analyze_frame(long_table(values.tolist()), ASK)
    assert tree["anova"]["p_unc"] is None
    assert tree["anova"]["log10_p_unc"] < -10_000
    assert any("logarithm" in note for note in tree["notes"])
    assert '"p_unc": 0' not in to_json(tree)


def test_balanced_counts_with_incomplete_subjects(long_table: Table) -> None:
    rng = np.random.default_rng(1)
    frame = long_table(rng.normal(size=(8, 3)).tolist())
    lacking = [("s1", 1), ("s2", 2), ("s3", 3)]
    frame = frame[[(s, a) not in lacking for s, a in zip(frame.s, frame.a, strict=True)]]
    assert set(frame.a.value_counts()) == {7}
    tree = analyze_frame(frame, ASK)
    assert tree["n_subjects"] == 5
    assert tree["missing"]["dropped_subjects"] == ["s1", "s2", "s3"]
    assert tree["listwise"]["F"] == tree["anova"]["F"]


def test_duplicates_are_refused_or_joined(long_table: Table) -> None:
    frame = long_table([[1.0, 2, 4], [2, 3, 3], [3, 5, 7]])
    twice = pd.concat([frame, pd.DataFrame({"s": ["s2"], "a": [3], "y": [5.0]})])
    with pytest.raises(InputError, match=r"several rows for s s2, a 3"):
        analyze_frame(twice, ASK)
    tree = analyze_frame(twice, AnalysisRequest(("y",), ("a",), "s", aggregate="mean"))
    assert tree["descriptives"]["3"]["mean"] == pytest.approx((4 + 4 + 7) / 3)
    assert tree["cells"]["n_obs"] == 10
    assert tree["cells"]["n_duplicate_rows"] == 1


def test_mauchly_is_never_called_violated_where_undefined(long_table: Table) -> None:
    rng = np.random.default_rng(2)
    few = analyze_frame(long_table(rng.normal(size=(5, 7)).tolist()), ASK)
    assert few["anova"]["mauchly_W"] is None
    assert 1 / 6 <= few["anova"]["eps_GG"] <= 1
    assert few["multivariate"]["hotelling_F"] is None
    two = analyze_frame(long_table(rng.normal(size=(5, 2)).tolist()), ASK)
    assert two["anova"]["mauchly_p_box_anderson"] is None
    assert two["anova"]["eps_GG"] == two["anova"]["eps_HF"] == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (AnalysisRequest(("z",), ("a",), "s"), "unknown column `z`; did you mean"),
        (AnalysisRequest(("y",), ("a",), "a"), "two roles"),
        (AnalysisRequest(("y",), ("a",), "s", alpha=1.0), "between 0 and 1"),
        (AnalysisRequest(("y",), ("a",), "s", correction="sidak"), "unknown correction"),
        (AnalysisRequest(("y",), ("a",), "s", aggregate="first"), "unknown aggregate"),
        (AnalysisRequest(("a",), ("a",), "s"), "measure and factor"),
    ],
)
def test_wrong_requests(ask: AnalysisRequest, message: str, long_table: Table) -> None:
    with pytest.raises(InputError, match=message):
        analyze_frame(long_table([[1, 2], [3, 5], [2, 6]]), ask)


def test_text_in_the_measure_is_named_by_row(long_table: Table) -> None:
    values: list[list[Any]] = [[1, 2], ["many", 5]]
    with pytest.raises(InputError, match="row 3: expected a number, got 'many'"):
        analyze_frame(long_table(values), ASK)


@pytest.mark.parametrize("power", [530, -530])
def test_scale_changes_no_ratio(power: int, long_table: Table) -> None:
    """2**530 is 3.5e159: every square overflows, yet F, t, p and effect sizes are the same to the last bit."""
    values = np.random.default_rng(8).normal([5.0, 6.0, 8.0], 1.0, (9, 3))
    plain = analyze_frame(long_table(values.tolist()), ASK)
    scaled = analyze_frame(long_table(np.ldexp(values, power).tolist()), ASK)
    ratios = [
        *(("anova", key) for key in plain["anova"] if not key.startswith("SS")),
        *(("multivariate", key) for key in plain["multivariate"]),
        *(("design", key) for key in ("F_subject", "p_subject", "icc_consistency", "relative_efficiency_rcbd_vs_crd")),
    ]
    for part, key in ratios:
        assert scaled[part][key] == plain[part][key], key
    for label, pair in plain["pairwise"].items():
        for key in ("t", "p_raw", "p_hommel", "cohen_dz", "hedges_gz", "cohen_dav", "wilcoxon_V"):
            assert scaled["pairwise"][label][key] == pair[key], key
        pooled = scaled["pairwise_pooled_error"][label]["t"]
        assert pooled == pytest.approx(plain["pairwise_pooled_error"][label]["t"], rel=1e-14)
    for degree, row in plain["trend_actual_scores"].items():
        assert scaled["trend_actual_scores"][degree]["F_own"] == row["F_own"]
        assert scaled["trend_actual_scores"][degree]["F_pooled"] == row["F_pooled"]
    half = "loftus_masson_ci95_halfwidth"
    assert scaled["design"][half] == pytest.approx(plain["design"][half] * 2.0**power, rel=1e-14)
