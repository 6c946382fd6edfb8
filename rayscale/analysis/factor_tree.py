"""The part of the JSON tree that looks at the levels of one factor: pairs, ranks, trends, slope."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayscale.analysis.adjust import ADJUSTMENTS, adjust
from rayscale.analysis.anova import Anova, Effect
from rayscale.analysis.bayes import log10_bayes_factor
from rayscale.analysis.cells import Cells
from rayscale.analysis.effect_intervals import cohen_dz_interval, cohen_dz_interval_as_r
from rayscale.analysis.equivalence import equivalence
from rayscale.analysis.jsonable import TINY_P, Tree, interval_tree, number, p_number
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.levels import interval_name, level_values, pair_label
from rayscale.analysis.pairwise import Pair, hedges_factor, pairwise, pooled_t
from rayscale.analysis.ranks import friedman
from rayscale.analysis.trend import loglog_slope, polynomial_trend
from rayscale.analysis.tukey import RESOLUTION, tukey_p


@dataclass(frozen=True)
class SingleFactor:
    """One factor by itself: the subjects' means over all other factors.

    Attributes:
        name: The factor.
        levels: Its ordered labels.
        values: Shape (subjects, levels), with `pivot` taken off.
        pivot: What was taken off.
        others: Number of cells that each value is the mean of.
        effect: Its main effect.
    """

    name: str
    levels: tuple[str, ...]
    values: FloatArray
    pivot: float
    others: int
    effect: Effect


def factor_parts(factors: Sequence[SingleFactor], alpha: float, margin: float | None = None) -> Tree:
    """Write all that looks at the levels of one factor; keyed by factor only where there are several.

    Args:
        factors: The factors.
        alpha: Significance level.
        margin: Declared equivalence margin in units of the measure; None tests no equivalence.

    Returns:
        `pairwise`, `pairwise_pooled_error`, `friedman`, `page`, `trend_*`, `loglog_slope_per_subject`, and with
        a margin `equivalence`.
    """
    return by_factor({factor.name: _one_factor(factor, alpha, margin) for factor in factors})


def by_factor(parts: Mapping[str, Tree]) -> Tree:
    """Turn factor -> section -> content into section -> (factor ->) content, factors only where there are several.

    Args:
        parts: Sections of each factor.

    Returns:
        The sections.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    names = dict.fromkeys(name for part in parts.values() for name in part)
    return {name: {factor: part[name] for factor, part in parts.items() if name in part} for name in names}


