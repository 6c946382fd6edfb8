"""APA-style sentences in LaTeX: statistic, degrees of freedom, p, effect size and interval of what the tables test."""

from __future__ import annotations

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.details import test_details
from rayscale.analysis.details_models import model_details, sequential_sentences
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.latex_parts import apa_p, bare, ci_header, escape, interval_key, math_number, share_interval
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sentences import CORRECTION_NAMES, on_log_scale, primary_effect
from rayscale.analysis.walk import effect_lines, is_clear, nested_order, section

NAMED_PAIRS = 6
"""Pairs that a sentence names; the table has all."""
TABLE_TESTS = ("friedman", "permutation", "trend_log2_scores", "trend_actual_scores", "equivalence")


def analysis_name(tree: Tree, *, long: bool = False) -> str:
    """Name the analysis; a sweep run level after level does not deserve the usual name.

    Args:
        tree: The tree of one measure.
        long: With `analysis of variance` in full.

    Returns:
        E.g. `Repeated-measures ANOVA`.
    """
    kind = "nalysis of variance" if long else "NOVA"
    if nested_order(tree):
        return f"A{kind} by blocks (runs executed level after level, see the warning)"
    return f"Repeated-measures {'a' if long else 'A'}{kind}"


def apa_sentences(tree: Tree) -> list[str]:
    """Write each effect as the APA manual asks: F, corrected df, p, effect sizes with interval.

    Args:
        tree: The tree of one measure.

    Returns:
        One LaTeX sentence per effect, on the scale declared as primary.
    """
    sizes = dict(effect_lines(tree, tree.get("effect_size") or {}))
    return [
        _effect(tree, name, primary_effect(tree, name), sizes.get(name, {}))
        for name, _ in effect_lines(tree, tree["anova"])
    ]


def shares(row: Tree) -> tuple[float | None, float | None]:
    """Take generalized and partial eta squared of a line, whatever its scale calls them."""
    return row.get("generalized_eta2", row.get("ges")), row.get("partial_eta2", row.get("pes"))


def _effect(tree: Tree, name: str, row: Tree, sizes: Tree) -> str:
    dv, effect = escape(tree["dv"]), escape(name.replace(":", " × "))
    if row["F"] is None:
        return f"The effect of {effect} on {dv} could not be tested."
    clear, eps, corrected = is_clear(row["p_GG"], tree["alpha"]), row["eps_GG"], row["df1"] > 1
    df = f"{eps * row['df1']:.2f}, {eps * row['df2']:.2f}" if corrected else f"{row['df1']}, {row['df2']}"
    ges, pes = shares(row)
    bounds = sizes.get(interval_key("partial_eta2", tree["alpha"])) if not on_log_scale(tree) else None
    how = f"with Greenhouse--Geisser correction ($\\varepsilon = {bare(eps)}$) " if corrected else ""
    where = " on the log scale" if on_log_scale(tree) else ""
    verdict = "a significant effect" if clear else "no significant effect"
    kind = "An ANOVA by blocks" if nested_order(tree) else "A repeated-measures ANOVA"
    cause = ", which in runs executed level after level may be a drift over time" if nested_order(tree) else ""
    return (
        f"{kind} {how}showed {verdict} of {effect} on {dv}{where}, $F({df}) = {_fixed(row['F'])}$, "
        f"${apa_p(row['p_GG'])}$, $\\eta^2_G = {bare(ges)}$, $\\eta^2_p = {bare(pes)}$"
        f"{share_interval(bounds, tree['alpha'])}{cause}."
    )


def _fixed(value: float | None) -> str:
    """A statistic with two decimals, for use in math mode; huge and tiny ones as powers of ten."""
    if value is None:
        return r"\mathrm{n/a}"
    return f"{value:.2f}" if 0.005 <= abs(value) < 1e7 or value == 0 else math_number(value, 3).strip("$")


