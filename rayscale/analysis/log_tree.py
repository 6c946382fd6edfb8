"""The log-scale analysis beside the raw one: ratios instead of differences, for measures that are ratios themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rayscale.analysis.adjust import ADJUSTMENTS, adjust
from rayscale.analysis.anova import Effect, anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.equivalence_ratio import ratio_equivalence
from rayscale.analysis.factor_tree import SingleFactor, by_factor, single_factors
from rayscale.analysis.jsonable import Tree, interval_tree, number, p_number
from rayscale.analysis.levels import interval_name, pair_label
from rayscale.analysis.pairwise import Pair, pairwise

SCALES = ("raw", "log")


def log_scale(cells: Cells, alpha: float, margin: float | None = None) -> tuple[Tree | None, list[str]]:
    """Analyse ln(measure).

    Args:
        cells: The design.
        alpha: Significance level.
        margin: Declared equivalence margin as a ratio; None tests no equivalence.

    Returns:
        `anova`, `pairwise` (ratios of geometric means), and with a margin `equivalence`; or None with a note if a value
        is not positive.
    """
    if not (cells.complete > 0).all():
        return None, ["log_scale is null: the measure has values that are not positive"]
    logs = replace(cells, values=np.log(cells.values))
    result = anova(logs.complete, cells.shape, cells.factors)
    effects = {effect.name: _effect(effect) for effect in result.effects}
    pairs = {factor.name: _one_factor(factor, alpha, margin) for factor in single_factors(logs, result)}
    return {"anova": next(iter(effects.values())) if len(effects) == 1 else effects, **by_factor(pairs)}, []


def _effect(effect: Effect) -> Tree:
    return {
        "F": number(effect.F),
        "df1": effect.df1,
        "df2": effect.df2,
        "p_unc": p_number(effect.p_unc),
        "log10_p_unc": number(effect.log10_p_unc),
        "eps_GG": number(effect.eps_GG),
        "p_GG": p_number(effect.p_GG),
        "log10_p_GG": number(effect.log10_p_GG),
        "ges": number(effect.generalized_eta2),
        "pes": number(effect.partial_eta2),
    }


def _one_factor(factor: SingleFactor, alpha: float, margin: float | None) -> Tree:
    tree = {"pairwise": _ratios(factor, alpha)}
    if margin is not None:
        tree["equivalence"] = ratio_equivalence(pairwise(factor.values, alpha), factor.levels, margin, alpha)
    return tree


def _ratios(factor: SingleFactor, alpha: float) -> Tree:
    pairs = pairwise(factor.values, alpha)
    raw = [pair.p_raw for pair in pairs]
    adjusted = {key: adjust(raw, method) for method, key in ADJUSTMENTS.items() if method != "none"}
    return {
        pair_label(factor.levels[pair.lower], factor.levels[pair.higher]): _ratio(pair, alpha)
        | {key: p_number(values[index]) for key, values in adjusted.items()}
        for index, pair in enumerate(pairs)
    }


def _ratio(pair: Pair, alpha: float) -> Tree:
    """The lower level's geometric mean over the higher level's, and the test that it is 1."""
    ci = interval_name(alpha)
    return {
        "ratio": number(_exp([pair.mean_diff])[0]),
        f"ratio_{ci}": interval_tree(_exp(pair.ci)),
        f"ratio_{ci}_bonferroni": interval_tree(_exp(pair.ci_bonferroni)),
        "t": number(pair.t),
        "df": pair.df,
        "cohen_dz": number(pair.cohen_dz),
        "p_raw": p_number(pair.p_raw),
        "log10_p_raw": number(pair.log10_p_raw),
    }


def _exp(values: Sequence[float]) -> tuple[float, float]:
    """Exponentials of one or two logarithms; inf where it leaves the range of a double."""
    found = [math.exp(value) if value < 700 else math.inf if value >= 700 else math.nan for value in values]
    return found[0], found[-1]
