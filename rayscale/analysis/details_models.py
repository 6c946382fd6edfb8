"""What mixed models, devices, order of runs and a stopping rule say, in plain sentences; and all sentences by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayscale.analysis.details import Detail, test_details
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name
from rayscale.analysis.mixed_text import MODELS, mixed_text, terms_of
from rayscale.analysis.sentences import (
    descriptive_sentence,
    effect_sentence,
    interaction_sentence,
    main_effects,
    mechanical_sentence,
    pairing_sentence,
    pairs_sentence,
    percent,
    primary_pairs,
    show,
    show_p,
    units,
)
from rayscale.analysis.walk import effect_lines, is_clear, nested_order, parts

MODEL_WORDS = {
    "lmm_random_intercept": "Keeping the {subjects} with missing cells too",
    "lmm_nested": "Taking every single row instead of the means of the cells",
    "lmm_subject": "With one more way to the same comparison (a mixed model that ignores devices)",
    "lmm_device": "For devices in general, of which these are taken as a sample",
    "lmm_device_condition": "For devices in general, where the effect itself may differ from device to device",
    "lmm_device_fixed": "For just these devices",
    "lmm_device_drift": "With a steady drift over the runs allowed for",
    "lmm_start_temperature": "With a steady drift and the start temperature allowed for",
}
"""What each mixed model asks; a model without an entry is named as it is."""

UNSEEN = 0.995
"""Share of a difference from which its bias by the looks is not worth a number."""


def details(tree: Tree) -> list[Detail]:
    """Explain every result that stands beside the tables.

    Args:
        tree: The tree of one measure.

    Returns:
        Tests first, then mixed models and devices; empty if the measure could not be analysed.
    """
    found = test_details(tree) if tree.get("design") else []
    return [*found, *model_details(tree)]


def model_details(tree: Tree) -> list[Detail]:
    """Explain the mixed models and the ANOVA of the devices' means.

    Args:
        tree: The tree of one measure.

    Returns:
        One entry per model, also where it could not be fitted.
    """
    names = [name for name in tree if name.startswith("lmm_")]
    ordered = [*(name for name in MODELS if name in names), *(name for name in names if name not in MODELS)]
    lines = _lines_of_models(tree)
    found = [Detail(name, "", lines.get(name, ""), _model(tree, name)) for name in ordered]
    device = tree.get("device_as_subject_anova")
    if device:
        found.append(Detail("device_as_subject_anova", "", lines.get("device_as_subject_anova", ""), _device(tree)))
    return found


def _lines_of_models(tree: Tree) -> dict[str, str]:
    """Match the lines of `mixed_text` with the parts they are about."""
    known = {f"{title}: ": name for name, title in MODELS.items()}
    known["ANOVA of the devices' means"] = "device_as_subject_anova"
    lines: dict[str, str] = {}
    for line in mixed_text(tree):
        lines |= {name: line for start, name in known.items() if line.startswith(start)}
    return lines


def _model(tree: Tree, name: str) -> str:
    asked = MODEL_WORDS.get(name, f"In the mixed model {name}").format(subjects=units(tree))
    model = tree[name]
    if not model or "F_kr" not in model:
        return f"{asked}: this model could not be fitted, the notes say why."
    tests = [_tested(tree, term, row) for term, row in terms_of(tree, model).items()]
    end = ""
    if nested_order(tree) and name in ("lmm_device_drift", "lmm_start_temperature"):
        end = "; but drift and effect cannot be told apart in runs executed level after level"
    return f"{asked}, {', '.join(tests)}{end}."


def _tested(tree: Tree, term: str, row: Tree) -> str:
    named = term.replace(":", " x ")
    if row.get("F_kr") is None:
        return f"an effect of {named} cannot be tested"
    shown = "shown" if is_clear(row["p_kr"], tree["alpha"]) else "not shown"
    return f"an effect of {named} is {shown} (p {show_p(row['p_kr'], row['log10_p_kr'])})"


def _device(tree: Tree) -> str:
    row = tree["device_as_subject_anova"]
    asked = f"Taking each of the {tree.get('n_devices', 0)} devices as one observation"
    rows = {tree["within"][0]: row} if "F" in row else {k: v for k, v in row.items() if isinstance(v, dict)}
    tests = [
        f"an effect of {name.replace(':', ' x ')} is {_found(line, tree['alpha'])}"
        for name, line in rows.items()
        if line.get("F") is not None
    ]
    return f"{asked}, {', '.join(tests)}." if tests else f"{asked}, nothing can be tested (see the notes)."


def _found(line: Tree, alpha: float) -> str:
    return f"{'shown' if is_clear(line['p_unc'], alpha) else 'not shown'} (p {show_p(line['p_unc'])})"


# -- the stopping rule -------------------------------------------------------------------------------------------------


def sequential_sentences(part: Tree) -> list[str]:
    """Say what the stopping rule did, and what it does to the numbers.

    Args:
        part: The `sequential` part of an analysis.

    Returns:
        Two or three sentences.
    """
    looks, dv = part["looks"], part["dv"]
    saved, alpha = part["saved_repetitions"], part["alpha"]
    found = [
        f"By a rule written down before the first look, the sweep looked at {dv} {_times(len(looks))} and could stop "
        f"early; it used {part['n_used']} of {part['repetitions']} repetitions"
        + (f" and so saved {saved}." if saved else ".")
    ]
    if part["decision"] == "continue":
        return [*found, "It is not finished: the p values of now are not the final ones."]
    if part["log10_p_adjusted"] is not None:
        verdict = "shown" if part["significant"] else "not shown"
        p = show_p(part["p_adjusted"], part["log10_p_adjusted"])
        found.append(
            f"Looking several times makes chance findings likelier; with that allowed for, an effect of "
            f"{part['factor']} on {dv} is {verdict} (adjusted p {p}, limit {alpha:g}): this p counts, not the one of "
            "the table."
        )
    if part["decision"] == "efficacy":
        found.append(_overstated(part.get("estimates") or {}))
    return found


def _overstated(estimates: Tree) -> str:
    text = "A sweep that stops because a difference looks large tends to overstate it"
    shrinkage = estimates.get("shrinkage")
    if shrinkage is None:
        return f"{text}: the true difference may well be smaller."
    if shrinkage > UNSEEN:
        return f"{text}; here, by the estimate that allows for the looks, by less than {100 * (1 - UNSEEN):.2g}%."
    return (
        f"{text}; by the estimate that allows for the looks, the differences are {100 * (1 - shrinkage):.3g}% smaller."
    )


def sequential_lines(part: Tree) -> list[str]:
    """Write the differences of a stopped sweep as they look and as they are with the looks allowed for.

    Args:
        part: The `sequential` part of an analysis.

    Returns:
        One line per pair; none while the sweep goes on.
    """
    pairs, ci = (part.get("estimates") or {}).get("pairs") or {}, interval_name(part["alpha"])
    return [
        f"{label.replace('|', ' - ')}: difference {show(row['mean_diff'])}, with the looks allowed for "
        f"{show(row['mean_diff_adjusted'])} ({percent(part['alpha'])} CI {show(row[f'repeated_{ci}']['lo'])} to "
        f"{show(row[f'repeated_{ci}']['hi'])})"
        for label, row in pairs.items()
    ]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# -- all sentences by name ---------------------------------------------------------------------------------------------


def explained(tree: Tree) -> dict[str, Any]:
    """Collect a plain sentence for every part of a measure's tree that holds a result.

    Args:
        tree: The finished tree of one measure.

    Returns:
        Part -> sentence, or part -> factor or effect -> sentence where there are several.
    """
    found: dict[str, dict[str, str]] = {}
    for name, factor, sentence in [*_of_tables(tree), *_of_looks(tree)]:
        if sentence:
            found.setdefault(name, {})[factor] = sentence
    for item in details(tree):
        before = found.setdefault(item.section, {}).get(item.factor)
        found[item.section][item.factor] = f"{before} {item.plain}" if before else item.plain
    return {name: next(iter(said.values())) if len(said) == 1 else said for name, said in found.items()}


def _of_tables(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Sentences about what tables show: descriptives, ANOVA, pairs."""
    for factor, _, _, levels in main_effects(tree):
        yield "descriptives", factor, descriptive_sentence(tree, factor, levels)
        yield "pairwise", factor, _pairs(tree, factor)
    for name, line in effect_lines(tree, tree["anova"]):
        sentence = interaction_sentence if ":" in name else effect_sentence
        yield "anova", name, sentence(tree, name, line)
    if tree.get("listwise"):
        n = tree["missing"]["n_complete"]
        yield "listwise", "", f"The analysis of variance uses the {n} {units(tree)} that have all cells, and no others."
    for factor in parts(tree, "loglog_slope_per_subject"):
        yield "loglog_slope_per_subject", factor, mechanical_sentence(tree) if factor == "tokens" else ""


def _pairs(tree: Tree, factor: str) -> str:
    pairs = primary_pairs(tree, factor)
    said = pairs_sentence(tree, factor, pairs)
    if said or not pairs:
        return said
    if any(row["t"] is not None for row in pairs.values()):
        return f"There is one pair of levels of {factor}, so that its test is the test of {factor} itself."
    return f"No pair of {factor} can be tested (see the notes)."


def _of_looks(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Sentences about design, order of runs and assumptions."""
    yield "design", "", pairing_sentence(tree)
    yield "run_order", "", (tree.get("run_order") or {}).get("sentence", "")
    for name in ("normality", "outliers", "sphericity"):
        said = (tree.get(name) or {}).get("implies", "")
        joined = " ".join(said) if isinstance(said, list) else said
        yield name, "", joined if joined.endswith(".") or not joined else f"{joined[:1].upper()}{joined[1:]}."
