r"""The tree for a paper: booktabs tables, each followed by sentences in the style of the APA manual.

The text needs `\usepackage{booktabs}` and nothing else; numbers are set in math mode. Where the runs were executed
level after level, the warning stands first and no caption and no sentence says repeated measures.
"""

from __future__ import annotations

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.details import TREND_NAMES
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.latex_apa import (
    analysis_name,
    apa_sentences,
    descriptive_sentences,
    model_sentences,
    pair_sentences,
    sequential_apa,
    shares,
    test_sentences,
)
from rayscale.analysis.latex_parts import (
    bare,
    ci_header,
    common_power,
    escape,
    escape_pair,
    in_powers,
    math_interval,
    math_number,
    math_p,
    scaled,
    scaled_interval,
    short_p,
    table,
)
from rayscale.analysis.levels import interval_name
from rayscale.analysis.mixed_text import terms_of
from rayscale.analysis.sentences import CORRECTION_NAMES, main_effects, on_log_scale, primary_effect, primary_pairs
from rayscale.analysis.walk import effect_lines, measures_of, nested_order, parts, section

MODEL_NAMES = {
    "lmm_random_intercept": "missing cells kept",
    "lmm_nested": "all rows",
    "lmm_subject": "subject random",
    "lmm_device": "device, subject random",
    "lmm_device_condition": "effect by device random",
    "lmm_device_fixed": "device fixed",
    "lmm_device_drift": "with run order",
    "lmm_start_temperature": "with temperature",
}
"""Short names for the table; the sentences below it say what each model asks."""

__all__ = ["apa_sentences", "escape", "math_number", "math_p", "to_latex"]


def to_latex(tree: Tree) -> str:
    """Write the tables of an analysis.

    Args:
        tree: What `analyze_frame` or `analyze_records` returned.

    Returns:
        LaTeX per measure: descriptives, ANOVA, pairs, further tests, mixed models as `table` environments, each
        followed by APA-style sentences.
    """
    head = [r"% needs \usepackage{booktabs}", ""]
    if tree.get("sequential"):
        head += [*_stopped(tree["sequential"]), sequential_apa(tree["sequential"]), ""]
    return "\n".join([*head, *(part for measure in measures_of(tree) for part in _measure(measure))]) + "\n"


def _stopped(part: Tree) -> list[str]:
    """The differences of a sweep that could stop early, with the looks allowed for."""
    pairs, ci = (part.get("estimates") or {}).get("pairs") or {}, interval_name(part["alpha"])
    if not pairs:
        return []
    power = common_power(row["mean_diff"] for row in pairs.values())
    rows = [
        [
            escape_pair(label),
            math_number(scaled(row["mean_diff"], power)),
            math_number(scaled(row["mean_diff_adjusted"], power)),
            math_interval(scaled_interval(row[f"repeated_{ci}"], power)),
        ]
        for label, row in pairs.items()
    ]
    caption = f"Differences of {escape(part['dv'])} with the looks of the stopping rule allowed for.{in_powers(power)}"
    header = ["Pair", "Difference", "Adjusted", f"repeated {ci_header(part['alpha'])}"]
    return [table(caption, f"{part['dv']}-stopped", header, rows)]


def _measure(tree: Tree) -> list[str]:
    lines = [f"% {_comment(tree['dv'])}"]
    if nested_order(tree):
        lines += [rf"\textbf{{{escape(tree['run_order']['sentence'])}}}", ""]
    if tree["energy_estimated"]:
        lines += [f"The energy behind {escape(tree['dv'])} is estimated by a model, not measured by a sensor.", ""]
    for factor, _, _, levels in main_effects(tree):
        lines += [_descriptives(tree, factor, levels), *descriptive_sentences(tree, factor, levels), ""]
    lines += [_anova(tree), *apa_sentences(tree), ""]
    for factor in tree["within"]:
        lines += [*_pairs(tree, factor), *_further(tree, factor)]
    return [*lines, *_models(tree)]


def _comment(text: str) -> str:
    """A comment ends with its line, so that a line break in a name would let the rest of it out."""
    return " ".join(text.split())


