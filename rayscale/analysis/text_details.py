"""The second part of the text: what stands beside the ANOVA line and the pairs. Lines come unwrapped."""

from __future__ import annotations

from collections.abc import Iterator

from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sentences import on_log_scale, show, show_p

TREND_NAMES = {"deg1": "linear", "deg2": "quadratic", "deg3": "cubic"}


def detail_lines(tree: Tree) -> list[str]:
    """Write effect-size intervals, other tests, trends, equivalence and the bootstrap.

    Args:
        tree: The tree of one measure.

    Returns:
        One line per fact; nothing for what the tree lacks.
    """
    lines = [*_effect_sizes(tree), *_log_scale(tree)]
    for factor in tree["within"]:
        lines += _ranks(tree, factor)
        lines += _permutation(tree, factor)
        lines += _trend(tree, factor)
        lines += _equivalence(tree, factor)
        lines += _bootstrap(tree, factor)
    return lines


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
    found = tree.get(name) or {}
    return found if len(tree["within"]) == 1 else found.get(factor, {})


def _percent(alpha: float) -> str:
    return f"{100 * (1 - alpha):g}%"


def _effect_sizes(tree: Tree) -> list[str]:
    ci, lines = interval_name(tree["alpha"]), []
    for name, row in effect_lines(tree, tree.get("effect_size") or {}):
        bounds = row.get(f"partial_eta2_{ci}") or {"lo": None}
        if bounds["lo"] is not None:
            interval = f"{bounds['lo']:.3f} to {bounds['hi']:.3f}"
            lines.append(f"{name}: {_percent(tree['alpha'])} CI of partial eta2 = {interval}")
    return lines


def _log_scale(tree: Tree) -> list[str]:
    if not tree.get("log_scale"):
        return []
    role = "primary, as declared" if on_log_scale(tree) else "beside the raw scale, which is primary"
    return [
        f"{name} on the log scale ({role}): F({row['df1']}, {row['df2']}) = {show(row['F'], 6)}, "
        f"GG epsilon = {row['eps_GG']:.3f}, p(GG) {show_p(row['p_GG'], row['log10_p_GG'])}"
        for name, row in effect_lines(tree, tree["log_scale"]["anova"])
        if row["F"] is not None
    ]


def _ranks(tree: Tree, factor: str) -> list[str]:
    row = section(tree, "friedman", factor)
    if row.get("chi2") is None:
        return []
    test = f"chi2({row['df']}) = {show(row['chi2'])}, p {show_p(row['p'])}, Kendall W = {show(row['kendall_W'], 3)}"
    return [f"{factor} by ranks (Friedman): {test}"]


def _permutation(tree: Tree, factor: str) -> list[str]:
    row = section(tree, "permutation", factor)
    if not row:
        return []
    how = f"all {row['resamples']} orders" if row["exact"] else f"{row['resamples']} random orders"
    return [f"{factor} by permutation within blocks ({how}): p {show_p(row['p'])}"]


def _trend(tree: Tree, factor: str) -> list[str]:
    if section(tree, "trend_scores", factor) == "positions":
        return []
    scale = "log2 " if section(tree, "trend_log2_scores", factor) else ""
    degrees = section(tree, "trend_log2_scores", factor) or section(tree, "trend_actual_scores", factor)
    df = tree["n_subjects"] - 1
    tests = [
        f"{TREND_NAMES[degree]} F(1, {df}) = {show(row['F_own'])}, p {show_p(row['p_own'])}"
        for degree, row in degrees.items()
        if degree in TREND_NAMES and row["F_own"] is not None and len(degrees) > 1
    ]
    return [f"{factor}, trend over {scale}{factor}: {'; '.join(tests)}"] if tests else []


def _equivalence(tree: Tree, factor: str) -> list[str]:
    ci = interval_name(2 * tree["alpha"])
    return [
        f"{label.replace('|', ' - ')} within ±{show(row['margin'])} (TOST): p {show_p(row['p'])}, "
        f"{_percent(2 * tree['alpha'])} CI {show(row[ci]['lo'])} to {show(row[ci]['hi'])}"
        for label, row in section(tree, "equivalence", factor).items()
        if row["p"] is not None
    ]


def _bootstrap(tree: Tree, factor: str) -> list[str]:
    found, ci = section(tree, "bootstrap", factor), interval_name(tree["alpha"])
    intervals = [
        f"{label.replace('|', ' - ')}: {show(row[ci]['lo'])} to {show(row[ci]['hi'])}"
        for label, row in list(found.get("mean_diff", {}).items())[:6]
        if row[ci]["lo"] is not None
    ]
    if not intervals:
        return []
    return [f"{factor}, bootstrap {_percent(tree['alpha'])} CI of the difference (BCa, blocks): {'; '.join(intervals)}"]
