"""The model card and the references: what they hold, and what they do not make up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ledgers import example_spec, make_ledger

from rayscale.bibliography import references
from rayscale.cli import run_command
from rayscale.ledger import Ledger

GREEN = {
    "grid_g_per_kwh": 380.0,
    "grid_source": "utility | bill",
    "grid_year": 2024,
    "country": "DE",
    "pue": 1.2,
    "price_per_kwh": 0.3,
    "currency": "EUR",
}


@pytest.fixture(scope="module")
def green(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return make_ledger(tmp_path_factory.mktemp("green"), example_spec(3, report=GREEN), estimated=False)


def report(ledger: Ledger, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run_command(["report", str(ledger.root), *options]) == 0
    return capsys.readouterr().out


def test_the_block_is_that_of_the_hub(green: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    card = report(green, capsys, "--model-card")
    _, front, body = card.split("---\n", 2)
    block = yaml.safe_load(front)["co2_eq_emissions"]
    assert set(block) == {"emissions", "source", "training_type", "geographical_location", "hardware_used"}
    sweep = json.loads((green.root / "analysis.json").read_text(encoding="utf-8"))["accounting"]["sweep"]
    assert block["emissions"] == pytest.approx(sweep["energy_kwh"] * 1.2 * 380, rel=1e-5)  # grams
    assert (block["training_type"], block["geographical_location"]) == ("pre-training", "DE")
    assert block["hardware_used"] == "1 x NVIDIA A100-SXM4-40GB"
    assert "measured device energy" in block["source"]
    for words in ("| Training compute |", "| CO2e, DE |", r"utility \| bill", "EUR |", "| Overhead of the sweep |"):
        assert words in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_without_a_grid_there_is_no_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = report(make_ledger(tmp_path, example_spec(2)), capsys, "--model-card")
    assert yaml.safe_load(card.split("---\n")[1]) is None
    assert "no grid intensity" in card
    assert "| CO2e | not known |" in card
    assert "| Cost | not known |" in card
    assert "Device energy (estimated)" in card


def test_references_are_those_of_what_was_used(
    green: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = re.findall(r"@\w+\{(\w+),", report(green, capsys, "--bibtex"))
    assert len(set(entries)) == len(entries) >= 8
    assert {"dwyer2026revisiting", "greenhouse1959methods", "dunn1961multiple", "fieller1954problems"} <= set(entries)
    assert "holm1979simple" not in entries
    assert "codecarbon" not in entries
    changed = example_spec(
        3,
        analysis={"dv": ["perplexity"], "correction": "holm"},
        design={
            "factors": {"tokens": [12_500, 25_000]},
            "repetitions": 3,
            "stop": {"dv": "perplexity", "after": [2], "spending": "pocock"},
        },
    )
    entries = re.findall(r"@\w+\{(\w+),", report(make_ledger(tmp_path, changed), capsys, "--bibtex"))
    assert {"holm1979simple", "pocock1977group"} <= set(entries)
    assert not {"dunn1961multiple", "dwyer2026revisiting", "obrien1979multiple"} & set(entries)


def test_fits_forecasts_and_alternatives_are_cited() -> None:
    treatments = {"full": {}, "lora": {"train.lora_rank": 8}, "taught": {"model.distill_from.tokens": 1000}}
    design = {"factors": {"tokens": [12_500]}, "treatments": treatments, "repetitions": 2}
    keys = {one.key for one in references(example_spec(2, design=design), {"scaling": {"E": 1.7}})}
    assert {"hoffmann2022training", "hu2021lora", "hinton2015distilling"} <= keys
    assert "lu2025race" not in keys
    with_kappa = {one.key for one in references(example_spec(2), {"forecast": {"kappa": 0.15}})}
    assert "lu2025race" in with_kappa
    assert not {"hoffmann2022training", "hu2021lora", "hinton2015distilling"} & with_kappa


def test_braces_are_balanced_and_a_file_is_written(green: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "card.md"
    assert run_command(["report", str(green.root), "--model-card", "--bibtex", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith("---\nco2_eq_emissions:")
    references = text[text.index("@") :]
    assert references.count("{") == references.count("}") > 20
