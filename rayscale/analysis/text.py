"""The tree as text for a terminal, at most 100 columns wide."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.details import Detail, show_bayes
from rayscale.analysis.details_models import details, sequential_lines, sequential_sentences
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sentences import main_effects, on_log_scale, percent, primary_pairs, show, show_p
from rayscale.analysis.walk import measures_of, nested_order, section

WIDTH = 100


def render_text(tree: Tree) -> str:
    """Write an analysis for people.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        Per measure: descriptives, ANOVA line, pairs, plain sentences, notes. Lines of at most 100 columns.
    """
    parts = _head(tree)
    for measure in measures_of(tree):
        parts += [*_measure(measure), ""]
    return "\n".join(parts).rstrip() + "\n"


def anova_line(name: str, effect: Tree) -> str:
    """Write one effect as papers do.

    Args:
        name: The effect.
        effect: Its part of the tree.

    Returns:
        `tokens: F(2, 98) = ..., p = ..., GG epsilon = ..., p(GG) = ..., generalized eta2 = ..., partial eta2 = ...`.
    """
    if effect["F"] is None:
        return f"{name}: F is undefined (see the notes)"
    parts = (
        f"{name}: F({effect['df1']}, {effect['df2']}) = {show(effect['F'], 6)}",
        f"p {show_p(effect['p_unc'], effect['log10_p_unc'])}",
        f"GG epsilon = {effect['eps_GG']:.3f}",
        f"p(GG) {show_p(effect['p_GG'], effect['log10_p_GG'])}",
        f"generalized eta2 = {effect['generalized_eta2']:.3f}",
        f"partial eta2 = {effect['partial_eta2']:.3f}",
    )
    return ", ".join(parts)


def _head(tree: Tree) -> list[str]:
    if "sweep" not in tree:
        return []
    excluded = len(tree["excluded"])
    energy = "; energy is *estimated*" if tree["energy_estimated"] else ""
    line = f"Sweep {tree['sweep']}: {tree['n_trials']} of {tree['n_planned']} trials, {excluded} excluded{energy}"
    stopped = sequential_sentences(tree["sequential"]) if tree.get("sequential") else []
    stopped += sequential_lines(tree["sequential"]) if tree.get("sequential") else []
    return [*_wrap(line), *(part for sentence in stopped for part in _wrap(f"- {sentence}", "  ")), ""]


def _measure(tree: Tree) -> list[str]:
    unit = f" [{tree['unit']}]" if tree["unit"] and tree["unit"] != "1" else ""
    title = f"{tree['dv']}{unit}" + (" (*estimated* energy)" if tree["energy_estimated"] else "")
    lines = [*_wrap(title), "=" * min(len(title), WIDTH)]
    lines += _wrap(f"= {tree['definition']}") if tree["definition"] else []
    lines += [f"{tree['n_subjects']} complete subjects ({tree['subject']}), within: {', '.join(tree['within'])}", ""]
    if nested_order(tree):  # before any number, so that none is read without it
        lines += [*_wrap(tree["run_order"]["sentence"]), ""]
    if not tree.get("shared_prefix", {}).get("independent", True):
        lines += [*_wrap(tree["shared_prefix"]["sentence"]), ""]
    for factor, _, _, levels in main_effects(tree):
        lines += [*_descriptives(factor, levels, tree["alpha"]), "", *_pairs(factor, tree)]
    if len(tree["within"]) > 1:
        lines += [*_descriptives("cell", tree["descriptives"]["cells"], tree["alpha"]), ""]
    lines += [line for name, effect in _effects(tree) for line in _wrap_clauses(anova_line(name, effect))]
    lines += ["", *(line for sentence in tree["plain"] for line in _wrap(f"- {sentence}", "  "))]
    further = [line for detail in details(tree) if not detail.secondary for line in _detail(detail)]
    lines += ["", "Further results, each with what it means", *further] if further else []
    if tree.get("assumptions"):
        lines += ["", "Assumptions", *(line for text in tree["assumptions"] for line in _wrap(f"- {text}", "  "))]
    if tree["notes"]:
        lines += ["", "Notes", *(line for note in tree["notes"] for line in _wrap(f"- {note}", "  "))]
    return lines


def _detail(detail: Detail) -> list[str]:
    """The numbers of a result, and below them what they mean."""
    return [
        *(_wrap(detail.line, "  ") if detail.line else []),
        *textwrap.wrap(detail.plain, WIDTH, initial_indent="  > ", subsequent_indent="    ", break_on_hyphens=False),
    ]


def _effects(tree: Tree) -> list[tuple[str, Tree]]:
    if len(tree["within"]) == 1:
        return [(tree["within"][0], tree["anova"])]
    return [(name, effect) for name, effect in tree["anova"].items() if isinstance(effect, dict)]


def _descriptives(factor: str, levels: Tree, alpha: float) -> list[str]:
    ci = interval_name(alpha)
    rows = [
        [label, str(row["n"]), show(row["mean"], 5), show(row["sd"]), _interval(row[ci])]
        for label, row in levels.items()
    ]
    return _table([factor, "n", "mean", "sd", f"{percent(alpha)} CI of the mean"], rows) if rows else []


def _pairs(factor: str, tree: Tree) -> list[str]:
    """The pairs on the scale declared as primary: differences, or ratios of geometric means."""
    pairs, raw, logs = primary_pairs(tree, factor), section(tree, "pairwise", factor), on_log_scale(tree)
    if not pairs:
        return []
    key, ci = ADJUSTMENTS[tree["correction"]], interval_name(tree["alpha"])
    simultaneous = tree["correction"] == "bonferroni"
    interval = ("ratio_" if logs else "") + ci + ("_bonferroni" if simultaneous else "")
    rows = [
        [
            label.replace("|", " / " if logs else " - "),
            show(row["ratio" if logs else "mean_diff"]),
            _interval(row[interval]),
            show(row["t"]),
            show_p(row[key], row["log10_p_raw"]).removeprefix("= ") if row["t"] is not None else "n/a",
            show(row["cohen_dz"], 3),
            *([] if logs else [show_bayes(raw[label]["log10_bayes_factor_10"])]),
        ]
        for label, row in pairs.items()
    ]
    header = [
        f"pair of {factor}",
        "ratio" if logs else "difference",
        f"{'simultaneous ' if simultaneous else ''}{percent(tree['alpha'])} CI",
        f"t({next(iter(pairs.values()))['df']})",
        "p" if key == "p_raw" else f"p {tree['correction']}",
        "dz",
    ]
    return [*_table(header if logs else [*header, "BF10"], rows), ""]


def _interval(bounds: Tree) -> str:
    return "n/a" if bounds["lo"] is None else f"{show(bounds['lo'])} to {show(bounds['hi'])}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align a table: first column left, the others right; the first column gives way if it gets too wide."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    widths[0] = min(widths[0], max(8, WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = [_line(row, widths) for row in [header, *rows]]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0] if len(row[0]) <= widths[0] else f"{row[0][: widths[0] - 1]}…"
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *rest])


def _wrap_clauses(text: str) -> list[str]:
    """Wrap between `name = value` clauses only."""
    glued = ", ".join(clause.replace(" ", "\u00a0") for clause in text.split(", "))
    glued = re.sub(r"(F\(\d+), ", "\\1,\u00a0", glued)
    return [line.replace("\u00a0", " ") for line in _wrap(glued, "  ")]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
