"""Pages of sweeps whose levels are names: no order is made of them, and they stand by name where tokens do not vary."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.details import test_details as details_of_tests
from rayscale.analysis.returns_text import label_words
from rayscale.analysis.sentences import descriptive_sentence
from rayscale.analyzing import analyze_ledger
from rayscale.report.accounting_section import returns_section
from rayscale.report.build import render
from rayscale.report.figures import against
from rayscale.report.gather import ReportData, gather
from rayscale.report.plot_pareto import pareto_figure

TREATMENTS = {"full": {}, "lora": {"train.lora_rank": 8}, "int8": {"eval.quantize": "int8"}}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Three treatments at one token count, in 3 blocks."""
    design = {"factors": {"tokens": [25_000]}, "treatments": TREATMENTS, "repetitions": 3}
    spec = example_spec(3, design=design, analysis={"dv": ["perplexity"]})
    ledger = make_ledger(tmp_path_factory.mktemp("named"), spec)
    return gather(ledger, analyze_ledger(ledger, ledger.read_plan()))


def test_names_have_no_order_in_words(named: ReportData) -> None:
    """No first-to-last change, no trend over the order of the file."""
    tree = named.results["perplexity"]
    sentence = descriptive_sentence(dict(tree), "treatment", tree["descriptives"])
    means = {name: row["mean"] for name, row in tree["descriptives"].items()}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    assert sentence.startswith(f"The mean of perplexity is lowest at treatment {low} (")
    assert f"highest at {high} (" in sentence
    shown = {one.section for one in details_of_tests(dict(tree)) if not one.secondary}
    assert shown
    assert not {"page", "trend_log2_scores", "trend_equal_spacing"} & shown


def test_the_page_shows_measures_by_name(named: ReportData) -> None:
    page = html.unescape(re.sub(r"<style>.*?</style>", "", render(named), flags=re.DOTALL))
    assert against(named) == "by treatment"
    for words in (
        "Measures by treatment",
        "Perplexity by treatment.",
        "mean seconds per condition",
        "25K, treatment lora",
    ):
        assert words in page, words
    for words in ("against tokens", "goes from", "trend by ranks", "log₂ scale", "per token level"):
        assert words not in page, words


def test_numbers_keep_their_order(laptop: Any) -> None:
    tree = analyze_ledger(laptop, laptop.read_plan(), dv="perplexity")["results"]["perplexity"]
    assert "goes from" in descriptive_sentence(tree, "tokens", tree["descriptives"])
    assert "page" in {one.section for one in details_of_tests(tree)}


def test_labels_are_written_for_people() -> None:
    assert label_words("50000") == "50K"
    assert label_words("lora") == "lora"
    assert label_words("tokens=32000,model.config.hidden_size=16") == "32K, hidden_size 16"
    assert label_words("a=1,b") == "a=1,b"


def test_many_steps_are_left_to_the_table(named: ReportData) -> None:
    step = {"gain_nats": 0.1, "spent": 1.0, "return": 0.1, "ci": [0.05, 0.2], "n": 3}
    point = {"loss": 3.0, "resource": 1.0, "loss_ci": [2.9, 3.1], "resource_ci": [0.9, 1.1]}
    point |= {"on_front": True, "overlaps": False, "front_share": 1.0}
    about = {"unit": "kJ", "n_blocks": 3, "energy_estimated": False}
    front = {"energy": {**about, "points": {"1000": point}}}
    for count, sentences in ((3, 3), (7, 0)):
        steps = {f"{1000 * i}|{1000 * (i + 1)}": step for i in range(1, count + 1)}
        tree = {"pareto": front, "marginal": {"energy": {**about, "steps": steps}}}
        section = returns_section(ReportData(**{**vars(named), "analysis": tree}))
        assert section is not None
        assert section.sentences[0].endswith("for less than these: 1K.")
        assert len(section.sentences) == 1 + sentences
        assert len(section.tables[-1].rows) == count


def test_names_in_a_front_do_not_cover_each_other(tmp_path: Path) -> None:
    """Of points on top of each other one is named; a wide range of resources gets a logarithmic axis."""

    def point(resource: float, loss: float, on_front: bool) -> dict[str, Any]:
        ends = {"resource_ci": [-1.0, 2 * resource], "loss_ci": [loss, loss]}
        return {"resource": resource, "loss": loss, "on_front": on_front, "overlaps": False, **ends}

    points = {"a": point(1.0, 3.0, True), "twin": point(1.001, 3.0, False), "far": point(100.0, 1.0, True)}
    axes = pareto_figure("Loss", "kJ", points).axes[0]
    names = {text.get_text() for text in axes.texts}
    assert {"a", "far"} <= names
    assert "twin" not in names
    assert axes.get_xscale() == "log"
    assert axes.get_xlim()[0] > 0
