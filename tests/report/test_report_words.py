"""What the page says in words: a sentence for every result, warnings that cannot be missed, what a stop rule did."""

from __future__ import annotations

import html as markup
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.details_models import details
from rayscale.analysis.looks import planned_looks, take_look, with_sequential
from rayscale.analysis.run import analyze_records
from rayscale.analysis.sweepcells import sweep_cells
from rayscale.ledger import Ledger
from rayscale.report.build import render
from rayscale.report.gather import gather
from rayscale.report.words import explained, order_of


def page_of(ledger: Ledger) -> tuple[str, dict[str, Any]]:
    plan = ledger.read_plan()
    tree = analyze_records(ledger.records(plan), plan.spec)
    tree = with_sequential(tree, ledger.read_looks(), plan.spec)
    return markup.unescape(render(gather(ledger, tree), builders=[])), tree


def run_level_after_level(ledger: Ledger) -> None:
    """Give the records the start times of a sweep that ran level after level."""
    records = ledger.records()
    stamps = sorted(record.started_at for record in records)
    records.sort(key=lambda record: (int(record.condition["tokens"]), record.repetition))
    for index, record in enumerate(records):
        ledger.write_record(record.model_copy(update={"run_order": index, "started_at": stamps[index]}))


ONE_MEASURE = example_spec(repetitions=6, analysis={"dv": ["perplexity"]})
"""Fewer figures to draw."""


@pytest.fixture(scope="module")
def perplexity(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A sweep in random order; tests read it only."""
    return make_ledger(tmp_path_factory.mktemp("words"), ONE_MEASURE)


@pytest.fixture(scope="module")
def drawn(perplexity: Ledger) -> tuple[str, dict[str, Any]]:
    """Its page and tree, made once."""
    return page_of(perplexity)


def test_every_result_on_the_page_has_its_sentence(drawn: tuple[str, dict[str, Any]]) -> None:
    page, tree = drawn
    measure = tree["results"]["perplexity"]
    shown = [item for item in details(measure) if not item.secondary]
    assert len(shown) >= 8
    for item in shown:
        assert f"<dt>{item.line}</dt>\n<dd>{item.plain}</dd>" in page
    for part in ("descriptives", "anova", "pairwise"):
        (sentence,) = explained(measure, part)
        assert sentence.startswith("In plain words: ")
        assert f'<p class="note">{sentence}</p>' in page
    for sentence in measure["plain"]:
        assert sentence in page


def test_a_sweep_run_level_after_level_carries_the_warning_and_not_the_name(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, ONE_MEASURE)
    run_level_after_level(ledger)
    page, tree = page_of(ledger)
    warning = tree["results"]["perplexity"]["run_order"]["sentence"]
    assert f'<p class="warning" id="warning" role="alert">{warning}</p>' in page
    assert "Not repeated measures: see the warning." in page
    rest = page.replace(warning, "")
    for words in re.findall(r".{40}repeated[- ]measures", rest, re.IGNORECASE):
        assert re.search(r"not (a )?repeated[- ]measures$", words, re.IGNORECASE), words


def test_a_sweep_in_random_order_has_no_warning(drawn: tuple[str, dict[str, Any]]) -> None:
    page, _ = drawn
    assert 'class="warning"' not in page
    assert "repeated-measures ANOVA" in page


def test_order_and_drift_are_said_beside_their_figures(perplexity: Ledger, drawn: tuple[str, dict[str, Any]]) -> None:
    page, tree = drawn
    said = order_of(gather(perplexity, tree))
    assert tree["results"]["perplexity"]["run_order"]["sentence"] in said
    assert any("rift of perplexity" in sentence or "perplexity drifts" in sentence for sentence in said)
    after = page.index("<h2>Run order and drift</h2>")
    assert all(page.index(f"<p>{sentence}</p>") > after for sentence in said)


def test_a_stopped_sweep_says_so_with_its_adjusted_numbers(tmp_path: Path) -> None:
    design = {"factors": {"tokens": [12_500, 25_000, 50_000]}, "repetitions": 12, "seed": 1}
    spec = example_spec(design=design | {"stop": {"dv": "perplexity", "after": [6]}}, analysis={"dv": ["perplexity"]})
    ledger = make_ledger(tmp_path, spec)
    for trial in ledger.read_plan().trials:
        if trial.repetition >= 6:
            (ledger.root / "trials" / trial.trial_key / "record.json").unlink()
    look = take_look(sweep_cells(ledger.records(), spec, "perplexity"), spec, [], last=False)
    assert look.decision == "efficacy"
    ledger.write_looks({"plan": planned_looks(spec), "looks": [asdict(look)]})
    page, _ = page_of(ledger)
    assert "18 of 36 trials completed, 18 not needed" in page
    assert "it used 6 of 12 repetitions and so saved 6." in page
    assert "differences when the sweep stopped" in page
    assert "The sweep ended after 6 of 12 blocks at look 1" in page


def test_several_devices_of_a_kind_are_counted_in_the_head(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, example_spec(repetitions=2, analysis={"dv": ["perplexity"]}), estimated=False)
    for record in ledger.records():
        device = record.device.model_copy(update={"uuid": f"GPU-{record.repetition}"})
        ledger.write_record(record.model_copy(update={"device": device}))
    page, _ = page_of(ledger)
    assert "2 × NVIDIA A100-SXM4-40GB on gpu-box" in page
