"""Plain sentences about a result, true for a reader who is no statistician, with numbers as such readers see them."""

from __future__ import annotations

import math

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.distributions import t_two_sided
from rayscale.analysis.equivalence_ratio import ratio_sentence
from rayscale.analysis.jsonable import Tree, p_number
from rayscale.analysis.levels import interval_name, level_values
from rayscale.analysis.walk import is_clear, nested_order, section

FEW_SUBJECTS = 10
"""Subjects below which every result comes with a word of caution."""

CORRECTION_NAMES = {
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "hommel": "Hommel",
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
}
"""Names of the corrections as papers write them."""


def show(value: float | None, digits: int = 4) -> str:
    """Write a number with few digits; `n/a` for null."""
    return "n/a" if value is None else f"{value:.{digits}g}"


def show_p(p: float | None, log10_p: float | None = None) -> str:
    """Write a p value with its relation: `= 0.043`, `= 8.5e-133`, or from its logarithm `= 10^-20022`."""
    if p is None:
        return f"= 10^{log10_p:.1f}" if log10_p is not None else "= n/a"
    return f"= {p:.2g}" if p < 0.001 else f"= {p:.3f}"


def show_pair(tree: Tree, label: str) -> str:
    """Name a pair of levels in a line of numbers: `500K - 1M`, or `500K / 1M` where ratios lead."""
    return label.replace("|", " / " if on_log_scale(tree) else " - ")


def units(tree: Tree) -> str:
    """Name the subjects in plural: `repetitions`, or `subjects` where the column's name is no common noun."""
    return "repetitions" if tree["subject"] == "repetition" else "subjects"


