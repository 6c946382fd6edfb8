"""Ways through the tree of one measure, whether it has one factor or several; and what its order of runs forbids."""

from __future__ import annotations

from collections.abc import Iterator

from rayscale.analysis.jsonable import Tree


def effect_lines(tree: Tree, anova: Tree) -> Iterator[tuple[str, Tree]]:
    """Walk an ANOVA part effect by effect, whether it is one-way or factorial.

    Args:
        tree: The tree of one measure.
        anova: Its `anova`, or one of the same shape.

    Yields:
        Name and line of each effect.
    """
    if len(tree["within"]) == 1:
        yield tree["within"][0], anova
        return
    yield from ((name, line) for name, line in anova.items() if isinstance(line, dict))


def section(tree: Tree, name: str, factor: str) -> Tree:
    """Take a factor's part of a section.

    Args:
        tree: The tree of one measure.
        name: The section.
        factor: The factor.

    Returns:
        Its content, empty if it is not there.
    """
    return parts(tree, name).get(factor) or {}


def parts(tree: Tree, name: str) -> dict[str, Tree]:
    """Take a section apart by factor or effect.

    Args:
        tree: The tree of one measure.
        name: The section.

    Returns:
        Factor (or interaction) -> its content; empty if the section is not there.
    """
    found = tree.get(name) or {}
    if len(tree["within"]) == 1:
        return {tree["within"][0]: found} if found else {}
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def is_clear(p: float | None, alpha: float) -> bool:
    """Say whether the p of a defined test is below the limit; one too small for a double is null in the tree.

    Args:
        p: The p value; None means underflow, since the caller knows that the test is defined.
        alpha: The limit.

    Returns:
        True if it is.
    """
    return p is None or p < alpha


def nested_order(tree: Tree) -> bool:
    """Say whether the runs were executed level after level: then nothing may be called repeated measures.

    Args:
        tree: The tree of one measure.

    Returns:
        True if its check of the run order carries the loud warning.
    """
    return bool((tree.get("run_order") or {}).get("warning"))


def any_nested_order(tree: Tree) -> bool:
    """Say the same of a whole analysis.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        True if any of its measures carries the warning.
    """
    return any(nested_order(measure) for measure in measures_of(tree))


def measures_of(tree: Tree) -> list[Tree]:
    """List the trees of the measures of an analysis.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        One tree per measure.
    """
    return list(tree["results"].values()) if "results" in tree else [tree]
