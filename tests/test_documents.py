"""Power and check-reported as CSV and LaTeX, and the commands that print them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from ledgers import make_ledger

from rayscale.cli import run_command

POWER = ["power", "--f", ".25", "--levels", "3", "--rho", ".5", "--n", "28"]
REPORTED = ["check-reported", "--F", "24268.23", "--df", "2,98", "--ges", ".997"]
PAIRED = ["check-reported", "--t", "2.5", "--df", "49", "--comparisons", "3"]


@pytest.mark.parametrize("command", [POWER, REPORTED, PAIRED], ids=["power", "F", "t"])
def test_csv_has_every_number_of_the_json(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert run_command([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {(row["section"], row["name"]): row["value"] for row in rows}
    numbers = {("study", name): value for name, value in document.items() if isinstance(value, float)}
    numbers |= {
        (section, name): value
        for section, part in document.items()
        if isinstance(part, dict)
        for name, value in part.items()
        if isinstance(value, float)
    }
    assert len(numbers) >= 2
    assert {key: float(found[key]) for key in numbers} == numbers


@pytest.mark.parametrize("command", [POWER, REPORTED, PAIRED], ids=["power", "F", "t"])
def test_latex_is_a_table_with_sentences(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") >= 1
    assert text.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)%", text)
    assert text.rstrip().endswith(".")


def test_the_power_table_has_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*POWER, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert r"Power with $28$ repetitions & $.812$ \\" in text
    assert r"Repetitions for power $.8$ & $28$ \\" in text
    assert "gave 28 repetitions for a power of $.8$." in text


def test_an_unknown_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*POWER, "--format", "yaml"]) == 2
    assert "expected text, csv or latex" in capsys.readouterr().err


def test_export_and_report_answer_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_ledger(tmp_path, repetitions=2)
    assert run_command(["export", str(ledger.root), "--format", "json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert len(trials) == 6
    assert trials[0]["tokens"] in (12_500, 25_000, 50_000)
    assert trials[0]["mfu"] is None
    page = tmp_path / "page.html"
    assert run_command(["report", str(ledger.root), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page)}
