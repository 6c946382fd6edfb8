"""Further sections: numbered and linked like the page's own, and absent where there is nothing to say."""

from __future__ import annotations

import re

import pytest

from rayscale.analysis.run import analyze_records
from rayscale.ledger import Ledger
from rayscale.report.build import render
from rayscale.report.cells import Cell, Table
from rayscale.report.gather import ReportData, gather
from rayscale.report.sections import Section, extra_sections


def silent(data: ReportData) -> Section | None:
    return None


def empty(data: ReportData) -> Section | None:
    return Section("void", "Void")


def spoken(data: ReportData) -> Section | None:
    table = Table("table-spoken", "what it cost", ["item", "kWh"], [[Cell("all"), Cell("1 < 2", kind="number")]])
    return Section("spoken", "Energy & cost", [f"{len(data.records)} trials cost little."], tables=[table])


@pytest.fixture(scope="module")
def data(laptop: Ledger) -> ReportData:
    plan = laptop.read_plan()
    spec = plan.spec.model_copy(update={"analysis": plan.spec.analysis.model_copy(update={"dv": ["perplexity"]})})
    return gather(laptop, analyze_records(laptop.records(plan), spec))


def test_a_section_gets_heading_link_and_number(data: ReportData) -> None:
    html = render(data, [silent, spoken, empty])
    assert '<a href="#spoken">Energy &amp; cost</a>' in html
    assert '<section id="spoken">' in html
    assert "15 trials cost little." in html
    assert "1 &lt; 2" in html
    assert html.index('id="group-time"') < html.index('id="spoken"') < html.index('id="statistics"')
    numbers = [int(number) for number in re.findall(r"<b>Table (\d+)\.</b>", html)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "Void" not in html


def test_sections_with_nothing_to_say_are_not_there(data: ReportData) -> None:
    assert [section.slug for section in extra_sections(data, [silent, empty, spoken])] == ["spoken"]
