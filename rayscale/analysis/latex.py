r"""The tree for a paper: booktabs tables and a sentence per effect in the style of the APA manual.

The text needs `\usepackage{booktabs}` and nothing else; numbers are set in math mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sentences import main_effects, on_log_scale, primary_effect, primary_pairs
from rayscale.analysis.text_details import TREND_NAMES, effect_lines, section

_ESCAPES = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
}


def to_latex(tree: Tree) -> str:
    """Write the tables of an analysis.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        LaTeX per measure: descriptives, ANOVA, pairs as `table` environments, then APA-style sentences.
    """
    measures = tree["results"].values() if "results" in tree else [tree]
    return "\n".join(part for measure in measures for part in _measure(measure)) + "\n"


def apa_sentences(tree: Tree) -> list[str]:
    """Write each effect as the APA manual asks: F, corrected df, p, effect sizes with interval.

    Args:
        tree: The tree of one measure.

    Returns:
        One LaTeX sentence per effect, on the scale declared as primary.
    """
    sizes = dict(effect_lines(tree, tree.get("effect_size") or {}))
    return [
        _apa(tree, name, primary_effect(tree, name), sizes.get(name, {}))
        for name, _ in effect_lines(tree, tree["anova"])
    ]


def escape(text: str) -> str:
    """Make text safe for LaTeX.

    Args:
        text: Any text.

    Returns:
        The text with all special characters escaped.
    """
    return "".join(_ESCAPES.get(char, char) for char in text)


def math_number(value: float | None, digits: int = 4) -> str:
    r"""Set a number in math mode.

    Args:
        value: The number; None is shown as a dash.
        digits: Significant digits.

    Returns:
        E.g. `$1.23$` or `$4.5 \times 10^{-7}$`.
    """
    if value is None:
        return "---"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$" if exponent else f"${mantissa}$"


def math_p(p: float | None, log10_p: float | None) -> str:
    """Set a p value in math mode.

    Args:
        p: The p value; None where it underflowed or is undefined.
        log10_p: Its decimal logarithm.

    Returns:
        E.g. `$0.043$`; from the logarithm where p underflowed; a dash where both are None.
    """
    if p is not None:
        return f"${p:.3f}$" if p >= 0.001 else math_number(p, 2)
    if log10_p is None:
        return "---"
    whole = math.floor(log10_p)
    return f"${10 ** (log10_p - whole):.1f} \\times 10^{{{whole}}}$"


def _measure(tree: Tree) -> list[str]:
    parts: list[str | None] = [f"% {tree['dv']}"]
    for factor, _, _, levels in main_effects(tree):
        parts += [_descriptives(tree, factor, levels), _pairs(tree, factor), _further(tree, factor)]
    parts.append(_anova(tree))
    return [part for part in [*parts, *apa_sentences(tree), ""] if part is not None]


def _table(caption: str, label: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(row) + r" \\" for row in rows]
    key = "".join(char if char.isalnum() else "-" for char in label)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{key}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _descriptives(tree: Tree, factor: str, levels: Tree) -> str:
    ci = interval_name(tree["alpha"])
    rows = [
        [escape(label), f"${row['n']}$", math_number(row["mean"], 5), math_number(row["sd"]), _interval(row[ci])]
        for label, row in levels.items()
    ]
    header = [escape(factor), "$n$", "$M$", "$SD$", _ci_header(tree)]
    unit = f" [{escape(tree['unit'])}]" if tree.get("unit") and tree["unit"] != "1" else ""
    caption = f"{escape(tree['dv'])}{unit} by {escape(factor)}."
    return _table(caption, f"{tree['dv']}-{factor}-levels", header, rows)


def _anova(tree: Tree) -> str:
    rows = []
    for name, _ in effect_lines(tree, tree["anova"]):
        row = primary_effect(tree, name)
        ges, pes = _shares(row)
        epsilon = math_number(row.get("eps_GG"), 3)
        rows.append(
            [
                escape(name),
                f"${row['df1']}, {row['df2']}$" if row.get("df1") else "---",
                math_number(row["F"], 6),
                math_p(row["p_unc"], row["log10_p_unc"]),
                epsilon,
                math_p(row["p_GG"], row["log10_p_GG"]),
                math_number(ges, 3),
                math_number(pes, 3),
            ]
        )
    scale = " (log scale)" if on_log_scale(tree) else ""
    header = ["Effect", "$df$", "$F$", "$p$", r"$\varepsilon_{GG}$", "$p_{GG}$", r"$\eta^2_G$", r"$\eta^2_p$"]
    caption = f"Repeated-measures analysis of variance of {escape(tree['dv'])}{scale}."
    return _table(caption, f"{tree['dv']}-anova", header, rows)


def _shares(row: Tree) -> tuple[float | None, float | None]:
    """Generalized and partial eta squared, whatever the scale calls them."""
    return row.get("generalized_eta2", row.get("ges")), row.get("partial_eta2", row.get("pes"))


def _pairs(tree: Tree, factor: str) -> str | None:
    pairs = primary_pairs(tree, factor)
    if not pairs:
        return None
    key, ci = ADJUSTMENTS[tree["correction"]], interval_name(tree["alpha"])
    logs, wide = on_log_scale(tree), "_bonferroni" if tree["correction"] == "bonferroni" else ""
    size = "ratio" if logs else "mean_diff"
    interval = f"ratio_{ci}{wide}" if logs else f"{ci}{wide}"
    raw = section(tree, "pairwise", factor)
    rows = [
        [
            escape(label.replace("|", " -- " if not logs else " / ")),
            math_number(row[size]),
            _interval(row[interval]),
            math_number(row["t"]),
            math_p(row[key], row["log10_p_raw"] if row["t"] is not None else None),
            math_number(row["cohen_dz"], 3),
            math_number(raw[label].get("bayes_factor_10"), 3) if not logs else "",
        ]
        for label, row in pairs.items()
    ]
    df = next(iter(pairs.values()))["df"]
    header = ["Pair", "Ratio" if logs else "Difference", _ci_header(tree), f"$t({df})$", "$p$", "$d_z$", "$BF_{10}$"]
    rows = [row[:-1] for row in rows] if logs else rows
    adjusted = "unadjusted" if key == "p_raw" else f"{tree['correction']}-adjusted"
    kind = f"{adjusted} $p$, {'simultaneous' if wide else 'individual'} intervals"
    caption = f"Pairs of {escape(factor)}, {escape(tree['dv'])}: {kind}."
    return _table(caption, f"{tree['dv']}-{factor}-pairs", header[:-1] if logs else header, rows)


def _further(tree: Tree, factor: str) -> str | None:
    """Ranks, permutation, trend, log-log slope and equivalence: one row per test."""
    rows = [*_rank_rows(tree, factor), *_trend_rows(tree, factor)]
    for label, row in section(tree, "equivalence", factor).items():
        name = f"Equivalence within {math_number(row['margin'])}: {escape(label.replace('|', ' -- '))}"
        if row["p"] is not None:
            # The one of the two tests with the larger p is the test of equivalence.
            t = row["t_lower"] if row["t_lower"] < -row["t_upper"] else row["t_upper"]
            rows.append([name, f"$t({row['df']})$", math_number(t), math_p(row["p"], None)])
    if not rows:
        return None
    caption = f"Further tests of {escape(factor)}, {escape(tree['dv'])} (raw scale)."
    return _table(caption, f"{tree['dv']}-{factor}-tests", ["Test", "Statistic", "Value", "$p$"], rows)


def _rank_rows(tree: Tree, factor: str) -> list[list[str]]:
    rows, ranks = [], section(tree, "friedman", factor)
    if ranks.get("chi2") is not None:
        name = f"Friedman, Kendall $W = {_bare(ranks['kendall_W'])}$"
        rows.append([name, f"$\\chi^2({ranks['df']})$", math_number(ranks["chi2"]), math_p(ranks["p"], None)])
    test = section(tree, "permutation", factor)
    if test:
        orders = f"{'all' if test['exact'] else 'random'} ${test['resamples']}$ orders"
        rows.append([f"Permutation within blocks ({orders})", "$F$", "", math_p(test["p"], None)])
    return rows


def _trend_rows(tree: Tree, factor: str) -> list[list[str]]:
    df = tree["n_subjects"] - 1
    rows = []
    if section(tree, "trend_scores", factor) == "levels":
        logs = section(tree, "trend_log2_scores", factor)
        for degree, row in (logs or section(tree, "trend_actual_scores", factor)).items():
            name = f"{TREND_NAMES.get(degree, degree).capitalize()} trend{' over the logarithm' if logs else ''}"
            rows.append([name, f"$F(1, {df})$", math_number(row["F_own"]), math_p(row["p_own"], None)])
    slope = section(tree, "loglog_slope_per_subject", factor)
    if slope:
        name = f"Log-log slope {math_number(slope['mean'])} against $0$"
        rows.append([name, f"$t({slope['df']})$", math_number(slope["t_vs_0"]), math_p(slope["p_vs_0"], None)])
    return rows


def _ci_header(tree: Tree) -> str:
    return f"{100 * (1 - tree['alpha']):g}\\% CI"


def _interval(bounds: Tree) -> str:
    if bounds["lo"] is None or bounds["hi"] is None:
        return "---"
    return f"[{math_number(bounds['lo'])}, {math_number(bounds['hi'])}]"


def _apa(tree: Tree, name: str, row: Tree, sizes: Tree) -> str:
    dv, effect = escape(tree["dv"]), escape(name.replace(":", " x ")).replace(" x ", r" $\times$ ")
    if row["F"] is None:
        return f"The effect of {effect} on {dv} could not be tested."
    clear = (row["p_GG"] if row["p_GG"] is not None else 0.0) < tree["alpha"]
    eps = row["eps_GG"]
    corrected = row["df1"] > 1
    df = f"{eps * row['df1']:.2f}, {eps * row['df2']:.2f}" if corrected else f"{row['df1']}, {row['df2']}"
    p = "p < .001" if row["p_GG"] is None or row["p_GG"] < 0.001 else f"p = {_bare(row['p_GG'])}"
    ges, pes = _shares(row)
    bounds = sizes.get(f"partial_eta2_{interval_name(tree['alpha'])}") if not on_log_scale(tree) else None
    interval = (
        f", {_ci_header(tree)} $[{_bare(bounds['lo'])}, {_bare(bounds['hi'])}]$" if bounds and bounds["hi"] else ""
    )
    how = f"with Greenhouse--Geisser correction ($\\varepsilon = {_bare(eps)}$) " if corrected else ""
    where = " on the log scale" if on_log_scale(tree) else ""
    verdict = "a significant effect" if clear else "no significant effect"
    sizes_text = f"$\\eta^2_G = {_bare(ges)}$, $\\eta^2_p = {_bare(pes)}$"
    return (
        f"A repeated-measures ANOVA {how}showed {verdict} of {effect} on {dv}{where}, "
        f"$F({df}) = {row['F']:.2f}$, ${p}$, {sizes_text}{interval}."
    )


def _bare(share: float | None) -> str:
    """A number that cannot exceed one, without its leading zero, as the APA manual asks."""
    if share is None:
        return r"\text{n/a}"
    text = f"{share:.3f}"
    return text.removeprefix("0") if share >= 0 else f"-{text.removeprefix('-0')}"
