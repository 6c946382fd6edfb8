"""Effects of a sweep with looks: beside the naive ones, those that the looks do not bias, and intervals that hold.

- *Repeated confidence intervals* (Jennison & Turnbull 1989, JRSS B 51, 305-361): each pair's interval is made as wide
  as the boundary of a t test with the same looks, so it covers whatever made the sweep stop.
- *Bias-adjusted differences*: the naive ones, shrunk by the share that the median-unbiased effect over all looks has of
  the effect that a study with a single look would have found (`sequential_estimate`). For two levels the result is the
  median-unbiased difference; with more levels the same share is taken off every pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.analysis.distributions import t_critical
from rayscale.analysis.jsonable import Tree, interval_tree, number
from rayscale.analysis.levels import interval_name
from rayscale.analysis.sequential import boundaries_of
from rayscale.analysis.sequential_estimate import Drift, estimate_drift
from rayscale.analysis.sequential_size import small_sample_factor

NAMED_PAIRS = 6


@dataclass(frozen=True)
class StoppedEstimates:
    """The estimates as a part of the tree; None with a note while the sweep goes on or they do not exist."""

    tree: Tree | None
    notes: list[str] = field(default_factory=list)


def stopped_estimates(document: dict[str, Any], measure: Tree) -> StoppedEstimates:
    """Estimate the effects of a sweep whose looks are over.

    Args:
        document: `looks.json`.
        measure: The analysis of the measure that the looks were about.

    Returns:
        `shrinkage, effect_per_block.{naive, adjusted, ci}, pairs.<pair>.{mean_diff, mean_diff_adjusted, <ci>,
        repeated_<ci>}`, and sentences.
    """
    plan, looks = document["plan"], document["looks"]
    if looks[-1]["decision"] == "continue":
        return StoppedEstimates(None)
    if measure["n_subjects"] != looks[-1]["n"]:
        why = f"the last look saw {looks[-1]['n']} blocks, the analysis {measure['n_subjects']}"
        return StoppedEstimates(None, [f"no estimates adjusted for the looks: {why}"])
    fractions = _fractions(looks)
    drift = _drift(plan, looks[-1], fractions)
    pairs = _pairs(plan, measure, looks, drift)
    ci = interval_name(plan["alpha"])
    root = math.sqrt(plan["repetitions"])
    tree: Tree = {
        "method": "stage-wise order (median-unbiased); repeated confidence intervals",
        "shrinkage": number(drift.shrinkage) if drift else None,
        "effect_per_block": {
            "naive": drift.naive / root if drift else None,
            "adjusted": drift.median / root if drift else None,
            ci: interval_tree((drift.ci[0] / root, drift.ci[1] / root)) if drift else {"lo": None, "hi": None},
        },
        "pairs": pairs,
    }
    return StoppedEstimates(tree, _notes(plan, looks, drift, pairs))


def _fractions(looks: Sequence[dict[str, Any]]) -> list[float]:
    """Information at the looks, as `looks.json` has it; a last look without new blocks stands for itself."""
    last = float(looks[-1]["fraction"])
    return [float(look["fraction"]) for look in looks if look["fraction"] < last] + [last]


def _drift(plan: Tree, last: dict[str, Any], fractions: list[float]) -> Drift | None:
    if not last["p"]:
        return None
    careful = min(1.0, last["p"] / plan.get("small_sample_factor", 1.0))
    alpha = plan["alpha"]
    return estimate_drift(careful, fractions, alpha, plan["spending"], plan["effect_df"], 1 - alpha)


def _pairs(plan: Tree, measure: Tree, looks: Sequence[dict[str, Any]], drift: Drift | None) -> Tree:
    found = measure["pairwise"] if len(measure["within"]) == 1 else measure["pairwise"].get(plan["factor"], {})
    ci, level = interval_name(plan["alpha"]), _pair_level(plan, looks)
    shrinkage = drift.shrinkage if drift else math.nan
    tree: Tree = {}
    for label, row in found.items():
        if row["mean_diff"] is None or row["sd_diff"] is None:
            continue
        half = t_critical(1 - level, row["df"]) * row["sd_diff"] / math.sqrt(row["df"] + 1)
        tree[label] = {
            "mean_diff": row["mean_diff"],
            ci: row[interval_name(measure["alpha"])] if measure["alpha"] == plan["alpha"] else None,
            "mean_diff_adjusted": number(row["mean_diff"] * shrinkage),
            f"repeated_{ci}": interval_tree((row["mean_diff"] - half, row["mean_diff"] + half)),
        }
    return tree


def _pair_level(plan: Tree, looks: Sequence[dict[str, Any]]) -> float:
    """Nominal level of the last look of a t test with the same looks."""
    alpha, spending, numbers = plan["alpha"], plan["spending"], tuple(look["n"] for look in plan["looks"])
    planned = boundaries_of([n / plan["repetitions"] for n in numbers], alpha, spending, 1)
    careful = small_sample_factor(numbers, tuple(boundary.nominal for boundary in planned), alpha, 1)
    return careful * boundaries_of(_fractions(looks), alpha, spending, 1)[-1].nominal


def _notes(plan: Tree, looks: Sequence[dict[str, Any]], drift: Drift | None, pairs: Tree) -> list[str]:
    early = looks[-1]["decision"] in ("efficacy", "halfwidth")
    ci = f"repeated_{interval_name(plan['alpha'])}"
    shown = [
        f"{label.replace('|', ' - ')}: {row['mean_diff']:.4g} naive, {_show(row['mean_diff_adjusted'])} adjusted, "
        f"{_show(row[ci]['lo'])} to {_show(row[ci]['hi'])}"
        for label, row in list(pairs.items())[:NAMED_PAIRS]
    ]
    notes = []
    if early and drift is None:
        notes.append(f"{plan['dv']}: p of the last look is so small that stopping there biased the effect by nothing")
    if early and drift is not None and not math.isnan(drift.shrinkage):
        notes.append(
            f"a sweep that stops early tends to overstate its effect: with the looks taken into account, the effect of "
            f"{plan['factor']} on {plan['dv']} is {100 * drift.shrinkage:.0f}% of the naive one (median-unbiased, "
            "stage-wise order)"
        )
    if shown:
        confidence = f"{100 * (1 - plan['alpha']):g}%"
        notes.append(f"differences in {plan['dv']} with repeated {confidence} intervals (they hold at every look): ")
        notes[-1] += "; ".join(shown)
    return notes


def _show(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
