"""A methods paragraph that can be pasted into a paper, written from what was really done."""

from __future__ import annotations

from rayscale import __version__
from rayscale.analysis.bayes import DEFAULT_SCALE
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.methods_sweep import (
    design_sentences,
    device_sentence,
    energy_sentences,
    stop_sentences,
    version_sentence,
)
from rayscale.analysis.walk import any_nested_order, measures_of, parts, section

CORRECTIONS = {
    "none": "not adjusted for their number",
    "bonferroni": "adjusted after Bonferroni",
    "holm": "adjusted after Holm",
    "hochberg": "adjusted after Hochberg",
    "hommel": "adjusted after Hommel",
    "bh": "adjusted after Benjamini and Hochberg",
    "by": "adjusted after Benjamini and Yekutieli",
}

REPEATED = "A repeated-measures analysis of variance with"
WORDS_OF_MODELS = {
    "lmm_random_intercept": "subjects with missing cells kept",
    "lmm_nested": "several rows per cell kept",
    "lmm_subject": "subject random",
    "lmm_device": "device and subject random",
    "lmm_device_condition": "device, its conditions and subject random",
    "lmm_device_fixed": "device fixed, subject random",
    "lmm_device_drift": "run order as covariate",
    "lmm_start_temperature": "run order and start temperature as covariates",
}


def methods_paragraph(tree: Tree) -> str:
    """Write how the study was designed and analysed.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned; a sweep's has `provenance`, which adds how the runs
            were laid out, on what they ran and how far their energy can be trusted.

    Returns:
        One paragraph of plain text; sentences about what was not done are not in it.
    """
    measures = measures_of(tree)
    analysed = [measure for measure in measures if measure["anova"].get("SS_subject") is not None]
    first = (analysed or measures)[0]
    sentences = [*_design(first, tree), _trials(tree), _missing(measures), *_nested(measures)]
    sentences += stop_sentences(tree)
    if analysed:
        sentences += [_model(analysed), _pairs(first), _equivalence(analysed), _trends(analysed)]
        sentences += [_resampling(first), _assumptions(first), _mixed(analysed)]
    sentences += ["" if "provenance" in tree else _energy(measures), f"The significance level was {first['alpha']:g}."]
    sentences.append(version_sentence(tree) or f"All analyses were made with rayscale {__version__}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _design(first: Tree, tree: Tree) -> list[str]:
    if "provenance" in tree:
        return [*design_sentences(tree, first), device_sentence(tree), *energy_sentences(tree)]
    levels = " and ".join(f"{name} ({', '.join(labels)})" for name, labels in first["levels"].items())
    return [f"By design each {first['subject']} was measured at all levels of {levels}."]


def _nested(measures: list[Tree]) -> list[str]:
    """Runs executed level after level: said before any result, and the design loses its name."""
    if not any(tree for tree in measures if (tree.get("run_order") or {}).get("warning")):
        return []
    worst = next(tree["run_order"] for tree in measures if (tree.get("run_order") or {}).get("warning"))
    shares = worst["order_explained_by"]
    factor = max(shares, key=lambda name: shares[name] or 0.0)
    return [
        f"As executed, the runs followed each other level after level ({factor} explains {100 * shares[factor]:.0f}% "
        f"of the run order): a drift over time cannot be told from an effect of {factor}, so this is not a "
        "repeated-measures experiment, and the tests below describe the data without showing what caused a difference."
    ]


def _trials(tree: Tree) -> str:
    if "n_trials" not in tree:
        return ""
    text = f"Of {tree['n_planned']} planned runs {tree['n_trials']} were completed"
    excluded = tree["excluded"]
    if not excluded:
        return f"{text} and none excluded."
    why = sorted({code.replace("_", " ") for row in excluded for code in row["reasons"]})
    reasons = f" ({', '.join(why)})" if why else ""
    count = "1 of these was" if len(excluded) == 1 else f"{len(excluded)} of these were"
    return f"{text}; {count} excluded by the quality rule declared beforehand{reasons}."


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
    nested = any_nested_order({"results": {tree["dv"]: tree for tree in measures}})
    kind = f"An analysis of variance with {first['subject']} as block and" if nested else REPEATED
    return (
        f"{kind} the within factor(s) {factors} was computed for "
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
        for rows in list(parts(tree, "equivalence").values())[:1]:
            margins.append(f"±{next(iter(rows.values()))['margin']:g} for {tree['dv']}")
        logs = {"within": tree["within"], **(tree.get("log_scale") or {})}
        for rows in list(parts(logs, "equivalence").values())[:1]:
            margins.append(f"a ratio of {next(iter(rows.values()))['margin_ratio']:g} for {tree['dv']} (log scale)")
    return f"Equivalence was tested by two one-sided tests with the margin {', '.join(margins)}." if margins else ""


def _trends(measures: list[Tree]) -> str:
    sloped = [tree["dv"] for tree in measures if tree.get("mechanical_exponent") and _slope(tree)]
    if not sloped:
        return ""
    return (
        f"Since {', '.join(sloped)} contain{'s' if len(sloped) == 1 else ''} time or energy, which grow with the token "
        "count, the slope of the logarithm over that of tokens was fitted in each block and compared with the exponent "
        "that follows from this alone."
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


def _mixed(measures: list[Tree]) -> str:
    models = list(dict.fromkeys(name for tree in measures for name in tree if name.startswith("lmm_") and tree[name]))
    if not models:
        return ""
    asked = [WORDS_OF_MODELS[name] for name in models if name in WORDS_OF_MODELS]
    named = f" ({'; '.join(asked)})" if asked else ""
    return (
        "As a check on the analysis of variance, linear mixed models were fitted by restricted maximum likelihood, "
        f"with Kenward-Roger degrees of freedom{named}."
    )


def _energy(measures: list[Tree]) -> str:
    names = [tree["dv"] for tree in measures if tree["energy_estimated"]]
    return f"The energy behind {', '.join(names)} was estimated by a model, not measured by a sensor." if names else ""
