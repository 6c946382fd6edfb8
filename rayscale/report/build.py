"""From a ledger and its analysis to `report.html`: one file, no scripts, nothing fetched, the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.ledger import Ledger
from rayscale.report import overview, tables
from rayscale.report.cells import Table
from rayscale.report.figures import Group, ReportFigure, against, report_figures
from rayscale.report.findings import findings, notes_of_all
from rayscale.report.gather import ReportData, gather
from rayscale.report.limits import limits
from rayscale.report.sections import SectionBuilder, extra_sections
from rayscale.report.stat_tables import stopped_table
from rayscale.report.words import methods_of, order_of, stopped_of

if TYPE_CHECKING:
    from jinja2 import Environment


def build_report(ledger: Ledger, analysis: Mapping[str, Any], destination: Path) -> Path:
    """Write the report of a sweep.

    Args:
        ledger: The sweep's ledger, finished or not.
        analysis: What `rayscale.analysis.run.analyze_records` returned for its records.
        destination: The HTML file; its directory is made if it is not there.

    Returns:
        The destination. It is replaced at once: a reader sees the old report or the new, never a part.

    Raises:
        InputError: If the ledger has no readable plan or a damaged record.
    """
    destination = Path(destination)
    html = render(gather(ledger, analysis))
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(destination)
    return destination


def report_in_ledger(ledger: Ledger, analysis: Mapping[str, Any]) -> str:
    """Write the report of a sweep into its ledger, wherever that lies.

    Args:
        ledger: The sweep's ledger.
        analysis: As for `build_report`.

    Returns:
        Where it is, for people.
    """
    written = build_report(ledger, analysis, ledger.root / "report.html")
    if ledger.remote:
        ledger.storage.write("report.html", written.read_bytes())
    return f"{ledger}/report.html"


def render(data: ReportData, builders: Sequence[SectionBuilder] | None = None) -> str:
    """Fill the page's template.

    Args:
        data: The sweep.
        builders: Further sections; None takes the house's own.

    Returns:
        The page.
    """
    figures = report_figures(data)
    groups = {group: [figure for figure in figures if figure.group == group] for group in _groups(figures)}
    sections = extra_sections(data, builders)
    figures = [*figures, *(figure for section in sections for figure in section.figures)]
    found = findings(data)
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            spec=data.spec,
            state=overview.state(data),
            facts=overview.facts(data),
            trust=overview.trust(data) if data.records else None,
            findings=found,
            warnings=list(dict.fromkeys(finding.warning for finding in found if finding.warning))[:1],
            stopped=stopped_of(data),
            stopped_tables=_stopped_tables(data),
            order=order_of(data),
            figures=figures,
            groups=groups,
            measures_title=f"Measures {against(data).replace('training ', '')}",
            sections=sections,
            svg={figure.slug: figure.svg() for figure in figures},
            trials=tables.trials_table(data),
            failures=tables.failures_table(data),
            metrics=tables.metrics_table(data),
            environment=tables.environment_table(data),
            settings=tables.settings_yaml(data),
            notes=notes_of_all(found),
            methods=methods_of(data),
            limits=limits(data),
        )
    )


def _stopped_tables(data: ReportData) -> list[Table]:
    part = data.analysis.get("sequential")
    table = stopped_table(data.measure(str(part["dv"])), part) if part else None
    return [table] if table and table.rows else []


def _groups(figures: list[ReportFigure]) -> list[Group]:
    return list(dict.fromkeys(figure.group for figure in figures))


def templates() -> Environment:
    """Load the page's templates, with everything that comes from outside escaped.

    Returns:
        The template environment; an undefined name is an error, never an empty place.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("rayscale.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
