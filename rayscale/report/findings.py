"""What the analysis found, per dependent variable: a sentence, the statistics of each effect, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.report.cells import Cell, Table, assemble, number_cell, text_column
from rayscale.report.gather import ReportData
from rayscale.report.measures import Measure
from rayscale.report.numerals import NA, Scale, as_number, fixed, number, p_exact, p_phrase, p_value, whole
from rayscale.report.tree import Tree, alpha_of, cell_lines, effects, interval_of, log_leads, pairs


@dataclass(frozen=True)
class Statistic:
    """One number of a card: its symbol, its value in print, and its tooltip."""

    symbol: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Effect:
    """The test of one effect.

    Attributes:
        name: The factor or interaction.
        test: `F(2, 8) = 123.4`.
        p: `p < .001`.
        p_title: The p value in full.
        statistics: Epsilon and effect sizes.
    """

    name: str
    test: str
    p: str
    p_title: str
    statistics: list[Statistic]


@dataclass(frozen=True)
class Finding:
    """What was found about one dependent variable.

    Attributes:
        slug: Anchor.
        measure: The variable.
        sentences: Plain words, true for a reader who is no statistician.
        effects: One test per effect.
        tables: Descriptives, ANOVA, pairwise comparisons.
        notes: What could not be computed or was left out, and why.
        assumptions: What the looks at residuals and sphericity imply.
        details: Further tests and intervals, one line each.
    """

    slug: str
    measure: Measure
    sentences: list[str]
    effects: list[Effect]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


def findings(data: ReportData) -> list[Finding]:
    """Put the analysis into words and tables.

    Args:
        data: The sweep.

    Returns:
        One finding per dependent variable in declared order.
    """
    return [_finding(data, name, tree, index) for index, (name, tree) in enumerate(data.results.items(), 1)]


def _finding(data: ReportData, name: str, tree: Tree, index: int) -> Finding:
    measure = data.measure(name)
    slug = f"dv-{index}"
    tables = [descriptives_table(slug, measure, tree), anova_table(slug, measure, tree)]
    tables.append(pairwise_table(slug, measure, tree, data.spec.analysis.correction))
    return Finding(
        slug=slug,
        measure=measure,
        sentences=sentences_of(tree),
        effects=[_effect(effect, line) for effect, line in effects(tree).items()],
        tables=[table for table in tables if table.rows],
        notes=notes_of(tree),
        assumptions=[str(sentence) for sentence in tree.get("assumptions") or []],
        details=details_of(tree),
    )


def sentences_of(tree: Tree) -> list[str]:
    """Return what the analysis says in plain words on one dependent variable.

    Args:
        tree: Its tree.

    Returns:
        The sentences.
    """
    return [str(sentence) for sentence in tree.get("plain") or []]


def details_of(tree: Tree) -> list[str]:
    """Return further tests and intervals of one dependent variable, as the text output has them.

    Args:
        tree: Its tree.

    Returns:
        One line each; empty where the measure could not be analysed.
    """
    from rayscale.analysis.text_details import detail_lines

    return detail_lines(dict(tree)) if tree.get("assumptions") else []


def methods_of(data: ReportData) -> str:
    """Write the methods paragraph.

    Args:
        data: The sweep.

    Returns:
        The paragraph; empty before anything could be analysed.
    """
    from rayscale.analysis.methods import methods_paragraph

    analysed = any(tree.get("assumptions") for tree in data.results.values())
    return methods_paragraph(dict(data.analysis), data.spec) if analysed else ""


def notes_of(tree: Tree) -> list[str]:
    """Return the notes of a tree as sentences.

    Args:
        tree: Tree of one dependent variable; `notes` is a list of sentences or maps a name to one.

    Returns:
        The sentences.
    """
    notes = tree.get("notes") or []
    if isinstance(notes, dict):
        return [f"{name}: {text}" for name, text in notes.items()]
    return [str(note) for note in ([notes] if isinstance(notes, str) else notes)]


def _effect(name: str, line: Tree) -> Effect:
    logarithm = line.get("log10_p_unc")
    corrected = (line.get("p_GG"), line.get("log10_p_GG"))
    statistics = [
        Statistic("p (GG)", p_value(*corrected), p_exact(*corrected)),
        _share("ε (GG)", line.get("eps_GG")),
        _share("η²G", line.get("generalized_eta2", line.get("ges"))),
        _share("η²p", line.get("partial_eta2", line.get("pes"))),
    ]
    return Effect(
        name, f_test(line), p_phrase(line.get("p_unc"), logarithm), p_exact(line.get("p_unc"), logarithm), statistics
    )


def _share(symbol: str, value: Any) -> Statistic:
    known = as_number(value)
    return Statistic(symbol, bounded(known), "" if known is None else f"{known:.15g}")


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
        ("CI: t interval of the level's mean, from the spread between repetitions at this level.",),
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
                Cell(name),
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
    caption = f"{measure.heading}: repeated-measures ANOVA{scale}"
    notes = ("ε (GG): Greenhouse-Geisser; η²G, η²p: generalized and partial eta squared.",) if rows else ()
    return Table(f"{slug}-anova", caption, head, rows, notes)


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
    ends = [_pair_interval(line, alpha, logs) for line in values]
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
    notes = (f"{what}. dz: Cohen's d of the paired differences.",) if lines else ()
    return assemble(f"{slug}-pairwise", caption, columns, notes)


def _pair_interval(line: Tree, alpha: float, logs: bool) -> tuple[float | None, float | None]:
    return interval_of({key.removeprefix("ratio_"): ends for key, ends in line.items()} if logs else line, alpha)


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


def notes_of_all(items: Sequence[Finding]) -> list[tuple[str, list[str]]]:
    """Gather notes by dependent variable for the section on limits.

    Args:
        items: The findings.

    Returns:
        Title and sentences, of those that have any; what holds for all measures stands once, before the others.
    """
    shared = [note for note in items[0].notes if all(note in item.notes for item in items)] if len(items) > 1 else []
    own = [(item.measure.heading, [note for note in item.notes if note not in shared]) for item in items]
    return [(title, notes) for title, notes in [("All measures", shared), *own] if notes]
