"""Sections that the report gains from other parts of the house: accounting, Pareto fronts, whatever comes next.

A builder looks at the sweep and returns a section, or None where there is nothing to say: then the page has neither a
heading nor a link. A new section is one builder in `BUILDERS`; the template, the table of contents and the numbering of
tables and figures need no change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayscale.report.cells import Table
from rayscale.report.figures import ReportFigure
from rayscale.report.gather import ReportData


@dataclass(frozen=True)
class Section:
    """One further section of the page.

    Attributes:
        slug: Anchor, unique on the page, e.g. `accounting`.
        title: Heading and link, e.g. `Energy, carbon and cost`.
        sentences: Plain words that lead the section; every result in it needs one.
        figures: Figures, shown before the tables.
        tables: Tables; their `notes` stand below them.
        notes: What the section leaves out or takes for granted.
    """

    slug: str
    title: str
    sentences: Sequence[str] = field(default_factory=tuple)
    figures: Sequence[ReportFigure] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)


SectionBuilder = Callable[[ReportData], Section | None]


def _builders() -> tuple[SectionBuilder, ...]:
    """List the builders in page order; imported here, since their modules import `Section` from this one."""
    from rayscale.report.accounting_section import accounting_section, returns_section
    from rayscale.report.forecast_section import forecast_section
    from rayscale.report.scaling_section import scaling_section

    return (returns_section, scaling_section, forecast_section, accounting_section)


def extra_sections(data: ReportData, builders: Sequence[SectionBuilder] | None = None) -> list[Section]:
    """Build the further sections of a sweep.

    Args:
        data: The sweep.
        builders: Instead of the house's own.

    Returns:
        Those that have something to say, in order; they follow the figures and precede the statistics.
    """
    built = (build(data) for build in (_builders() if builders is None else builders))
    return [section for section in built if section is not None and (section.sentences or section.tables)]
