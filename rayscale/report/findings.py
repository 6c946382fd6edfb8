"""What the analysis found, per dependent variable: a sentence, the statistics of each effect, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayscale.report.cells import Table
from rayscale.report.gather import ReportData
from rayscale.report.measures import Measure
from rayscale.report.numerals import as_number, p_exact, p_phrase, p_value
from rayscale.report.stat_tables import anova_table, bounded, descriptives_table, f_test, pairwise_table
from rayscale.report.tree import Tree, effects
from rayscale.report.words import design_of, details_of, notes_of, sentences_of, warning_of

if TYPE_CHECKING:
    from rayscale.analysis.details import Detail


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
        p: `p < .001`, with Greenhouse-Geisser correction where there is one.
        p_title: The p value in full.
        statistics: Effect sizes, epsilon and the uncorrected p.
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
        warning: What forbids to read the results as they stand; empty if nothing does.
        sentences: The findings in plain words, true for a reader who is no statistician.
        design: In plain words too: what pairing, order of runs, devices and missing cells mean for them.
        effects: One test per effect.
        tables: Descriptives, ANOVA, pairwise comparisons.
        notes: What could not be computed or was left out, and why.
        assumptions: What the looks at residuals and sphericity imply.
        details: Further tests and intervals, each with a plain sentence.
    """

    slug: str
    measure: Measure
    warning: str
    sentences: list[str]
    design: list[str]
    effects: list[Effect]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)


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
        warning=warning_of(tree),
        sentences=sentences_of(tree),
        design=design_of(tree),
        effects=[_effect(effect, line) for effect, line in effects(tree).items()],
        tables=[table for table in tables if table.rows],
        notes=notes_of(tree),
        assumptions=[str(sentence) for sentence in tree.get("assumptions") or []],
        details=details_of(tree),
    )


def _effect(name: str, line: Tree) -> Effect:
    """The p that leads is the corrected one: the sentences judge by it, and the two may fall on different sides."""
    raw = (line.get("p_unc"), line.get("log10_p_unc"))
    corrected = (line.get("p_GG"), line.get("log10_p_GG"))
    # With one degree of freedom sphericity always holds, and the correction changes nothing.
    spherical = line.get("df1") == 1
    sphericity = [_share("ε (GG)", line.get("eps_GG")), Statistic("p uncorrected", p_value(*raw), p_exact(*raw))]
    statistics = [
        _share("η²G", line.get("generalized_eta2", line.get("ges"))),
        _share("η²p", line.get("partial_eta2", line.get("pes"))),
        *([] if spherical else sphericity),
    ]
    if as_number(line.get("F")) is None:
        return Effect(name.replace(":", " × "), "not tested", "", "", [])
    leading = corrected if line.get("p_GG") is not None or line.get("log10_p_GG") is not None else raw
    return Effect(name.replace(":", " × "), f_test(line), p_phrase(*leading), p_exact(*leading), statistics)


def _share(symbol: str, value: Any) -> Statistic:
    known = as_number(value)
    return Statistic(symbol, bounded(known), "" if known is None else f"{known:.15g}")


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
