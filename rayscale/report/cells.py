"""Tables as data: cells that know their tooltip and whether they are numerals, ready for the page's template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.report.numerals import NA, Scale, as_number, exact


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is printed.
        title: Tooltip, e.g. the exact number; empty for none.
        kind: `text`, `number`, or a verdict (`clean`, `suspect`, `invalid`) that gets its badge.
    """

    text: str
    title: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """One table of the report.

    Attributes:
        slug: Anchor, unique on the page.
        caption: What it shows, in words.
        head: Column heads.
        rows: Cells, as many per row as there are heads.
        notes: Sentences below it.
        folded: True shows it only when it is opened.
    """

    slug: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default_factory=tuple)
    folded: bool = False

    def is_number(self, column: int) -> bool:
        """Tell whether a column holds numerals, so that its head is aligned like them."""
        return any(row[column].kind == "number" for row in self.rows)


def number_column(head: str, values: Sequence[Any], digits: int = 4) -> tuple[str, list[Cell]]:
    """Format one column of numbers on a common scale.

    Args:
        head: Column head.
        values: Its numbers; None and NaN are unavailable.
        digits: Significant digits of the largest.

    Returns:
        The head with the scale's power of ten, and the cells with exact numbers as tooltips.
    """
    scale = Scale.fitting(values, digits)
    return head + scale.head, [number_cell(scale.write(value), value) for value in values]


def number_cell(text: str, value: Any) -> Cell:
    """Make a numeral cell whose tooltip is the exact number, if there is one."""
    return Cell(text, "" if as_number(value) is None or text == NA else exact(value), "number")


def text_column(head: str, values: Sequence[Any]) -> tuple[str, list[Cell]]:
    """Make one column of plain text."""
    return head, [Cell(str(value)) for value in values]


def assemble(
    slug: str,
    caption: str,
    columns: Sequence[tuple[str, list[Cell]]],
    notes: Sequence[str] = (),
    folded: bool = False,
) -> Table:
    """Put columns together.

    Args:
        slug: Anchor.
        caption: What the table shows.
        columns: Heads and cells; all of one length.
        notes: Sentences below the table.
        folded: True shows it only when opened.

    Returns:
        The table.
    """
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return Table(slug, caption, [head for head, _ in columns], rows, tuple(notes), folded)