def percent(alpha: float) -> str:
    """Write the confidence of an interval: `95%` for alpha = 0.05."""
    return f"{100 * (1 - alpha):g}%"


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
        tree: The tree of one measure, its check of the run order included if there is one.

    Returns:
        Sentences without statistical terms that need explaining: the headlines, then what pairing and n mean.
    """
    found = [*headline_sentences(tree), pairing_sentence(tree), _few(tree)]
    return [sentence for sentence in found if sentence]


def headline_sentences(tree: Tree) -> list[str]:
    """Say the findings themselves: effects, sizes, pairs, the mechanical part, and whether energy was estimated.

    Args:
        tree: The tree of one measure.

    Returns:
        Sentences, at most a handful per factor.
    """
    found = []
    if on_log_scale(tree):
        found.append(f"As declared, {tree['dv']} is compared on the log scale: by ratios instead of differences.")
    for factor, _, _, levels in main_effects(tree):
        found += [effect_sentence(tree, factor, primary_effect(tree, factor))]
        found += [descriptive_sentence(tree, factor, levels)]
        found += [pairs_sentence(tree, factor, primary_pairs(tree, factor)), _equivalence(tree, factor)]
        found.append(ratio_sentence(tree, factor))
    found += _interactions(tree)
    found.append(mechanical_sentence(tree))
    if tree["energy_estimated"]:
        found.append(f"The energy behind {tree['dv']} is estimated by a model, not measured by a sensor.")
    return [sentence for sentence in found if sentence]


def effect_sentence(tree: Tree, factor: str, effect: Tree) -> str:
    """Say whether a measure is shown to depend on a factor.

    Args:
        tree: The tree of one measure.
        factor: The factor.
        effect: Its line, with `F`, `p_GG` and `log10_p_GG`.

    Returns:
        A sentence; where the runs were executed level after level it names no cause.
    """
    dv, alpha = tree["dv"], tree["alpha"]
    if effect["F"] is None:
        return f"Whether {dv} depends on {factor} cannot be tested here (see the notes)."
    p = show_p(effect["p_GG"], effect["log10_p_GG"])
    if not is_clear(effect["p_GG"], alpha):
        return (
            f"No difference of {dv} between the levels of {factor} is shown (p {p}, limit {alpha:g}); "
            "this does not show that there is none."
        )
    text = (
        f"{dv} differs between the levels of {factor} by more than chance explains: if all levels were equal, "
        f"differences at least this clear would come up with probability p {p} (limit: {alpha:g})"
    )
    if nested_order(tree):
        return f"{text}; whether {factor} or a drift over time made the difference cannot be told (see the warning)."
    return f"{text}."


def descriptive_sentence(tree: Tree, factor: str, levels: Tree) -> str:
    """Say from where to where the mean goes; of levels that are names, which have no order, the two extremes.

    Args:
        tree: The tree of one measure.
        factor: The factor.
        levels: Its levels, each with a `mean`.

    Returns:
        A sentence; empty with fewer than two known means.
    """
    rows = [(label, row["mean"]) for label, row in levels.items() if row["mean"] is not None]
    if len(rows) < 2:
        return ""
    named = level_values([label for label, _ in rows]) is None
    if named:
        rows.sort(key=lambda row: row[1])
    (first, start), (last, end) = rows[0], rows[-1]
    change = f"{100 * (end / start - 1):+.3g}%" if start > 0 and end > 0 else ""
    if named:
        more = f"; {change}" if change else ""
        return (
            f"The mean of {tree['dv']} is lowest at {factor} {first} ({show(start)}) and highest at {last} "
            f"({show(end)}{more})."
        )
    more = f" ({change})" if change else ""
    return f"The mean of {tree['dv']} goes from {show(start)} at {factor} {first} to {show(end)} at {last}{more}."


def pairs_sentence(tree: Tree, factor: str, pairs: Tree) -> str:
    """Say which pairs of levels are shown to differ.

    Args:
        tree: The tree of one measure.
        factor: The factor.
        pairs: Pair -> its line, with `t` and the p values.

    Returns:
        A sentence; empty if no pair could be tested, or if the only pair is the effect itself.
    """
    tested = {label: row for label, row in pairs.items() if row["t"] is not None}
    if len(pairs) < 2 or not tested:
        return ""
    key = ADJUSTMENTS[tree["correction"]]
    clear = [label for label, row in tested.items() if is_clear(row[key], tree["alpha"])]
    how = "without correction" if key == "p_raw" else f"with {CORRECTION_NAMES[tree['correction']]} correction"
    if not clear:
        return f"Taken pair by pair ({how}), no two levels of {factor} are shown to differ."
    named = ", ".join(label.replace("|", " and ") for label in clear[:6])
    more = f", and {len(clear) - 6} more" if len(clear) > 6 else ""
    found = f"{len(clear)} of {len(pairs)} pairs of {factor} are shown to differ"
    return f"Taken pair by pair ({how}), {found}: {named}{more}."


def _equivalence(tree: Tree, factor: str) -> str:
    rows = section(tree, "equivalence", factor)
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


def pairing_sentence(tree: Tree) -> str:
    """Say what comparing within subjects bought.

    Args:
        tree: The tree of one measure.

    Returns:
        A sentence; empty where it is undefined.
    """
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
            "have been needed for the same precision (an estimate from these data)."
        )
    return (
        f"Pairing carried no information: trials of the same {subject} are not shown to be more alike than trials of "
        f"different ones ({numbers}), so this is in effect a comparison of independent trials."
    )


def _few(tree: Tree) -> str:
    n = tree.get("n_subjects") or 0
    if not 2 <= n < FEW_SUBJECTS:
        return ""
    return (
        f"This rests on {n} {units(tree)}: only large differences can be found with so few, and what is "
        "not shown may still be there."
    )


def _interactions(tree: Tree) -> list[str]:
    if len(tree["within"]) == 1:
        return []
    return [interaction_sentence(tree, name, primary_effect(tree, name)) for name in tree["anova"] if ":" in name]


def interaction_sentence(tree: Tree, name: str, effect: Tree) -> str:
    """Say whether the effect of one factor depends on the others.

    Args:
        tree: The tree of one measure.
        name: The interaction, e.g. `tokens:train.precision`.
        effect: Its line.

    Returns:
        A sentence; empty if it cannot be tested.
    """
    if effect["F"] is None:
        return ""
    clear = is_clear(effect["p_GG"], tree["alpha"])
    first, *others = name.split(":")
    text = f"The effect of {first} on {tree['dv']} {'depends' if clear else 'is not shown to depend'} on "
    return f"{text}{' and '.join(others)} (p {show_p(effect['p_GG'], effect['log10_p_GG'])})."


def mechanical_sentence(tree: Tree) -> str:
    """Warn of a change that follows from dividing by time or energy, and say whether there is more to it.

    Args:
        tree: The tree of one measure.

    Returns:
        A sentence or two; empty for measures without a mechanical part.
    """
    exponent = tree["mechanical_exponent"]
    if not exponent:
        return ""
    dv, law = tree["dv"], {-1.0: "1/tokens", 1.0: "tokens", 2.0: "tokens squared"}.get(exponent, f"tokens^{exponent:g}")
    change = "fall" if exponent < 0 else "rise"
    why = "it is divided by" if exponent < 0 else "it contains"
    text = f"Careful: a {change} of {dv} like {law} is mechanical, since {why} time or energy, which grow with tokens"
    slope = section(tree, "loglog_slope_per_subject", "tokens")
    ci = slope.get(interval_name(tree["alpha"])) or {"lo": None}
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
    interval = f"{percent(tree['alpha'])} interval {ci['lo']:.3f} to {ci['hi']:.3f}"
    return (
        f"{text}. Measured: like tokens^{slope['mean']:.3f} ({interval}) against the mechanical "
        f"tokens^{exponent:g}{tested}, {beyond}."
    )
