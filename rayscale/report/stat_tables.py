"""The tables of one dependent variable: descriptives, analysis of variance, pairs; each with what it means in words."""

from __future__ import annotations

from typing import Any

from rayscale.report.cells import Cell, Table, assemble, number_cell, text_column
from rayscale.report.measures import Measure
from rayscale.report.numerals import NA, Scale, as_number, fixed, number, p_exact, p_value, whole
from rayscale.report.tree import Tree, alpha_of, cell_lines, effects, interval_of, log_leads, pairs
from rayscale.report.words import explained, warning_of


def descriptives_table(slug: str, measure: Measure, tree: Tree) -> Table:
    """Tabulate n, mean, sd and interval per level.

    Args:
        slug: Anchor of the dependent variable.
        measure: The variable.
        tree: Its tree.

    Returns:
        The table; no rows where the tree has no descriptives.
    """
    lines = cell_lines(tree)
    alpha = alpha_of(tree)
    ends = [interval_of(line, alpha) for line in lines.values()]
    columns = {
        "mean": [line.get("mean") for line in lines.values()],
        "SD": [line.get("sd") for line in lines.values()],
        f"{_confidence(alpha)} CI low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }
    scale, scaled = common_scale(columns)
    unit = scale.unit(measure.unit)
    return assemble(
        f"{slug}-descriptives",
        f"{measure.heading}: descriptive statistics{f', in {unit}' if unit else ''}",
        [
            text_column(" × ".join(map(str, tree.get("within") or ["tokens"])), [level_words(name) for name in lines]),
            ("n", [number_cell(whole(line.get("n")), line.get("n")) for line in lines.values()]),
            *scaled,
        ],
        (
            "CI: t interval of the level's mean, from the spread between repetitions at this level.",
            *explained(tree, "descriptives"),
        ),
    )


def common_scale(columns: dict[str, list[Any]], digits: int = 5) -> tuple[Scale, list[tuple[str, list[Cell]]]]:
    """Format several columns of one unit on one scale, so that they can be compared by eye.

    Args:
        columns: Head -> numbers.
        digits: Significant digits of the largest number of all.

    Returns:
        The scale, whose power of ten belongs into the caption, and heads with cells.
    """
    scale = Scale.fitting([value for values in columns.values() for value in values], digits)
    return scale, [
        (head, [number_cell(scale.write(value), value) for value in values]) for head, values in columns.items()
    ]


def stopped_table(measure: Measure, part: Tree) -> Table:
    """Tabulate the differences of a sweep that could stop early, naive and with the looks allowed for.

    Args:
        measure: The variable that the looks were about.
        part: The `sequential` part of the analysis.

    Returns:
        One row per pair; no rows while the sweep goes on.
    """
    alpha = alpha_of(part)
    lines = (part.get("estimates") or {}).get("pairs") or {}
    ends = [interval_of(line, alpha) for line in lines.values()]
    careful = [
        interval_of({k.removeprefix("repeated_"): v for k, v in line.items() if k.startswith("repeated_")}, alpha)
        for line in lines.values()
    ]
    columns = {
        "difference": [line.get("mean_diff") for line in lines.values()],
        f"{_confidence(alpha)} CI low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "adjusted": [line.get("mean_diff_adjusted") for line in lines.values()],
        "repeated CI low": [low for low, _ in careful],
        "repeated CI high": [high for _, high in careful],
    }
    scale, scaled = common_scale(columns)
    unit = scale.unit(measure.unit)
    return assemble(
        "table-stopped",
        f"{measure.heading}: differences when the sweep stopped{f', in {unit}' if unit else ''}",
        [text_column("pair", [pair_words("", label) for label in lines]), *scaled],
        ("Adjusted and repeated CI allow for the looks: they hold although the sweep could stop at any of them.",),
    )


def level_words(label: str) -> str:
    """Write a level's label for people: thousands apart in token counts."""
    known = as_number(label)
    return fixed(known, 0) if known is not None and known.is_integer() and known >= 1000 else label


def anova_table(slug: str, measure: Measure, tree: Tree) -> Table:
    """Tabulate the repeated-measures ANOVA.

    Args:
        slug: Anchor of the dependent variable.
        measure: The variable.
        tree: Its tree.

    Returns:
        One row per effect: F, degrees of freedom, p uncorrected and Greenhouse-Geisser, epsilon, effect sizes.
    """
    lines = effects(tree)
    head = ["effect", "df1", "df2", "F", "p", "ε (GG)", "p (GG)", "η²G", "η²p"]
    rows = []
    for name, line in lines.items():
        rows.append(
            [
                Cell(name.replace(":", " × ")),
                number_cell(whole(line.get("df1")), line.get("df1")),
                number_cell(whole(line.get("df2")), line.get("df2")),
                number_cell(number(line.get("F")), line.get("F")),
                p_cell(line.get("p_unc"), line.get("log10_p_unc")),
                number_cell(bounded(line.get("eps_GG")), line.get("eps_GG")),
                p_cell(line.get("p_GG"), line.get("log10_p_GG")),
                _share_cell(line.get("generalized_eta2", line.get("ges"))),
                _share_cell(line.get("partial_eta2", line.get("pes"))),
            ]
        )
    scale = " on the log scale (primary, as declared)" if log_leads(tree) else ""
    caption = f"{measure.heading}: {analysis_words(tree)}{scale}"
    said = explained(tree, "log_scale" if log_leads(tree) else "anova")
    notes = ("ε (GG): Greenhouse-Geisser; η²G, η²p: generalized and partial eta squared.", *said) if rows else ()
    return Table(f"{slug}-anova", caption, head, rows, notes)


def analysis_words(tree: Tree) -> str:
    """Name the analysis: `repeated-measures ANOVA`, or what is left of it when runs went level after level."""
    return "ANOVA by blocks (not repeated measures: see the warning)" if warning_of(tree) else "repeated-measures ANOVA"


def _share_cell(value: Any) -> Cell:
    return number_cell(bounded(value), value)


def p_cell(p: Any, log10_p: Any = None) -> Cell:
    """Make a cell of a p value with the exact value as tooltip."""
    return Cell(p_value(p, log10_p), p_exact(p, log10_p), "number")


def pairwise_table(slug: str, measure: Measure, tree: Tree, correction: str) -> Table:
    """Tabulate the pairwise comparisons.

    Args:
        slug: Anchor of the dependent variable.
        measure: The variable.
        tree: Its tree.
        correction: `analysis.correction` of the sweep.

    Returns:
        One row per pair: difference with interval, t, p raw and adjusted, standardised difference.
    """
    lines = pairs(tree)
    alpha, values = alpha_of(tree), list(lines.values())
    logs = log_leads(tree)
    # As wide as the p that leads is strict, so that table and sentence do not contradict each other.
    wide = correction == "bonferroni"
    ends = [_pair_interval(line, alpha, logs, "_bonferroni" if wide else "") for line in values]
    differences = {
        "ratio" if logs else "difference": [line.get("ratio" if logs else "mean_diff") for line in values],
        f"{_confidence(alpha)} CI low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }
    key, words = adjusted_key(correction)
    scale, scaled = common_scale(differences)
    columns = [
        text_column("pair", [pair_words(*name) for name in lines]),
        *scaled,
        ("t", [number_cell(number(line.get("t")), line.get("t")) for line in values]),
        ("df", [number_cell(whole(line.get("df")), line.get("df")) for line in values]),
        ("p", [p_cell(line.get("p_raw"), line.get("log10_p_raw")) for line in values]),
        (f"p ({words})", [p_cell(line.get(key)) for line in values]),
        ("dz", [number_cell(number(line.get("cohen_dz"), 3), line.get("cohen_dz")) for line in values]),
    ]
    unit = scale.unit("" if logs else measure.unit)
    caption = f"{measure.heading}: pairwise comparisons (paired t tests{' of logarithms' if logs else ''})"
    caption += f", {'ratios' if logs else 'differences'} in {unit}" if unit else ""
    what = "Ratios are first over second level" if logs else "Differences are first minus second level"
    kind = "simultaneous for all pairs (Bonferroni)" if wide else "of each pair by itself"
    notes = (
        (f"{what}. CI: {kind}. dz: Cohen's d of the paired differences.", *explained(tree, "pairwise")) if lines else ()
    )
    return assemble(f"{slug}-pairwise", caption, columns, notes)


def _pair_interval(line: Tree, alpha: float, logs: bool, suffix: str) -> tuple[float | None, float | None]:
    known = {key.removeprefix("ratio_"): ends for key, ends in line.items()} if logs else line
    return interval_of(known, alpha, suffix)


def adjusted_key(correction: str) -> tuple[str, str]:
    """Name the adjusted p value in the tree and on the page.

    Args:
        correction: `analysis.correction`.

    Returns:
        Key of the tree (`p_bonferroni`, `p_BH`) and words for the column's head.
    """
    from rayscale.analysis.adjust import ADJUSTMENTS

    words = {"none": "not adjusted", "bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli"}
    return ADJUSTMENTS[correction], words.get(correction, correction.capitalize())


def pair_words(factor: str, pair: str) -> str:
    """Write a pair for people: `12 500 vs 25 000`, or `tokens: 12 500 vs 25 000`."""
    words = " vs ".join(level_words(level) for level in pair.split("|"))
    return f"{factor}: {words}" if factor else words


def _confidence(alpha: float) -> str:
    return f"{100 * (1 - alpha):.10g}\u00a0%"


def f_test(line: Tree) -> str:
    """Write a test in APA style: `F(2, 8) = 123.4`.

    Args:
        line: A line of the tree with F, df1, df2.

    Returns:
        The test, or `F n/a`.
    """
    if as_number(line.get("F")) is None:
        return f"F {NA}"
    return f"F({whole(line.get('df1'))}, {whole(line.get('df2'))}) = {number(line.get('F'))}"


def bounded(value: Any) -> str:
    """Write a share between 0 and 1 in APA style: three decimals, no leading zero, `> .999` at the top."""
    known = as_number(value)
    if known is None:
        return NA
    if 0.9995 <= known < 1:
        return "> .999"
    return f"{known:.3f}" if known >= 1 else fixed(known, 3).replace("0.", ".", 1)
