"""Equivalence as a ratio: are two levels shown to differ by less than, say, 5 %?

Two one-sided tests (`equivalence`) of ln(measure) within ± ln(margin): a ratio of geometric means between 1/margin and
margin. The natural question for measures that are ratios themselves, whose noise grows with their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayscale.analysis.equivalence import equivalence
from rayscale.analysis.jsonable import Tree, interval_tree, number, p_number
from rayscale.analysis.levels import interval_name, pair_label
from rayscale.analysis.pairwise import Pair
from rayscale.errors import InputError


def ratio_equivalence(pairs: Sequence[Pair], levels: Sequence[str], margin: float, alpha: float) -> Tree:
    """Test pairs of ln(measure) for a ratio near 1.

    Args:
        pairs: Pairs on the log scale.
        levels: Labels of the levels.
        margin: Largest ratio that counts as equal, > 1; its inverse is the smallest.
        alpha: Significance level.

    Returns:
        Pair -> `margin_ratio, ratio, p_lower, p_upper, p, ratio_<ci>` (confidence 1 - 2 alpha), `equivalent`.
    """
    tree: Tree = {}
    bound = math.log(margin)
    for pair in pairs:
        found = equivalence(pair.mean_diff, pair.sd_diff, pair.df + 1, -bound, bound, alpha)
        low, high = (math.exp(end) if end < 700 else math.inf for end in found.ci)
        tree[pair_label(levels[pair.lower], levels[pair.higher])] = {
            "margin_ratio": margin,
            "ratio": number(math.exp(pair.mean_diff)) if pair.mean_diff < 700 else None,
            "t_lower": number(found.t_lower),
            "t_upper": number(found.t_upper),
            "df": found.df,
            "p_lower": p_number(found.p_lower),
            "p_upper": p_number(found.p_upper),
            "p": p_number(found.p),
            f"ratio_{interval_name(2 * alpha)}": interval_tree((low, high)),
            "equivalent": None if math.isnan(found.p) else found.p < alpha,
        }
    return tree


def ratio_sentence(tree: Tree, factor: str) -> str:
    """Say which levels are shown to be equal within the declared ratio.

    Args:
        tree: The tree of one measure.
        factor: The factor.

    Returns:
        A sentence; empty where no such margin was declared.
    """
    rows = (tree.get("log_scale") or {}).get("equivalence") or {}
    rows = rows if len(tree["within"]) == 1 else rows.get(factor, {})
    if not rows:
        return ""
    margin = next(iter(rows.values()))["margin_ratio"]
    within = (
        f"within the declared ratio of {margin:g} (between {100 / margin:.3g}% and {100 * margin:.4g}% of each other)"
    )
    alike = [
        f"{label.replace('|', ' and ')} (p {'= ' + format(row['p'], '.2g') if row['p'] else '< 1e-300'})"
        for label, row in rows.items()
        if row["equivalent"]
    ]
    if alike:
        return f"Shown to be equal {within}: {', '.join(alike)}."
    return f"No two levels of {factor} are shown to be equal {within}; this does not show that they differ."


def parse_margin(text: str) -> tuple[float | None, float | None]:
    """Read an equivalence margin from the command line.

    Args:
        text: `0.05` in units of the measure, or `x1.05` as a ratio.

    Returns:
        Margin in units of the measure, and as a ratio; one of them is None.

    Raises:
        InputError: If it is neither.
    """
    ratio = text.strip().startswith("x")
    try:
        value = float(text.strip().removeprefix("x"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= (1 if ratio else 0):
        raise InputError(f"--margin {text}: expected a margin > 0 like 0.05, or a ratio > 1 like x1.05")
    return (None, value) if ratio else (value, None)
