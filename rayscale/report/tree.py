"""Reading the analysis tree (design 4.6) for the page: effects, pairs, cells with their intervals.

The tree is JSON: any number may be null and whole branches may be missing. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayscale.analysis.cells import cell_label
from rayscale.analysis.levels import interval_name, level_label
from rayscale.report.numerals import as_number
from rayscale.report.plot_measure import Centre

Tree = Mapping[str, Any]


def branch(tree: Tree, *path: str) -> Tree:
    """Follow a path of keys.

    Args:
        tree: Where to start.
        *path: Keys.

    Returns:
        The mapping there, empty if there is none.
    """
    node: Any = tree
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def effects(tree: Tree) -> dict[str, Tree]:
    """List the effects that were tested, on the scale that was declared as primary.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        Effect (`tokens`, `tokens:train.precision`) -> its ANOVA line; one entry for a single factor.
    """
    anova = branch(tree, "log_scale", "anova") if log_leads(tree) else branch(tree, "anova")
    if "F" in anova:
        return {":".join(_within(tree)) or "tokens": anova}
    return {name: line for name, line in anova.items() if isinstance(line, Mapping) and "F" in line}


def log_leads(tree: Tree) -> bool:
    """Say whether the log scale was declared as primary and could be had."""
    return tree.get("scale") == "log" and bool(branch(tree, "log_scale"))


def pairs(tree: Tree) -> dict[tuple[str, str], Tree]:
    """List the pairwise comparisons, on the scale that was declared as primary.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        (factor, pair such as `500000|1000000`) -> its line; the factor is empty where there is only one.
    """
    found: dict[tuple[str, str], Tree] = {}
    lines = branch(tree, "log_scale", "pairwise") if log_leads(tree) else branch(tree, "pairwise")
    for name, line in lines.items():
        if not isinstance(line, Mapping):
            continue
        if "|" in name:
            found["", name] = line
        else:
            found.update({(name, pair): inner for pair, inner in line.items() if isinstance(inner, Mapping)})
    return found


def interval_of(line: Tree, alpha: float, suffix: str = "") -> tuple[float | None, float | None]:
    """Read a confidence interval.

    Args:
        line: A line of the tree, with e.g. `ci95: {lo, hi}`.
        alpha: 1 - confidence.
        suffix: E.g. `_bonferroni`.

    Returns:
        Lower and upper end; None where unavailable.
    """
    ends = branch(line, interval_name(alpha) + suffix)
    return as_number(ends.get("lo")), as_number(ends.get("hi"))


def alpha_of(tree: Tree) -> float:
    """Return the significance level that the analysis used."""
    return as_number(tree.get("alpha")) or 0.05


def _within(tree: Tree) -> list[str]:
    return [str(name) for name in tree.get("within") or []]


@dataclass(frozen=True)
class CellIntervals:
    """Means with intervals of all conditions.

    Attributes:
        within: The factors, in the order of the labels.
        cells: Condition label -> mean with interval.
        words: What the interval is, for a caption; empty if there is none.
    """

    within: tuple[str, ...]
    cells: Mapping[str, Centre]
    words: str

    def of(self, condition: Mapping[str, Any]) -> Centre | None:
        """Return a condition's mean, None if the analysis has none."""
        names = [name for name in self.within if name in condition]
        return self.cells.get(cell_label(names, [level_label(condition[name]) for name in names]))


def cell_lines(tree: Tree) -> dict[str, Tree]:
    """List the descriptives of every condition.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        Condition label -> n, mean, sd, ...; with several factors the cells, not the margins.
    """
    lines = branch(tree, "descriptives", "cells") or branch(tree, "descriptives")
    return {name: line for name, line in lines.items() if isinstance(line, Mapping)}


def cell_intervals(tree: Tree) -> CellIntervals:
    """Read the mean and interval of every condition, within-subject intervals first.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        The cells; empty where the tree has none.
    """
    within, alpha = tuple(_within(tree)), alpha_of(tree)
    lines = cell_lines(tree)
    means = {name: mean for name, line in lines.items() if (mean := as_number(line.get("mean"))) is not None}
    confidence = f"{100 * (1 - alpha):.10g}\u00a0%"
    morey = _halves(tree, list(lines), f"morey_{interval_name(alpha)}_halfwidth")
    if means and morey:
        cells = {name: _around(mean, morey.get(name)) for name, mean in means.items()}
        return CellIntervals(within, cells, f" with its {confidence} within-subject interval (Morey 2008)")
    ends = {name: interval_of(line, alpha) for name, line in lines.items()}
    cells = {name: Centre(mean, *ends[name]) for name, mean in means.items()}
    some = any(low is not None for low, _ in ends.values())
    return CellIntervals(within, cells, f" with its {confidence} t interval (between repetitions)" if some else "")


def _halves(tree: Tree, names: list[str], key: str) -> dict[str, float]:
    """Read the half widths, which the tree keeps by the cell's index or by its label."""
    halves = branch(tree, "design", key)
    by_name = {name: as_number(halves.get(name, halves.get(str(index)))) for index, name in enumerate(names)}
    return {name: half for name, half in by_name.items() if half is not None}


def _around(mean: float, half: float | None) -> Centre:
    return Centre(mean) if half is None else Centre(mean, mean - half, mean + half)