def single_factors(cells: Cells, result: Anova) -> list[SingleFactor]:
    """Look at each factor by itself, averaging over the others.

    Args:
        cells: The design.
        result: Its analysis of variance.

    Returns:
        One entry per factor.
    """
    values = cells.complete
    # Averages over the other factors are taken of differences from one value, so that an offset costs no digits.
    pivot = float(values.flat[0]) if len(cells.factors) > 1 else 0.0
    shaped = (values - pivot).reshape(len(values), *cells.shape)
    found = []
    for index, (name, levels) in enumerate(zip(cells.factors, cells.levels, strict=True)):
        others = tuple(axis + 1 for axis in range(len(cells.factors)) if axis != index)
        marginal = shaped.mean(axis=others) if others else values
        found.append(
            SingleFactor(name, levels, marginal, pivot, math.prod(cells.shape) // len(levels), result.effects[index])
        )
    return found


def _one_factor(factor: SingleFactor, alpha: float, margin: float | None) -> Tree:
    pairs = pairwise(factor.values, alpha)
    labels = [pair_label(factor.levels[pair.lower], factor.levels[pair.higher]) for pair in pairs]
    rank, page = friedman(factor.values)
    return {
        "pairwise": _pairs(pairs, labels, alpha),
        "pairwise_pooled_error": _pooled(pairs, labels, factor),
        "friedman": {
            "chi2": number(rank.chi2),
            "df": rank.df,
            "p": p_number(rank.p),
            "kendall_W": number(rank.kendall_W),
            "iman_davenport_F": number(rank.iman_davenport_F),
        },
        "page": {
            "L_ascending": page.L_ascending,
            "p_asymptotic_ascending": p_number(page.p_ascending),
            "L_descending": page.L_descending,
            "p_asymptotic_descending": p_number(page.p_descending),
        },
        **_trends(factor),
        **_slope(factor, alpha),
        **({} if margin is None else {"equivalence": _equivalence(pairs, labels, margin, alpha)}),
    }


def _pairs(pairs: Sequence[Pair], labels: Sequence[str], alpha: float) -> Tree:
    raw = [pair.p_raw for pair in pairs]
    adjusted = {key: adjust(raw, method) for method, key in ADJUSTMENTS.items() if method != "none"}
    ci = interval_name(alpha)
    tree: Tree = {}
    for index, (label, pair) in enumerate(zip(labels, pairs, strict=True)):
        dz, correction = cohen_dz_interval(pair.t, pair.df + 1, 1 - alpha), hedges_factor(pair.df)
        bayes = log10_bayes_factor(pair.t, pair.df + 1)
        tree[label] = {
            "mean_diff": number(pair.mean_diff),
            "sd_diff": number(pair.sd_diff),
            "t": number(pair.t),
            "df": pair.df,
            "p_raw": p_number(pair.p_raw),
            "log10_p_raw": number(pair.log10_p_raw),
            **{key: p_number(values[index]) for key, values in adjusted.items()},
            ci: interval_tree(pair.ci),
            f"{ci}_bonferroni": interval_tree(pair.ci_bonferroni),
            "cohen_dz": number(pair.cohen_dz),
            "hedges_gz": number(pair.hedges_gz),
            f"cohen_dz_{ci}": interval_tree(cohen_dz_interval_as_r(pair.t, pair.df + 1, 1 - alpha, dz)),
            f"cohen_dz_{ci}_exact": interval_tree(dz),
            f"hedges_gz_{ci}": interval_tree((dz[0] * correction, dz[1] * correction)),
            "cohen_dav": number(pair.cohen_dav),
            "bayes_factor_10": number(10**bayes) if abs(bayes) < 300 else None,
            "log10_bayes_factor_10": number(bayes),
            "wilcoxon_V": pair.wilcoxon.V,
            "wilcoxon_p_normal_no_continuity": p_number(pair.wilcoxon.p_normal),
            "wilcoxon_p_normal_continuity": p_number(pair.wilcoxon.p_continuity),
            "wilcoxon_pratt_p": p_number(pair.wilcoxon.p_pratt),
        }
    return tree


def pair_notes(tree: Tree) -> list[str]:
    """Say why a pair's t or p is null.

    Args:
        tree: The `pairwise` part.

    Returns:
        One sentence per such pair.
    """
    found = tree.items() if not tree or "df" in next(iter(tree.values())) else _named_pairs(tree)
    notes = [
        f"{label}: zero variance of differences (every subject differs by {row['mean_diff']:.6g}): t is undefined"
        for label, row in found
        if row["sd_diff"] == 0
    ]
    notes += [f"{label}: p {TINY_P}" for label, row in found if row["p_raw"] is None and row["t"] is not None]
    return notes


def _named_pairs(tree: Tree) -> list[tuple[str, Tree]]:
    return [(f"{factor} {label}", row) for factor, pairs in tree.items() for label, row in pairs.items()]


def _pooled(pairs: Sequence[Pair], labels: Sequence[str], factor: SingleFactor) -> Tree:
    # A mean over b other cells has 1/b of the variance that the effect's error mean square counts.
    n, rms_error = len(factor.values), factor.effect.rms_error / math.sqrt(factor.others)
    tested = [pooled_t(pair, rms_error, n, factor.effect.df2) for pair in pairs]
    raw = [p for _, p in tested]
    bonferroni, holm = adjust(raw, "bonferroni"), adjust(raw, "holm")
    return {
        label: {
            "t": number(t),
            "df": factor.effect.df2,
            "p_none": p_number(p),
            "p_bonferroni": p_number(bonferroni[index]),
            "p_holm": p_number(holm[index]),
            "p_tukey": p_number(tukey_p(t, len(factor.levels), factor.effect.df2)),
        }
        for index, (label, (t, p)) in enumerate(zip(labels, tested, strict=True))
    }


def _equivalence(pairs: Sequence[Pair], labels: Sequence[str], margin: float, alpha: float) -> Tree:
    tree: Tree = {}
    for label, pair in zip(labels, pairs, strict=True):
        found = equivalence(pair.mean_diff, pair.sd_diff, pair.df + 1, -margin, margin, alpha)
        tree[label] = {
            "margin": margin,
            "t_lower": number(found.t_lower),
            "t_upper": number(found.t_upper),
            "df": found.df,
            "p_lower": p_number(found.p_lower),
            "p_upper": p_number(found.p_upper),
            "p": p_number(found.p),
            interval_name(2 * alpha): interval_tree(found.ci),
            "equivalent": None if math.isnan(found.p) else found.p < alpha,
        }
    return tree


def tukey_note(tree: Tree) -> str | None:
    """Say if a Tukey p is only an upper bound.

    Args:
        tree: The `pairwise_pooled_error` part.

    Returns:
        A sentence, or None.
    """
    rows = list(tree.values())
    if rows and "df" not in rows[0]:
        rows = [row for part in rows for row in part.values()]
    if any(row["p_tukey"] is not None and row["p_tukey"] < RESOLUTION for row in rows):
        return (
            f"p_tukey below {RESOLUTION:g} is an upper bound (the rule's resolution); p_bonferroni has all its digits"
        )
    return None


def _trends(factor: SingleFactor) -> Tree:
    positions = [float(i + 1) for i in range(len(factor.levels))]
    # Levels that are names have no scores of their own; `trend_scores` says that their positions serve.
    values = level_values(factor.levels) or positions
    spacings: dict[str, list[float]] = {"trend_equal_spacing": positions}
    if len(set(values)) == len(values):
        spacings["trend_actual_scores"] = values
        if min(values) > 0:
            spacings["trend_log2_scores"] = [math.log2(value) for value in values]
    named = level_values(factor.levels) is None
    trends = {
        name: {
            f"deg{trend.degree}": {
                "SS": number(trend.SS * factor.others),
                "F_own": number(trend.F_own),
                "p_own": p_number(trend.p_own),
                "F_pooled": number(trend.F_pooled),
                "p_pooled": p_number(trend.p_pooled),
            }
            for trend in polynomial_trend(factor.values, scores)
        }
        for name, scores in spacings.items()
    }
    return {"trend_scores": "positions" if named else "levels", **trends}


def _slope(factor: SingleFactor, alpha: float) -> Tree:
    levels, values = level_values(factor.levels), factor.values + factor.pivot
    if levels is None or min(levels) <= 0 or len(set(levels)) < len(levels) or not (values > 0).all():
        return {}
    slope = loglog_slope(values, levels, alpha)
    return {
        "loglog_slope_per_subject": {
            "mean": number(slope.mean),
            "sd": number(slope.sd),
            "se": number(slope.se),
            "df": slope.df,
            "t_vs_0": number(slope.t_vs_0),
            "p_vs_0": p_number(slope.p_vs_0),
            "t_vs_minus1": number(slope.t_vs_minus1),
            "p_vs_minus1": p_number(slope.p_vs_minus1),
            interval_name(alpha): interval_tree(slope.ci),
        }
    }