def descriptive_sentences(tree: Tree, factor: str, levels: Tree) -> list[str]:
    """Write means and standard deviations.

    Args:
        tree: The tree of one measure.
        factor: The factor.
        levels: Its levels.

    Returns:
        One sentence; none if nothing is known.
    """
    known = [
        f"{escape(label)} ($M = {math_number(row['mean']).strip('$')}$, $SD = {math_number(row['sd'], 3).strip('$')}$)"
        for label, row in levels.items()
        if row["mean"] is not None and row["sd"] is not None
    ]
    if not known:
        return []
    return [f"{escape(tree['dv'])} by level of {escape(factor)}: {', '.join(known)}."]


def pair_sentences(tree: Tree, factor: str, pairs: Tree) -> list[str]:
    """Write the paired t tests.

    Args:
        tree: The tree of one measure.
        factor: The factor.
        pairs: Pair -> its line.

    Returns:
        One sentence; none if no pair could be tested.
    """
    key, ci = ADJUSTMENTS[tree["correction"]], interval_name(tree["alpha"])
    tested = {label: row for label, row in pairs.items() if row["t"] is not None}
    if not tested:
        return []
    raw = {} if on_log_scale(tree) else section(tree, "pairwise", factor)
    named = []
    for label, row in list(tested.items())[:NAMED_PAIRS]:
        first, second = (escape(level) for level in label.split("|"))
        size = f"$d_z = {_fixed(row['cohen_dz'])}$"
        ends = (raw.get(label) or {}).get(f"cohen_dz_{ci}") or {}
        if ends.get("lo") is not None:
            size += f", {ci_header(tree['alpha'])} $[{_fixed(ends['lo'])}, {_fixed(ends['hi'])}]$"
        named.append(f"{first} and {second}, $t({row['df']}) = {_fixed(row['t'])}$, ${apa_p(row[key])}$, {size}")
    adjusted = "unadjusted" if key == "p_raw" else f"{CORRECTION_NAMES[tree['correction']]}-adjusted"
    more = f"; {len(tested) - NAMED_PAIRS} more in the table" if len(tested) > NAMED_PAIRS else ""
    logs = " of logarithms" if on_log_scale(tree) else ""
    kind = "by block " if nested_order(tree) else ""
    return [f"Paired $t$ tests{logs} {kind}({adjusted} $p$) of {escape(factor)}: {'; '.join(named)}{more}."]


def test_sentences(tree: Tree, factor: str) -> list[str]:
    """Write what the further tests mean, with the numbers that the table lacks.

    Args:
        tree: The tree of one measure.
        factor: The factor.

    Returns:
        One sentence per test.
    """
    found, ranks = [], section(tree, "friedman", factor)
    if ranks.get("chi2") is not None:
        found.append(
            f"A Friedman test gave $\\chi^2({ranks['df']}, N = {tree['n_subjects']}) = {_fixed(ranks['chi2'])}$, "
            f"${apa_p(ranks['p'])}$, $W = {bare(ranks['kendall_W'])}$."
        )
    slope = section(tree, "loglog_slope_per_subject", factor)
    ci = slope.get(interval_name(tree["alpha"])) or {}
    if ci.get("lo") is not None:
        found.append(
            f"The log-log slope over {escape(factor)} was $b = {_fixed(slope['mean'])}$, {ci_header(tree['alpha'])} "
            f"$[{_fixed(ci['lo'])}, {_fixed(ci['hi'])}]$."
        )
    explained = [item for item in test_details(tree) if item.factor == factor and item.section in TABLE_TESTS]
    return [*found, *(escape(item.plain) for item in explained if not item.secondary)]


def model_sentences(tree: Tree) -> list[str]:
    """Write what the mixed models say.

    Args:
        tree: The tree of one measure.

    Returns:
        One sentence per model.
    """
    return [escape(item.plain) for item in model_details(tree)]


def sequential_apa(part: Tree) -> str:
    """Write what the stopping rule did.

    Args:
        part: The `sequential` part of an analysis.

    Returns:
        Sentences on one line.
    """
    return " ".join(escape(sentence) for sentence in sequential_sentences(part))
