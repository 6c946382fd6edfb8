"""What the analysis says in words about one dependent variable: findings, design, warnings, further results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rayscale.report.gather import ReportData
from rayscale.report.tree import Tree

if TYPE_CHECKING:
    from rayscale.analysis.details import Detail

DRIFT = re.compile(r"\bdrifts? (of .* )?with the order of the runs")


def warning_of(tree: Tree) -> str:
    """Return the loud warning of a sweep that was run level after level.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        The sentence; empty for any other order.
    """
    from rayscale.analysis.walk import nested_order

    return str(tree["run_order"]["sentence"]) if nested_order(dict(tree)) else ""


def sentences_of(tree: Tree) -> list[str]:
    """Return what was found, in plain words.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        The headlines among its sentences, in their order.
    """
    from rayscale.analysis.sentences import headline_sentences

    headlines = set(headline_sentences(dict(tree)))
    return [str(sentence) for sentence in tree.get("plain") or [] if sentence in headlines]


def order_of(data: ReportData) -> list[str]:
    """Say in plain words what the order of the runs means, and whether anything drifts.

    Args:
        data: The sweep.

    Returns:
        Sentences of all measures, each once.
    """
    trees = data.results.values()
    orders = [tree["run_order"]["sentence"] for tree in trees if tree.get("run_order")]
    drifts = [sentence for tree in trees for sentence in design_of(tree) if DRIFT.search(sentence)]
    return list(dict.fromkeys(str(sentence) for sentence in [*orders, *drifts]))


def design_of(tree: Tree) -> list[str]:
    """Return what design, order of runs, devices and missing cells mean for the findings, in plain words.

    Args:
        tree: Tree of one dependent variable.

    Returns:
        Its sentences that are no headlines, the loud warning aside.
    """
    known = {*sentences_of(tree), warning_of(tree)}
    return [str(sentence) for sentence in tree.get("plain") or [] if sentence not in known]


def explained(tree: Tree, section: str) -> tuple[str, ...]:
    """Return the plain sentences about a part of the tree, for below its table.

    Args:
        tree: Tree of one dependent variable.
        section: The part, e.g. `pairwise`.

    Returns:
        One sentence per factor or effect; none if the part is not explained.
    """
    said = (tree.get("explained") or {}).get(section) or ()
    found = tuple(said.values()) if isinstance(said, dict) else (said,) if said else ()
    return tuple(f"In plain words: {sentence}" for sentence in found)


def details_of(tree: Tree) -> list[Detail]:
    """Return further tests and intervals of one dependent variable, as the text output has them.

    Args:
        tree: Its tree.

    Returns:
        Each with its numbers and a plain sentence; empty where the measure could not be analysed.
    """
    from rayscale.analysis.details_models import details

    return [item for item in details(dict(tree)) if not item.secondary]


def methods_of(data: ReportData) -> str:
    """Write the methods paragraph.

    Args:
        data: The sweep.

    Returns:
        The paragraph; empty before anything could be analysed.
    """
    from rayscale.analysis.methods import methods_paragraph

    analysed = any(tree.get("assumptions") for tree in data.results.values())
    return methods_paragraph(dict(data.analysis)) if analysed else ""


def stopped_of(data: ReportData) -> list[str]:
    """Say what the stopping rule did, in plain words.

    Args:
        data: The sweep.

    Returns:
        Sentences; none without such a rule, or before its first look.
    """
    from rayscale.analysis.details_models import sequential_sentences

    part = data.analysis.get("sequential")
    return sequential_sentences(dict(part)) if part else []


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
