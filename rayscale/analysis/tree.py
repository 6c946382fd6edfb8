"""Results as the JSON tree of design 4.6: the oracles' dotted names, null with a note where undefined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rayscale.analysis.anova import Anova, Effect, anova
from rayscale.analysis.assumption_tree import assumption_parts
from rayscale.analysis.assumptions import icc_interval
from rayscale.analysis.cells import Cells
from rayscale.analysis.descriptives import describe
from rayscale.analysis.design_effects import DesignEffects, design_effects
from rayscale.analysis.effect_intervals import effect_from_f, partial_eta2_interval
from rayscale.analysis.factor_tree import SingleFactor, factor_parts, pair_notes, single_factors, tukey_note
from rayscale.analysis.jsonable import TINY_P, Tree, interval_tree, number, p_number
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.levels import interval_name
from rayscale.analysis.log_tree import log_scale
from rayscale.analysis.resampling_tree import resampling_parts

EFFECT_KEYS = (
    *("SS_effect", "SS_error", "df1", "df2", "F", "p_unc", "log10_p_unc", "eps_GG", "p_GG", "log10_p_GG"),
    *("eps_HF", "eps_HF_unclamped", "p_HF", "eps_lower_bound", "p_LB", "partial_eta2", "generalized_eta2"),
    *("partial_epsilon2", "mauchly_W", "mauchly_df", "mauchly_p_box_anderson", "mauchly_p_R_formula"),
    "mauchly_p_exact_null",
)
"""Names below `anova` of a one-way design (`SS` instead of `SS_effect` below an effect of a factorial one)."""

LITTLE_ICC = 0.1
"""Intraclass correlation up to which pairing that is not significant is called uninformative."""


def build_tree(
    cells: Cells,
    alpha: float,
    *,
    scale: str = "raw",
    margin: float | None = None,
    ratio: float | None = None,
    resamples: int = 0,
) -> Tree:
    """Analyse one measure.

    Args:
        cells: The laid-out design, one or more factors.
        alpha: Significance level; intervals have confidence 1 - alpha.
        scale: `raw` or `log`: which of the two is primary, as declared beforehand; both are computed.
        margin: Declared equivalence margin in units of the measure; None tests no equivalence.
        ratio: Declared equivalence margin as a ratio, tested on the log scale; None tests none.
        resamples: Number of permutations and bootstrap samples; 0 leaves `permutation` and `bootstrap` out.

    Returns:
        The tree: `scale`, `anova`, `effect_size`, `multivariate`, `pairwise`, `pairwise_pooled_error`, `equivalence`,
        `descriptives`, `design`, `friedman`, `page`, `trend_*`, `loglog_slope_per_subject`, `log_scale`, `normality`,
        `outliers`, `sphericity`, `assumptions`, `permutation`, `bootstrap`, `missing`, `listwise` (with missing
        cells), `notes`.
    """
    values = cells.complete
    notes = _missing_notes(cells)
    tree: Tree = {"scale": scale, "n_subjects": int(values.shape[0]), "missing": _missing(cells)}
    reason = _not_analysable(cells)
    if reason:
        tree |= _undefined(cells, alpha) | {"notes": [*notes, reason]}
        return tree
    result = anova(values, cells.shape, cells.factors)
    tree |= {"anova": _anova_tree(result), "effect_size": _effect_sizes(result, alpha)}
    tree["multivariate"] = _multivariate(result)
    factors = single_factors(cells, result)
    tree |= factor_parts(factors, alpha, margin)
    tree["descriptives"] = _descriptives(cells, factors, alpha)
    tree["design"] = _design(values, alpha)
    tree["log_scale"], log_note = log_scale(cells, alpha, ratio)
    if tree["log_scale"] is None and scale == "log":
        tree["scale"] = "raw"
        log_note.append("the declared primary scale (log) does not exist for this measure; the raw scale is shown")
    tree |= assumption_parts(cells, result, alpha)
    resampled, resampling_notes = resampling_parts(factors, alpha, resamples, cells)
    tree |= resampled
    if tree["missing"]["n_missing_cells"]:
        tree["listwise"] = {**tree["anova"], "pairwise": tree["pairwise"]}
    tree["tukey_note"] = tukey_note(tree["pairwise_pooled_error"])
    found = [*_effect_notes(result), *pair_notes(tree["pairwise"])]
    tree["notes"] = [*notes, *found, *log_note, *resampling_notes]
    return tree


# -- what is missing ---------------------------------------------------------------------------------------------------


def _missing(cells: Cells) -> Tree:
    missing = cells.missing()
    return {
        "n_total": len(cells.subjects),
        "n_complete": int(cells.complete.shape[0]),
        "n_missing_cells": len(missing),
        "cells": [{"subject": subject, "level": label} for subject, label in missing],
        "dropped_subjects": list(dict.fromkeys(subject for subject, _ in missing)),
    }


def _missing_notes(cells: Cells) -> list[str]:
    missing = cells.missing()
    if not missing:
        return []
    gone = list(dict.fromkeys(subject for subject, _ in missing))
    named = "; ".join(f"subject {subject} lacks {label}" for subject, label in missing[:10])
    more = f"; and {len(missing) - 10} more" if len(missing) > 10 else ""
    return [
        f"{len(missing)} of {cells.values.size} cells are missing, so {len(gone)} of {len(cells.subjects)} subjects "
        f"are left out (listwise): {', '.join(gone[:20])}{' ...' if len(gone) > 20 else ''} ({named}{more})"
    ]


def _not_analysable(cells: Cells) -> str | None:
    if cells.n_obs == 0:
        return "the measure is not available in any row: nothing can be computed"
    if math.prod(cells.shape) < 2:
        return "there is only one level: a comparison needs at least two"
    if cells.complete.shape[0] < 2:
        return (
            f"{cells.complete.shape[0]} subject(s) have all cells: a repeated-measures analysis needs at least two "
            "(the descriptives use all rows that are there)"
        )
    return None


def _undefined(cells: Cells, alpha: float) -> Tree:
    """Give the same names with nulls, and the descriptives of whatever rows there are."""
    names = [key if len(cells.factors) == 1 else key.replace("SS_effect", "SS") for key in EFFECT_KEYS]
    effect = dict.fromkeys(names)
    several = len(cells.factors) > 1
    labels = zip(cells.cell_labels, cells.values.T, strict=True)
    rows = {label: _description(column[~np.isnan(column)], alpha) for label, column in labels}
    return {
        "anova": {**(dict.fromkeys(cells.factors, effect) if several else effect), "SS_subject": None},
        "pairwise": {factor: {} for factor in cells.factors} if several else {},
        "descriptives": {"cells": rows} if several else rows,
        "design": {},
    }


# -- the analysis of variance ------------------------------------------------------------------------------------------


def _anova_tree(result: Anova) -> Tree:
    subject = {"SS_subject": number(result.ss_subject)}
    if len(result.effects) == 1:
        return _effect_tree(result.effects[0], "SS_effect") | subject
    return {effect.name: _effect_tree(effect, "SS") for effect in result.effects} | subject


def _effect_tree(effect: Effect, ss_name: str) -> Tree:
    test = effect.sphericity
    named = {"SS_effect": effect.ss, "SS_error": effect.ss_error, "mauchly_W": test.W, "mauchly_df": test.df}
    named |= {f"mauchly_{key}": getattr(test, key) for key in ("p_box_anderson", "p_R_formula", "p_exact_null")}
    tree: Tree = {}
    for key in EFFECT_KEYS:
        value = named[key] if key in named else getattr(effect, key)
        tree[ss_name if key == "SS_effect" else key] = p_number(value) if key.startswith("p_") else number(value)
    # partial eta and epsilon squared start with "p" but are no p values, and may be 0 or negative.
    return tree | {"partial_eta2": number(effect.partial_eta2), "partial_epsilon2": number(effect.partial_epsilon2)}


def _effect_sizes(result: Anova, alpha: float) -> Tree:
    ci = interval_name(alpha)
    rows = {
        effect.name: {
            f"partial_eta2_{ci}": interval_tree(partial_eta2_interval(effect.F, effect.df1, effect.df2, 1 - alpha)),
            "partial_omega2": number(effect_from_f(effect.F, effect.df1, effect.df2).partial_omega2),
        }
        for effect in result.effects
    }
    return next(iter(rows.values())) if len(rows) == 1 else rows


def _multivariate(result: Anova) -> Tree:
    test = result.multivariate
    if len(result.effects) > 1:
        return {}
    return {
        "hotelling_T2": number(test.T2),
        "hotelling_F": number(test.F),
        "hotelling_df1": test.df1,
        "hotelling_df2": test.df2 if test.df2 > 0 else None,
        "hotelling_p": p_number(test.p),
    }


def _effect_notes(result: Anova) -> list[str]:
    notes = [note for effect in result.effects for note in effect.notes]
    notes += [f"{effect.name}: p {TINY_P}" for effect in result.effects if effect.p_unc == 0]
    if not all(math.isfinite(effect.ss + effect.ss_error) for effect in result.effects):
        notes.append("sums of squares leave the range of floating-point numbers and are shown as null")
    if len(result.effects) == 1 and math.isnan(result.multivariate.F) and result.effects[0].ss_error > 0:
        notes.append("the multivariate (Hotelling) test is undefined: it needs more subjects than levels")
    return notes


# -- descriptives, design ----------------------------------------------------------------------------------------------


def _description(column: FloatArray, alpha: float) -> Tree:
    keys = ("mean", "sd", "se", "median", "min", "max")
    ci = interval_name(alpha)
    if not len(column):
        return {"n": 0, **dict.fromkeys(keys), ci: {"lo": None, "hi": None}}
    found = describe(column, alpha)
    return {"n": found.n, **{key: number(getattr(found, key)) for key in keys}, ci: interval_tree(found.ci)}


def _descriptives(cells: Cells, factors: Sequence[SingleFactor], alpha: float) -> Tree:
    columns = zip(cells.cell_labels, cells.complete.T, strict=True)
    rows = {label: _description(column, alpha) for label, column in columns}
    if len(cells.factors) == 1:
        return rows
    marginal = {
        factor.name: {
            level: _description(column + factor.pivot, alpha)
            for level, column in zip(factor.levels, factor.values.T, strict=True)
        }
        for factor in factors
    }
    return marginal | {"cells": rows}


def _design(values: FloatArray, alpha: float) -> Tree:
    found = design_effects(values, alpha)
    described = [describe(column, alpha) for column in values.T]
    ci = interval_name(alpha)
    icc = icc_interval(found.F_subject, values.shape[0], values.shape[1], 1 - alpha)
    return {
        "MS_subject": number(found.MS_subject),
        "MS_error": number(found.MS_error),
        "F_subject": number(found.F_subject),
        "p_subject": p_number(found.p_subject),
        "icc_consistency": number(found.icc_consistency),
        f"icc_consistency_{ci}": interval_tree(icc),
        "pairing_informative": _pairing_informative(found, alpha),
        "var_subject_mom": number(found.var_subject_mom),
        "relative_efficiency_rcbd_vs_crd": number(found.relative_efficiency),
        f"loftus_masson_{ci}_halfwidth": number(found.loftus_masson),
        f"morey_{ci}_halfwidth": {str(index): number(half) for index, half in enumerate(found.morey)},
        "level_mean": {str(index): number(row.mean) for index, row in enumerate(described)},
        "level_sd": {str(index): number(row.sd) for index, row in enumerate(described)},
    }


def _pairing_informative(found: DesignEffects, alpha: float) -> bool | None:
    """True if subjects differ, False if they plainly do not, None if these data cannot tell."""
    if math.isnan(found.p_subject):
        return None
    if found.p_subject < alpha:
        return True
    return False if found.icc_consistency <= LITTLE_ICC else None


def without_constant_factors(cells: Cells) -> Cells:
    """Leave factors with a single level out of the design, unless no factor would remain.

    Args:
        cells: The design.

    Returns:
        The design with the factors that vary; the values are the same.
    """
    keep = [index for index, size in enumerate(cells.shape) if size > 1] or [0]
    return replace(
        cells,
        factors=tuple(cells.factors[index] for index in keep),
        levels=tuple(cells.levels[index] for index in keep),
    )