def _descriptives(tree: Tree, factor: str, levels: Tree) -> str:
    ci, power = interval_name(tree["alpha"]), common_power(row["mean"] for row in levels.values())
    rows = [
        [
            escape(label),
            f"${row['n']}$",
            math_number(scaled(row["mean"], power), 5),
            math_number(scaled(row["sd"], power), 3),
            math_interval(scaled_interval(row[ci], power)),
        ]
        for label, row in levels.items()
    ]
    header = [escape(factor), "$n$", "$M$", "$SD$", ci_header(tree["alpha"])]
    unit = f" [{escape(tree['unit'])}]" if tree.get("unit") and tree["unit"] != "1" else ""
    caption = f"{escape(tree['dv'])}{unit} by {escape(factor)}{_mark(tree)}.{in_powers(power)}"
    return table(caption, f"{tree['dv']}-{factor}-levels", header, rows)


def _mark(tree: Tree) -> str:
    return " (energy estimated)" if tree["energy_estimated"] else ""


def _anova(tree: Tree) -> str:
    rows = []
    for name, _ in effect_lines(tree, tree["anova"]):
        row = primary_effect(tree, name)
        ges, pes = shares(row)
        rows.append(
            [
                escape(name.replace(":", " × ")),
                f"${row['df1']}, {row['df2']}$" if row.get("df1") else "---",
                math_number(row["F"], 6),
                short_p(row["p_unc"], row["F"] is not None),
                math_number(row.get("eps_GG"), 3),
                short_p(row["p_GG"], row["F"] is not None),
                math_number(ges, 3),
                math_number(pes, 3),
            ]
        )
    scale = " (log scale)" if on_log_scale(tree) else ""
    header = ["Effect", "$df$", "$F$", "$p$", r"$\varepsilon_{GG}$", "$p_{GG}$", r"$\eta^2_G$", r"$\eta^2_p$"]
    caption = f"{analysis_name(tree, long=True)} of {escape(tree['dv'])}{scale}{_mark(tree)}."
    return table(caption, f"{tree['dv']}-anova", header, rows)


def _pairs(tree: Tree, factor: str) -> list[str]:
    pairs = primary_pairs(tree, factor)
    if not pairs:
        return []
    key, ci = ADJUSTMENTS[tree["correction"]], interval_name(tree["alpha"])
    logs, wide = on_log_scale(tree), "_bonferroni" if tree["correction"] == "bonferroni" else ""
    interval = f"ratio_{ci}{wide}" if logs else f"{ci}{wide}"
    raw, size = section(tree, "pairwise", factor), "ratio" if logs else "mean_diff"
    power = 0 if logs else common_power(row[size] for row in pairs.values())
    rows = [
        [
            escape_pair(label, " / " if logs else " -- "),
            math_number(scaled(row[size], power)),
            math_interval(scaled_interval(row[interval], power)),
            math_number(row["t"]),
            math_p(row[key], row["log10_p_raw"] if row["t"] is not None else None),
            math_number(row["cohen_dz"], 3),
            *([] if logs else [math_number(raw[label].get("bayes_factor_10"), 3)]),
        ]
        for label, row in pairs.items()
    ]
    df = next(iter(pairs.values()))["df"]
    header = ["Pair", "Ratio" if logs else "Difference", ci_header(tree["alpha"]), f"$t({df})$", "$p$", "$d_z$"]
    adjusted = "unadjusted" if key == "p_raw" else f"{CORRECTION_NAMES[tree['correction']]}-adjusted"
    kind = f"{adjusted} $p$, {'simultaneous' if wide else 'individual'} intervals"
    caption = f"Pairs of {escape(factor)}, {escape(tree['dv'])}{_mark(tree)}: {kind}.{in_powers(power)}"
    written = table(caption, f"{tree['dv']}-{factor}-pairs", header if logs else [*header, "$BF_{10}$"], rows)
    return [written, *pair_sentences(tree, factor, pairs), ""]


