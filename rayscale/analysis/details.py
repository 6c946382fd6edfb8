"""Every result beside the tables, each with its numbers in one line and a plain sentence for who is no statistician.

A sentence says what was asked, what came out, and not more: a p above the limit is never "no effect", an interval is
about these conditions on this machine, and where the name repeated measures is not deserved nothing here uses it.
`explained` collects the sentences of all parts of the tree; a test walks the tree and finds none without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rayscale.analysis.equivalence_ratio import ratio_sentence
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sentences import on_log_scale, percent, show, show_p, show_pair, units
from rayscale.analysis.walk import effect_lines, is_clear, parts, section

TREND_NAMES = {"deg1": "linear", "deg2": "quadratic", "deg3": "cubic"}
TREND_SCALES = {
    "trend_log2_scores": "each doubling of {factor} taken as one step",
    "trend_actual_scores": "{factor} itself as the scale",
    "trend_equal_spacing": "the levels of {factor} taken as equally far apart",
}
STRONG_BAYES = 3.0
"""Ratio from which a Bayes factor is usually called more than anecdotal (Jeffreys)."""


@dataclass(frozen=True)
class Detail:
    """One result.

    Attributes:
        section: Its name in the tree, e.g. `friedman`; `bayes_factors` are a part of `pairwise`.
        factor: The factor or effect it is about; empty if it is about all of them.
        line: Its numbers, as papers print them; empty where a table shows them.
        plain: What they mean, in one plain sentence.
        secondary: Whether it is only another view of a result that is listed already; the tree has it all the same.
    """

    section: str
    factor: str
    line: str
    plain: str
    secondary: bool = False


def test_details(tree: Tree) -> list[Detail]:
    """Explain effect sizes, other tests, trends, equivalence and resampling.

    Args:
        tree: The tree of one measure.

    Returns:
        One entry per result that the tree has.
    """
    found = [*_effect_sizes(tree), *_multivariate(tree), *_log_scale(tree)]
    builders: tuple[tuple[str, Callable[[Tree, str, Tree], Detail | None]], ...] = (
        ("pairwise", _bayes),
        ("pairwise_pooled_error", _pooled),
        ("friedman", _friedman),
        ("page", _page),
        ("permutation", _permutation),
        *((name, _trend_builder(name)) for name in TREND_SCALES),
        ("loglog_slope_per_subject", _slope),
        ("equivalence", _equivalence),
        ("bootstrap", _bootstrap),
    )
    found += [item for factor in tree["within"] if (item := _ratio_equivalence(tree, factor))]
    for name, build in builders:
        found += [item for factor, part in parts(tree, name).items() if (item := build(tree, factor, part))]
    return found


# -- effects -----------------------------------------------------------------------------------------------------------


def _effect_sizes(tree: Tree) -> Iterator[Detail]:
    ci, anova = interval_name(tree["alpha"]), dict(effect_lines(tree, tree["anova"]))
    for name, row in effect_lines(tree, tree.get("effect_size") or {}):
        partial, whole = anova[name].get("partial_eta2"), anova[name].get("generalized_eta2")
        if partial is None:
            continue
        bounds = row.get(f"partial_eta2_{ci}") or {"lo": None}
        known = bounds["lo"] is not None
        interval = f"{bounds['lo']:.3f} to {bounds['hi']:.3f}" if known else "n/a"
        margin = (
            f" ({percent(tree['alpha'])} interval {_share(bounds['lo'])} to {_share(bounds['hi'])})" if known else ""
        )
        more = "" if whole is None else f"; counting also how the {units(tree)} differ, {_share(whole)}"
        yield Detail(
            "effect_size",
            name,
            f"{name}: {percent(tree['alpha'])} CI of partial eta2 = {interval}",
            f"Size of the effect in these data: of the scatter of {tree['dv']} within the {units(tree)} that this "
            f"test compares, {_share(partial)} goes with {name.replace(':', ' x ')}{margin}{more}.",
        )


def _multivariate(tree: Tree) -> Iterator[Detail]:
    row = tree.get("multivariate") or {}
    if row.get("hotelling_F") is None:
        return
    factor, p = tree["within"][0], row["hotelling_p"]
    test = f"T2 = {show(row['hotelling_T2'])}, F({row['hotelling_df1']}, {row['hotelling_df2']}) = "
    found = "also shows a difference" if is_clear(p, tree["alpha"]) else "does not show a difference"
    yield Detail(
        "multivariate",
        factor,
        f"{factor}, multivariate (Hotelling): {test}{show(row['hotelling_F'])}, p {show_p(p)}",
        f"A test that lets the differences between levels scatter unequally in any way (Hotelling) {found} "
        f"(p {show_p(p)}); with few {units(tree)} it misses more than the F test.",
    )


def _log_scale(tree: Tree) -> Iterator[Detail]:
    if not tree.get("log_scale"):
        return
    leads, raw = on_log_scale(tree), dict(effect_lines(tree, tree["anova"]))
    role = "primary, as declared" if leads else "beside the raw scale, which is primary"
    for name, row in effect_lines(tree, tree["log_scale"]["anova"]):
        if row["F"] is None:
            continue
        clear = is_clear(row["p_GG"], tree["alpha"])
        same = raw[name]["F"] is not None and clear == is_clear(raw[name]["p_GG"], tree["alpha"])
        beside = "differences (raw scale)"
        end = f"comparing {beside} leads to {'the same' if same else 'another'} conclusion"
        yield Detail(
            "log_scale",
            name,
            f"{name} on the log scale ({role}): F({row['df1']}, {row['df2']}) = {show(row['F'], 6)}, "
            f"GG epsilon = {row['eps_GG']:.3f}, p(GG) {show_p(row['p_GG'], row['log10_p_GG'])}",
            f"Compared by ratios (log scale), an effect of {name.replace(':', ' x ')} is {_shown(clear)}; {end}.",
        )


# -- pairs -------------------------------------------------------------------------------------------------------------


def _bayes(tree: Tree, factor: str, pairs: Tree) -> Detail | None:
    logs = {
        label: row["log10_bayes_factor_10"] for label, row in pairs.items() if row["log10_bayes_factor_10"] is not None
    }
    if not logs:
        return None
    edge = math.log10(STRONG_BAYES)
    differ = [label for label, value in logs.items() if value >= edge]
    alike = [label for label, value in logs.items() if value <= -edge]
    rest = [label for label in logs if label not in differ and label not in alike]
    says = [
        f"{words} for {_list(labels)}"
        for words, labels in (
            ("the data speak for a difference", differ),
            ("they speak for no difference", alike),
            ("they tell neither", rest),
        )
        if labels
    ]
    values = _joined(f"{show_pair(tree, label)}: {show_bayes(value)}" for label, value in logs.items())
    return Detail(
        "bayes_factors",
        factor,
        f"{factor}, Bayes factors BF10 of the pairs (raw scale): {values}",
        "Bayes factors weigh how well “the two levels differ” predicts the data against “they do not” (with a standard "
        f"prior; limits {STRONG_BAYES:g} and 1/{STRONG_BAYES:g}): {', '.join(says)}.",
    )


def show_bayes(log10_factor: float | None) -> str:
    """Write a Bayes factor from its decimal logarithm; as a power of ten where it is huge or tiny."""
    if log10_factor is None:
        return "n/a"
    return show(10**log10_factor, 3) if abs(log10_factor) < 5 else f"10^{log10_factor:.1f}"


def _pooled(tree: Tree, factor: str, pairs: Tree) -> Detail | None:
    tested = {label: row["p_tukey"] for label, row in pairs.items() if row["t"] is not None}
    if not tested:
        return None
    if len(pairs) < 2:
        said = (
            f"With two levels of {factor} there is one pair, and its p with a pooled error is that of the pair itself."
        )
        return Detail("pairwise_pooled_error", factor, "", said, secondary=True)
    clear = [label for label, p in tested.items() if is_clear(p, tree["alpha"])]
    values = _joined(f"{show_pair(tree, label)}: {show_p(p).removeprefix('= ')}" for label, p in tested.items())
    return Detail(
        "pairwise_pooled_error",
        factor,
        f"{factor}, p of the pairs with one pooled error (Tukey): {values}",
        f"With one error for all pairs (Tukey), {_count(clear, tested)} of {factor} are shown to differ; this holds "
        "only if all differences scatter alike (see the assumptions).",
    )


def _equivalence(tree: Tree, factor: str, pairs: Tree) -> Detail | None:
    ci, tested = interval_name(2 * tree["alpha"]), {k: row for k, row in pairs.items() if row.get("p") is not None}
    if not tested:
        return None
    margin = show(next(iter(tested.values()))["margin"])
    values = _joined(
        f"{show_pair(tree, label)}: p {show_p(row['p'])}, {show(row[ci]['lo'])} to {show(row[ci]['hi'])}"
        for label, row in tested.items()
    )
    alike = [label for label, row in tested.items() if row["equivalent"]]
    return Detail(
        "equivalence",
        factor,
        f"{factor}, pairs within ±{margin} (TOST, with {percent(2 * tree['alpha'])} CI): {values}",
        f"Within the declared margin of {margin}, {_count(alike, tested)} of {factor} are shown to be equal; "
        "of the others this shows neither that they are equal nor that they differ.",
    )


def _ratio_equivalence(tree: Tree, factor: str) -> Detail | None:
    said = ratio_sentence(tree, factor)
    if not said:
        return None
    logs = {"within": tree["within"], "equivalence": tree["log_scale"]["equivalence"]}
    ci, rows = interval_name(2 * tree["alpha"]), section(logs, "equivalence", factor)
    values = _joined(
        f"{label.replace('|', ' / ')}: {show(row['ratio'])}, {percent(2 * tree['alpha'])} CI "
        f"{show(row[f'ratio_{ci}']['lo'])} to {show(row[f'ratio_{ci}']['hi'])}, p {show_p(row['p'])}"
        for label, row in rows.items()
    )
    return Detail("log_scale", factor, f"{factor}, ratios of the pairs tested for equivalence (TOST): {values}", said)


def _bootstrap(tree: Tree, factor: str, found: Tree) -> Detail | None:
    ci = interval_name(tree["alpha"])
    rows = {k: row[ci] for k, row in found.get("mean_diff", {}).items() if row[ci]["lo"] is not None}
    if not rows:
        return None
    values = _joined(f"{show_pair(tree, k)}: {show(row['lo'])} to {show(row['hi'])}" for k, row in rows.items())
    without = [label for label, row in rows.items() if row["lo"] > 0 or row["hi"] < 0]
    return Detail(
        "bootstrap",
        factor,
        f"{factor}, bootstrap {percent(tree['alpha'])} CI of the difference (BCa, blocks): {values}",
        f"Drawing whole {units(tree)} again and again instead of assuming a normal distribution, the interval of the "
        f"difference leaves out 0 for {_count(without, rows)} of {factor} (each taken by itself).",
    )


# -- ranks, permutation ------------------------------------------------------------------------------------------------


def _friedman(tree: Tree, factor: str, row: Tree) -> Detail | None:
    if row.get("chi2") is None:
        return None
    test = f"chi2({row['df']}) = {show(row['chi2'])}, p {show_p(row['p'])}, Kendall W = {show(row['kendall_W'], 3)}"
    return Detail(
        "friedman",
        factor,
        f"{factor} by ranks (Friedman): {test}",
        f"Looking only at which level of {factor} is higher in each {tree['subject']}, not by how much, a difference "
        f"is {_shown(is_clear(row['p'], tree['alpha']))} (p {show_p(row['p'])}); the {units(tree)} agree on the order "
        f"to W = {show(row['kendall_W'], 3)} (0: not at all, 1: fully).",
    )


def _page(tree: Tree, factor: str, row: Tree) -> Detail | None:
    rising, falling = row.get("p_asymptotic_ascending"), row.get("p_asymptotic_descending")
    if row.get("L_ascending") is None or (rising is None and falling is None):
        return None
    way, p = ("rise", rising) if falling is None or (rising is not None and rising < falling) else ("fall", falling)
    # One of two directions was chosen after looking: half the limit each.
    found = f"a steady {way} is {_shown(is_clear(p, tree['alpha'] / 2))}"
    named = _names_only(tree, factor)
    order = "in the order they are listed, which is none of theirs" if named else "from the lowest"
    return Detail(
        "page",
        factor,
        f"{factor}, Page's trend by ranks: p (rising) {show_p(rising)}, p (falling) {show_p(falling)}",
        f"Going through the levels of {factor} {order}, {found} by ranks alone (one-sided p {show_p(p)}, "
        f"limit {tree['alpha'] / 2:g}).",
        secondary=named,
    )


def _permutation(tree: Tree, factor: str, row: Tree) -> Detail | None:
    if row.get("p") is None:
        return None
    how = f"all {row['resamples']} orders" if row["exact"] else f"{row['resamples']} random orders"
    named = factor.replace(":", " x ")
    done = (
        f"Relabelling the levels within each {tree['subject']}, after its own main effects are taken off, gives an "
        f"interaction {named}"
        if ":" in factor
        else f"Rearranging the values within each {tree['subject']} as if {named} made no difference gives a difference"
    )
    return Detail(
        "permutation",
        factor,
        f"{named} by permutation within blocks ({how}): p {show_p(row['p'])}",
        f"{done} as clear as the observed one with probability {show_p(row['p']).removeprefix('= ')} "
        f"(limit {tree['alpha']:g}), so without assuming a normal distribution an effect is "
        f"{_shown(is_clear(row['p'], tree['alpha']))}.",
    )


# -- trends ------------------------------------------------------------------------------------------------------------


def _trend_builder(name: str) -> Callable[[Tree, str, Tree], Detail | None]:
    return lambda tree, factor, degrees: _trend(tree, factor, degrees, name)


def _trend(tree: Tree, factor: str, degrees: Tree, name: str) -> Detail | None:
    tested = {key: row for key, row in degrees.items() if row["F_own"] is not None}
    if not tested:
        return None
    if len(degrees) < 2:
        said = f"With two levels of {factor}, the only trend is the difference between them."
        return Detail(name, factor, "", said, secondary=True)
    df = tree["n_subjects"] - 1
    tests = [
        f"{TREND_NAMES.get(key, key)} F(1, {df}) = {show(row['F_own'])}, p {show_p(row['p_own'])}"
        for key, row in tested.items()
    ]
    bends = [key for key in tested if key != "deg1"]
    bent = any(is_clear(tested[key]["p_own"], tree["alpha"]) for key in bends)
    says = (
        [f"a straight-line change is {_shown(is_clear(tested['deg1']['p_own'], tree['alpha']))}"]
        if "deg1" in tested
        else []
    )
    says += [f"a departure from a straight line is {_shown(bent)}"] if bends else []
    scale = TREND_SCALES[name].format(factor=factor)
    return Detail(
        name,
        factor,
        f"{factor}, trend, {scale}: {'; '.join(tests)}",
        f"With {scale}, {' and '.join(says)} for {tree['dv']} (each part tested by itself).",
        secondary=name != _leading_trend(tree, factor),
    )


def _leading_trend(tree: Tree, factor: str) -> str | None:
    """The scale to show: doublings where levels are positive numbers; none where they are names without an order."""
    if _names_only(tree, factor):
        return None
    return next((name for name in TREND_SCALES if section(tree, name, factor)), None)


def _names_only(tree: Tree, factor: str) -> bool:
    scores = tree.get("trend_scores")
    return (scores.get(factor) if isinstance(scores, dict) else scores) == "positions"


def _slope(tree: Tree, factor: str, row: Tree) -> Detail | None:
    ci = row.get(interval_name(tree["alpha"])) or {"lo": None}
    if row.get("mean") is None or ci["lo"] is None:
        return None
    ratio, low, high = (2.0**value for value in (row["mean"], ci["lo"], ci["hi"]))
    return Detail(
        "loglog_slope_per_subject",
        factor,
        f"{factor}, log-log slope = {row['mean']:.4f} ({percent(tree['alpha'])} CI {ci['lo']:.4f} to {ci['hi']:.4f})",
        f"Taken as a power law, every doubling of {factor} multiplies {tree['dv']} by {show(ratio)} "
        f"({percent(tree['alpha'])} interval {show(low)} to {show(high)}).",
    )


# -- words -------------------------------------------------------------------------------------------------------------


def _shown(clear: bool) -> str:
    return "shown" if clear else "not shown"


def _share(value: float) -> str:
    text = f"{100 * value:.3g}%"
    return "more than 99.9%" if text == "100%" and value < 1 else text


def _joined(texts: Iterable[str]) -> str:
    """Six at most: the tables have them all."""
    known = list(texts)
    return "; ".join([*known[:6], *(["..."] if len(known) > 6 else [])])


def _count(some: list[str], of: Tree) -> str:
    return f"{len(some)} of {len(of)} pairs"


def _list(labels: list[str]) -> str:
    named = ", ".join(label.replace("|", " and ") for label in labels[:4])
    return named + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
