"""Every injected fault is corrected, flagged by name or refused; none becomes a silent zero."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_bench import attempt, gpu
from fault_cases import CASES, Case, render

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- faults -->", "<!-- /faults -->"


def test_without_a_fault_the_bench_is_clean() -> None:
    outcome = attempt(gpu())
    assert outcome.quality is not None
    assert (outcome.quality.verdict, outcome.quality.reasons) == ("clean", [])
    assert outcome.energy_is_right


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_fault_is_corrected_or_named(case: Case, tmp_path: Path) -> None:
    outcome = case.inject(tmp_path)
    if case.refused:
        assert outcome.refused is not None
        assert case.refused in outcome.refused
        return
    assert outcome.refused is None
    assert outcome.quality is not None
    assert set(case.codes) <= outcome.codes
    assert outcome.zeros == []
    if case.energy == "right":
        assert outcome.energy_is_right
    else:
        assert outcome.quality.verdict != "clean"
        assert outcome.result is not None
        assert (outcome.result.phases["train"].energy_j is None) == (case.energy == "none")


def test_there_are_enough_different_faults() -> None:
    assert len({case.fault for case in CASES}) == len(CASES) >= 25


def test_readme_holds_this_table() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
    section = text.partition(START)[2].partition(END)[0]
    assert render() in section
