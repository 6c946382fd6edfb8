"""Plain sentences about a result, true for a reader who is no statistician, with numbers as such readers see them."""

from __future__ import annotations

import math

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.distributions import t_two_sided
from rayscale.analysis.jsonable import Tree, p_number
from rayscale.analysis.levels import interval_name


def show(value: float | None, digits: int = 4) -> str:
    """Write a number with few digits; `n/a` for null."""
    return "n/a" if value is None else f"{value:.{digits}g}"


def show_p(p: float | None, log10_p: float | None = None) -> str:
    """Write a p value with its relation: `= 0.043`, `= 8.5e-133`, or from its logarithm `= 10^-20022`."""
    if p is None:
        return f"= 10^{log10_p:.1f}" if log10_p is not None else "= n/a"
    return f"= {p:.2g}" if p < 0.001 else f"= {p:.3f}"


def main_effects(tree: Tree) -> list[tuple[str, Tree, Tree, Tree]]:
    """Take a tree apart by factor.

    Args:
        tree: The tree of one measure.

    Returns:
        (factor, its ANOVA line, its pairs, its descriptives) per factor.
    """
    if len(tree["within"]) == 1:
        return [(tree["within"][0], tree["anova"], tree["pairwise"], tree["descriptives"])]
    return [
        (name, tree["anova"][name], tree["pairwise"].get(name, {}), tree["descriptives"].get(name, {}))
        for name in tree["within"]
    ]


def primary_effect(tree: Tree, factor: str) -> Tree:
    """Take the ANOVA line of a factor or interaction on the scale that was declared as primary.

    Args:
        tree: The tree of one measure.
        factor: The effect.

    Returns:
        A line with `F`, `df1`, `df2`, `p_unc`, `p_GG`, `eps_GG` and their logarithms.
    """
    anova = tree["log_scale"]["anova"] if on_log_scale(tree) else tree["anova"]
    return anova if len(tree["within"]) == 1 else anova[factor]


def primary_pairs(tree: Tree, factor: str) -> Tree:
    """Take the pairs of a factor on the scale that was declared as primary.

    Args:
        tree: The tree of one measure.
        factor: The factor.

    Returns:
        Pair -> its line with `t` and the p values.
    """
    pairs = tree["log_scale"]["pairwise"] if on_log_scale(tree) else tree["pairwise"]
    return pairs if len(tree["within"]) == 1 else pairs.get(factor, {})


def on_log_scale(tree: Tree) -> bool:
    """Say whether the log scale is the primary one.

    Args:
        tree: The tree of one measure.

    Returns:
        True if it was declared and could be computed.
    """
    return tree.get("scale") == "log" and bool(tree.get("log_scale"))


def plain_sentences(tree: Tree) -> list[str]:
    """Say what was found.

    Args:
        tree: The tree of one measure.

    Returns:
        Sentences without statistical terms that need explaining.
    """
    found = []
    if on_log_scale(tree):
        found.append(f"As declared, {tree['dv']} is compared on the log scale: by ratios instead of differences.")
    for factor, _, _, levels in main_effects(tree):
        found += [_effect(tree, factor, primary_effect(tree, factor)), _range(tree, factor, levels)]
        found += [_pairs(tree, factor, primary_pairs(tree, factor)), _equivalence(tree, factor)]
    found += _interactions(tree)
    found += [_mechanical(tree), _pairing(tree)]
    if tree["energy_estimated"]:
        found.append(f"The energy behind {tree['dv']} is estimated by a model, not measured by a sensor.")
    return [sentence for sentence in found if sentence]


def _effect(tree: Tree, factor: str, effect: Tree) -> str:
    dv, alpha = tree["dv"], tree["alpha"]
    if effect["F"] is None:
        return f"Whether {dv} depends on {factor} cannot be tested here (see the notes)."
    p, log_p = effect["p_GG"], effect["log10_p_GG"]
    if (p if p is not None else 0.0) < alpha:
        return (
            f"{dv} differs between the levels of {factor} by more than chance explains: if all levels were equal, "
            f"differences at least this clear would come up with probability p {show_p(p, log_p)} (limit: {alpha:g})."
        )
    return (
        f"No difference of {dv} between the levels of {factor} is shown (p {show_p(p, log_p)}, limit {alpha:g}); "
        "this does not show that there is none."
    )


def _range(tree: Tree, factor: str, levels: Tree) -> str:
    rows = [(label, row["mean"]) for label, row in levels.items() if row["mean"] is not None]
    if len(rows) < 2:
        return ""
    (first, start), (last, end) = rows[0], rows[-1]
    percent = f" ({100 * (end / start - 1):+.3g}%)" if start > 0 and end > 0 else ""
    return f"The mean of {tree['dv']} goes from {show(start)} at {factor} {first} to {show(end)} at {last}{percent}."


