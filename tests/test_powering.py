"""`rayscale power` and `rayscale check-reported` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ledgers import make_ledger

from rayscale.cli import run_command


def test_power_answers_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["power", "--f", ".25", "--levels", "3", "--rho", ".5", "--n", "28"]
    assert run_command(arguments) == 0
    text = capsys.readouterr().out
    assert "power with 28 repetitions: 0.8125" in text
    assert "repetitions for power 0.8: 28" in text
    assert run_command([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["power_at_n"]["power"] == pytest.approx(0.812454611, rel=1e-8)
    assert document["n_for_power"] == {"power": 0.8, "n": 28}
    assert document["smallest_effect"]["f"] < 0.25


def test_power_from_means_and_deviations(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["power", "--means", "1,2,3", "--sd-error", "2", "--sd-subject", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["design"]["rho"] == pytest.approx(0.2)
    assert document["n_for_power"]["n"] == 21


def test_power_from_a_pilot_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_ledger(tmp_path, repetitions=6)
    assert run_command(["power", str(ledger.root), "--from-ledger", "--dv", "perplexity", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pilot"]["n"] == 6


@pytest.mark.parametrize(
    "wrong",
    [
        ["power"],
        ["power", "--f", ".25"],
        ["power", "--f", ".25", "--levels", "1"],
        ["power", "--from-ledger", "--n", "5", "--levels", "3"],
        ["check-reported"],
        ["check-reported", "--F", "24268.23"],
        ["check-reported", "--F", "x", "--df", "2,98"],
    ],
)
def test_what_cannot_be_planned_or_checked_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(wrong) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expected" in captured.err or "needs" in captured.err


def test_check_reported_answers_and_its_exit_code_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check-reported", "--F", "24268.23", "--df", "2,98"]
    assert run_command([*arguments, "--ges", ".997", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["F_subject"] == pytest.approx(0.98056, rel=1e-4)
    assert run_command([*arguments, "--ges", ".999"]) == 1
    assert "do NOT fit together" in capsys.readouterr().out
    assert run_command(["check-reported", "--t", "1.9377", "--df", "49", "--comparisons", "3", "--p", ".1753"]) == 0
