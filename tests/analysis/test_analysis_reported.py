"""Published statistics: what they imply, and whether they can all be true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.anova import anova
from rayscale.analysis.design_effects import design_effects
from rayscale.analysis.reported import effects_of_f, printed, subject_part
from rayscale.checking import Reported, render_reported, reported_document
from rayscale.errors import InputError

SEED_STUDY = Reported(F="24268.23", df="2,98", ges=".997", p="<.001")


def test_meets_the_published_cases(oracle: Callable[[str], dict[str, Any]]) -> None:
    met = 0
    for case in oracle("pub11")["cases"]:
        given_ = case["args"]
        if "F" in given_:
            ges = f"{given_['ges']:g}"
            document = reported_document(Reported(F=f"{given_['F']:.10g}", df="2,98", ges=ges))
        else:
            document = reported_document(
                Reported(t=f"{given_['t']:g}", df=f"{given_['df']}", comparisons=given_["m"], p=str(case["published"]))
            )
        assert document["fits"]
        for name, value in case["expect"].items():
            assert document[name] == pytest.approx(value, rel=case["rtol"])
            met += 1
    assert met == 15


def test_meets_the_effect_sizes_of_the_function_table(oracle: Callable[[str], dict[str, Any]]) -> None:
    cases = [case for case in oracle("pub09")["calls"] if case["fn"] == "effect_sizes_from_F"]
    assert len(cases) == 3
    for case in cases:
        document = reported_document(Reported(F=f"{case['args']['F']:.17g}", df="{df1},{df2}".format(**case["args"])))
        for name, value in case["expect"].items():
            assert document[name] == pytest.approx(value, rel=case["rtol"])


def test_says_in_words_that_the_pairing_carried_nothing() -> None:
    text = render_reported(reported_document(SEED_STUDY))
    assert text.startswith("the published values fit together")
    assert "F(49,98) = 0.98 (between 0.48 and 1.48 for the rounding of .997)" in text
    assert "pairing carried no information" in text


def test_says_when_pairing_did_carry_information() -> None:
    text = render_reported(reported_document(Reported(F="10.0", df="2,18", ges=".05")))
    assert "pairing carried information" in text


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (Reported(F="77.3", df="2,98", ges=".9"), "no data can give"),
        (Reported(F="3.03", df="3,33", p=".5"), "does not fit"),
        (Reported(F="1.2", df="2,20", p="<.001"), "does not fit"),
        (Reported(t="1.9377", df="49", comparisons=3, p=".058"), "does not fit"),
        (Reported(t="5", df="49", p=">.05"), "does not fit"),
    ],
)
def test_finds_what_does_not_fit(wrong: Reported, word: str) -> None:
    document = reported_document(wrong)
    assert document["fits"] is False
    assert word in render_reported(document)
    assert "do NOT fit" in render_reported(document)


def test_values_far_below_noise_are_called_rare() -> None:
    n, k, F = 50, 3, 100.0
    error = (n - 1) * (k - 1) / (F * (k - 1))
    subject = 0.3 * (n - 1) * error / ((n - 1) * (k - 1))
    ges = 1 / (1 + error + subject)
    text = render_reported(reported_document(Reported(F="100.0", df="2,98", ges=f"{ges:.6f}")))
    assert "less than noise alone would make them" in text


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 30), st.integers(2, 6), st.integers(0, 10_000), st.floats(0, 5))
def test_gives_back_the_truth_of_real_data(n: int, k: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, k)) + spread * rng.normal(size=(n, 1)) + np.arange(k)
    (effect,), truth = anova(y, [k], ["a"]).effects, design_effects(y, 0.05)
    part = subject_part(effect.F, effect.df1, effect.df2, printed(f"{effect.generalized_eta2:.15f}", "ges"))
    assert (part.n, part.k) == (n, k)
    assert pytest.approx(truth.F_subject, rel=1e-6, abs=1e-9) == part.F_subject
    assert part.icc == pytest.approx(truth.icc_consistency, rel=1e-6, abs=1e-9)
    found = effects_of_f(effect.F, effect.df1, effect.df2)
    assert found.partial_eta2 == pytest.approx(effect.partial_eta2, rel=1e-9)
    assert found.partial_epsilon2 == pytest.approx(effect.partial_epsilon2, rel=1e-9, abs=1e-12)
    assert found.ci90[0] <= found.partial_eta2 <= found.ci90[1] or found.partial_epsilon2 < 0.1
    ges = f"{effect.generalized_eta2:.4f}"
    if 0 < float(ges) < 1:  # rounding alone must never make true values impossible
        assert reported_document(Reported(F=f"{effect.F:.10f}", df=f"{effect.df1},{effect.df2}", ges=ges))["fits"]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [(".997", 0.9965, 0.9975), ("24268.23", 24268.225, 24268.235), ("1.2e-5", 1.15e-5, 1.25e-5)],
)
def test_reads_the_precision_of_a_printed_number(text: str, low: float, high: float) -> None:
    assert printed(text, "x").interval == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        Reported(),
        Reported(F="1", t="1", df="2,98"),
        Reported(F="1"),
        Reported(F="1", df="2"),
        Reported(F="-1", df="2,98"),
        Reported(F="nan", df="2,98"),
        Reported(F="ten", df="2,98"),
        Reported(F="10", df="2,99", ges=".5"),
        Reported(F="10", df="1.8,88.2", ges=".5"),
        Reported(F="10", df="2,98", ges="1.5"),
        Reported(F="0", df="2,98", ges=".5"),
        Reported(t="1", df="2,98"),
        Reported(t="1", df="9", comparisons=0),
        Reported(t="1", df="9", p="about .5"),
    ],
)
def test_what_is_no_statistic_is_refused(wrong: Reported) -> None:
    with pytest.raises(InputError, match=r"expected|multiple"):
        reported_document(wrong)
