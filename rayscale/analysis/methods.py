"""A methods paragraph that can be pasted into a paper, written from what was really done."""

from __future__ import annotations

from rayscale import __version__
from rayscale.analysis.bayes import DEFAULT_SCALE
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.text_details import section
from rayscale.spec import SweepSpec

ORDERS = {
    "randomized_blocks": "in an order drawn at random for each block",
    "latin_square": "in orders balanced by Williams squares",
    "fixed": "in the same fixed order in every block, so that drift is confounded with the condition",
}
CORRECTIONS = {
    "none": "not adjusted for their number",
    "bonferroni": "adjusted after Bonferroni",
    "holm": "adjusted after Holm",
    "hochberg": "adjusted after Hochberg",
    "hommel": "adjusted after Hommel",
    "bh": "adjusted after Benjamini and Hochberg",
    "by": "adjusted after Benjamini and Yekutieli",
}


def methods_paragraph(tree: Tree, spec: SweepSpec | None = None) -> str:
    """Write how the study was designed and analysed.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.
        spec: The sweep, if the data come from one; it adds how the runs were laid out.

    Returns:
        One paragraph of plain text; sentences about what was not done are not in it.
    """
    measures = list(tree["results"].values()) if "results" in tree else [tree]
    analysed = [measure for measure in measures if measure["anova"].get("SS_subject") is not None]
    first = (analysed or measures)[0]
    sentences = [_design(first, spec), _trials(tree), _missing(measures)]
    if analysed:
        sentences += [_model(analysed), _pairs(first), _equivalence(analysed), _trends(analysed)]
        sentences += [_resampling(first), _assumptions(first), _mixed(first)]
    sentences += [_energy(measures), f"The significance level was {first['alpha']:g}."]
    sentences.append(f"All analyses were made with rayscale {__version__}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _levels(tree: Tree) -> str:
    parts = [f"{name} ({', '.join(labels)})" for name, labels in tree["levels"].items()]
    return " and ".join(parts)


def _design(tree: Tree, spec: SweepSpec | None) -> str:
    if spec is None:
        return f"By design each {tree['subject']} was measured at all levels of {_levels(tree)}."
    conditions = 1
    for labels in tree["levels"].values():
        conditions *= len(labels)
    return (
        f"Models were trained in {spec.design.repetitions} blocks; each block held all {conditions} conditions, the "
        f"levels of {_levels(tree)}, once, {ORDERS[spec.design.order]}. The runs of a block shared the random seed, "
        "and with it initial weights and data order."
    )


def _trials(tree: Tree) -> str:
    if "n_trials" not in tree:
        return ""
    text = f"Of {tree['n_planned']} planned runs {tree['n_trials']} were completed"
    excluded = len(tree["excluded"])
    rule = "by the quality rule declared beforehand"
    return f"{text}; {excluded} of these were excluded {rule}." if excluded else f"{text} and none excluded."


def _missing(measures: list[Tree]) -> str:
    parts = []
    for tree in measures:
        gone = tree["missing"]["n_total"] - tree["missing"]["n_complete"]
        if gone:
            parts.append(f"{gone} of {tree['missing']['n_total']} for {tree['dv']}")
    named = measures[0]["subject"]
    return f"Blocks ({named}) with missing cells were left out listwise: {', '.join(parts)}." if parts else ""


def _model(measures: list[Tree]) -> str:
    logs = [tree["dv"] for tree in measures if tree["scale"] == "log"]
    raw = [tree["dv"] for tree in measures if tree["scale"] != "log"]
    sides = [f"{', '.join(raw)} on the raw scale"] if raw else []
    sides += [f"{', '.join(logs)} on the log scale"] if logs else []
    first = measures[0]
    factors = " x ".join(f"{name} ({len(labels)})" for name, labels in first["levels"].items())
    return (
        f"A repeated-measures analysis of variance with the within factor(s) {factors} was computed for "
        f"{' and '.join(sides)}. Degrees of freedom were corrected after Greenhouse and Geisser whatever Mauchly's "
        f"test said; effect sizes are generalized and partial eta squared, the latter with a "
        f"{100 * (1 - first['alpha']):g}% interval from the noncentral F distribution."
    )


def _pairs(tree: Tree) -> str:
    if all(len(labels) < 2 for labels in tree["levels"].values()):
        return ""
    return (
        f"Pairs of levels were compared by paired t tests, each with its own error, {CORRECTIONS[tree['correction']]}; "
        "standardised differences are d_z with intervals from the noncentral t distribution, and Bayes factors use a "
        f"Cauchy prior of scale {DEFAULT_SCALE:.3f} on d_z (JZS)."
    )


def _equivalence(measures: list[Tree]) -> str:
    margins = []
    for tree in measures:
        for rows in [section(tree, "equivalence", factor) for factor in tree["within"][:1]]:
            if rows:
                margins.append(f"±{next(iter(rows.values()))['margin']:g} for {tree['dv']}")
    return f"Equivalence was tested by two one-sided tests with the margin {', '.join(margins)}." if margins else ""


def _trends(measures: list[Tree]) -> str:
    sloped = [tree["dv"] for tree in measures if tree.get("mechanical_exponent") and _slope(tree)]
    if not sloped:
        return ""
    return (
        f"Since {', '.join(sloped)} contain time or energy, which grow with the token count, the slope of their "
        "logarithm over that of tokens was fitted in each block and compared with the exponent that follows from this "
        "alone."
    )


def _slope(tree: Tree) -> Tree:
    return section(tree, "loglog_slope_per_subject", "tokens")


def _resampling(tree: Tree) -> str:
    factor = tree["within"][0]
    test, drawn = section(tree, "permutation", factor), section(tree, "bootstrap", factor)
    if not test or not drawn:
        return ""
    how = f"all {test['resamples']} rearrangements" if test["exact"] else f"{test['resamples']} random rearrangements"
    return (
        f"Beside these, a permutation test within blocks ({how}) and bias-corrected and accelerated bootstrap "
        f"intervals ({drawn['resamples']} resamples of whole blocks) were computed, seeded by the data."
    )


def _assumptions(tree: Tree) -> str:
    if not tree.get("assumptions"):
        return ""
    return (
        "Residuals were looked at by the Shapiro-Wilk test and studentised residuals (Bonferroni), sphericity by "
        "Mauchly's test; none of these decided which result is reported."
    )


def _mixed(tree: Tree) -> str:
    models = [name for name in tree if name.startswith("lmm_") and tree[name]]
    if not models:
        return ""
    return (
        "Linear mixed models were fitted by restricted maximum likelihood, with Kenward-Roger degrees of freedom, "
        f"as a check on the analysis of variance ({', '.join(models)})."
    )


def _energy(measures: list[Tree]) -> str:
    names = [tree["dv"] for tree in measures if tree["energy_estimated"]]
    return f"The energy behind {', '.join(names)} was estimated by a model, not measured by a sensor." if names else ""