def _further(tree: Tree, factor: str) -> list[str]:
    """Ranks, permutation, trend, log-log slope and equivalence: one row per test."""
    rows = [*_rank_rows(tree, factor), *_trend_rows(tree, factor)]
    for label, row in section(tree, "equivalence", factor).items():
        name = f"Equivalence within {math_number(row['margin'])}: {escape_pair(label)}"
        if row.get("p") is not None:
            # The one of the two tests with the larger p is the test of equivalence.
            t = row["t_lower"] if row["t_lower"] < -row["t_upper"] else row["t_upper"]
            rows.append([name, f"$t({row['df']})$", math_number(t), math_p(row["p"])])
    if not rows:
        return []
    caption = f"Further tests of {escape(factor)}, {escape(tree['dv'])} (raw scale){_mark(tree)}."
    written = table(caption, f"{tree['dv']}-{factor}-tests", ["Test", "Statistic", "Value", "$p$"], rows)
    return [written, *test_sentences(tree, factor), ""]


def _rank_rows(tree: Tree, factor: str) -> list[list[str]]:
    rows, ranks = [], section(tree, "friedman", factor)
    if ranks.get("chi2") is not None:
        name = f"Friedman, Kendall $W = {bare(ranks['kendall_W'])}$"
        rows.append([name, f"$\\chi^2({ranks['df']})$", math_number(ranks["chi2"]), math_p(ranks["p"])])
    test = section(tree, "permutation", factor)
    if test:
        orders = f"{'all' if test['exact'] else 'random'} ${test['resamples']}$ orders"
        rows.append([f"Permutation within blocks ({orders})", "$F$", "", math_p(test["p"])])
    return rows


def _trend_rows(tree: Tree, factor: str) -> list[list[str]]:
    df, rows = tree["n_subjects"] - 1, []
    if section(tree, "trend_equal_spacing", factor) and _ordered(tree, factor):
        logs = section(tree, "trend_log2_scores", factor)
        for degree, row in (logs or section(tree, "trend_actual_scores", factor)).items():
            name = f"{TREND_NAMES.get(degree, degree).capitalize()} trend{' over the logarithm' if logs else ''}"
            rows.append([name, f"$F(1, {df})$", math_number(row["F_own"]), math_p(row["p_own"])])
    slope = section(tree, "loglog_slope_per_subject", factor)
    if slope:
        name = f"Log-log slope {math_number(slope['mean'])} against $0$"
        rows.append([name, f"$t({slope['df']})$", math_number(slope["t_vs_0"]), math_p(slope["p_vs_0"])])
    return rows


def _ordered(tree: Tree, factor: str) -> bool:
    """Whether the levels are numbers; names have no trend."""
    scores = tree.get("trend_scores")
    return (scores.get(factor) if isinstance(scores, dict) else scores) == "levels"


def _models(tree: Tree) -> list[str]:
    """The mixed models and the ANOVA of the devices' means: one row per term."""
    rows = []
    for name in [name for name in tree if name.startswith("lmm_") and tree[name] and "F_kr" in tree[name]]:
        for index, (term, row) in enumerate(terms_of(tree, tree[name]).items()):
            title = escape(MODEL_NAMES.get(name, name)) if not index else ""
            df = f"${row['df1']}, {row['df2_kr']:.1f}$" if row.get("df2_kr") is not None else "---"
            rows.append([title, escape(term), df, math_number(row["F_kr"]), math_p(row["p_kr"], row["log10_p_kr"])])
    device = tree.get("device_as_subject_anova") or {}
    for name, line in (
        {tree["within"][0]: device} if "F" in device else parts(tree, "device_as_subject_anova")
    ).items():
        df = f"${line['df1']}, {line['df2']}$"
        rows.append(["devices' means", escape(name), df, math_number(line["F"]), math_p(line["p_unc"])])
    if not rows:
        return []
    caption = f"Mixed models of {escape(tree['dv'])} (REML, Kenward--Roger){_mark(tree)}."
    written = table(caption, f"{tree['dv']}-models", ["Model", "Term", "$df$", "$F$", "$p$"], rows, text_columns=2)
    return [written, *model_sentences(tree), ""]
