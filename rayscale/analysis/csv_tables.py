"""The tree as one tidy CSV: a row per number, so that any program can filter and pivot it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from rayscale.analysis.jsonable import Tree

HEADER = ("measure", "section", "item", "name", "value")
HEAD_SECTION = "study"
"""Section of the values that stand by themselves, such as `alpha`."""


def to_csv(tree: Tree) -> str:
    """Write every table of an analysis.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        CSV with the columns `measure` (empty for the whole sweep), `section` (`anova`, `pairwise`, ...), `item` (what
        is between section and name, joined by `/`), `name`, `value` (full precision; empty where undefined).
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    if "results" in tree:
        writer.writerows(_rows("", {key: value for key, value in tree.items() if key != "results"}))
        for measure, part in tree["results"].items():
            writer.writerows(_rows(measure, part))
    else:
        writer.writerows(_rows(str(tree.get("dv", "")), tree))
    return out.getvalue()


def document_csv(document: Tree) -> str:
    """Write any other document, such as that of `rayscale power`, in the same form.

    Args:
        document: Nested mappings and lists.

    Returns:
        CSV with the columns of `to_csv`; `measure` is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(_rows("", document))
    return out.getvalue()


def _rows(measure: str, tree: Tree) -> Iterator[tuple[str, str, str, str, str]]:
    for path, value in _leaves(tree, ()):
        section, *items, name = (HEAD_SECTION, *path) if len(path) == 1 else path
        yield measure, section, "/".join(items), name, _write(value)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, value


def _write(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