def _pairs(tree: Tree, factor: str, pairs: Tree) -> str:
    if len(pairs) < 2:
        return ""
    key, alpha = ADJUSTMENTS[tree["correction"]], tree["alpha"]
    tested = {label: row for label, row in pairs.items() if row["t"] is not None}
    clear = [label for label, row in tested.items() if (row[key] if row[key] is not None else 0.0) < alpha]
    how = "without correction" if key == "p_raw" else f"after {tree['correction']} correction"
    if not tested:
        return ""
    if not clear:
        return f"Taken pair by pair ({how}), no two levels of {factor} are shown to differ."
    named = ", ".join(label.replace("|", " and ") for label in clear[:6])
    more = f", and {len(clear) - 6} more" if len(clear) > 6 else ""
    return f"Taken pair by pair ({how}), {len(clear)} of {len(pairs)} pairs of {factor} differ: {named}{more}."


def _equivalence(tree: Tree, factor: str) -> str:
    rows = tree.get("equivalence")
    rows = rows.get(factor) if rows and len(tree["within"]) > 1 else rows
    if not rows:
        return ""
    margin = show(next(iter(rows.values()))["margin"])
    alike = [label.replace("|", " and ") for label, row in rows.items() if row["equivalent"]]
    if not alike:
        return (
            f"No two levels of {factor} are shown to be equal within the declared margin of {margin}; "
            "this does not show that they differ."
        )
    return f"Shown to be equal within the declared margin of {margin}: {', '.join(alike)}."


def _pairing(tree: Tree) -> str:
    design = tree.get("design") or {}
    informative, subject = design.get("pairing_informative"), tree["subject"]
    if design.get("F_subject") is None:
        return ""
    numbers = (
        f"F for {subject} = {show(design['F_subject'], 3)}, p {show_p(design['p_subject'])}, "
        f"ICC = {show(design['icc_consistency'], 2)}"
    )
    if informative is None:
        return f"Whether trials of the same {subject} are more alike than others cannot be told here ({numbers})."
    if informative:
        gain = design["relative_efficiency_rcbd_vs_crd"]
        return (
            f"Comparing within the same {subject} paid: without it about {show(gain, 3)} times as many trials would "
            "have been needed for the same precision."
        )
    return (
        f"Pairing carried no information: trials of the same {subject} are not shown to be more alike than trials of "
        f"different ones ({numbers}), so this is in effect a comparison of independent trials."
    )


def _interactions(tree: Tree) -> list[str]:
    if len(tree["within"]) == 1:
        return []
    found = []
    for name in tree["anova"]:
        if ":" not in name:
            continue
        effect = primary_effect(tree, name)
        if effect["F"] is None:
            continue
        p = effect["p_GG"]
        clear = (p if p is not None else 0.0) < tree["alpha"]
        verdict = "depends" if clear else "is not shown to depend"
        first, *others = name.split(":")
        text = f"The effect of {first} on {tree['dv']} {verdict} on {' and '.join(others)}"
        found.append(f"{text} (p {show_p(p, effect['log10_p_GG'])}).")
    return found


def _mechanical(tree: Tree) -> str:
    exponent = tree["mechanical_exponent"]
    if not exponent:
        return ""
    dv, law = tree["dv"], {-1.0: "1/tokens", 1.0: "tokens", 2.0: "tokens squared"}.get(exponent, f"tokens^{exponent:g}")
    change = "fall" if exponent < 0 else "rise"
    why = "it is divided by" if exponent < 0 else "it contains"
    text = f"Careful: a {change} of {dv} like {law} is mechanical, since {why} time or energy, which grow with tokens"
    slope = tree.get("loglog_slope_per_subject", {})
    slope = slope.get("tokens") if len(tree["within"]) > 1 else slope
    if not slope:
        return f"{text}; it alone says nothing about learning."
    ci = slope[interval_name(tree["alpha"])]
    if ci["lo"] is None:
        return f"{text}; it alone says nothing about learning."
    inside = ci["lo"] <= exponent <= ci["hi"]
    beyond = (
        "so nothing beyond the mechanical part is shown"
        if inside
        else "so the change differs from the purely mechanical one"
    )
    t = (slope["mean"] - exponent) / slope["se"] if slope["se"] else math.nan
    tested = f", p {show_p(p_number(t_two_sided(t, slope['df'])))}" if math.isfinite(t) else ""
    return (
        f"{text}. Measured: like tokens^{slope['mean']:.3f} (interval {ci['lo']:.3f} to {ci['hi']:.3f}) against the "
        f"mechanical tokens^{exponent:g}{tested}, {beyond}."
    )
