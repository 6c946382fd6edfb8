"""The part of the JSON tree about what the analysis takes for granted, and what each look implies for the result."""

from __future__ import annotations

import numpy as np

from rayscale.analysis.anova import Anova, Effect, anova
from rayscale.analysis.assumptions import STUDENTISED_LIMIT, Outlier, Shapiro, outliers, shapiro_residuals
from rayscale.analysis.cells import Cells
from rayscale.analysis.jsonable import Tree, number, p_number
from rayscale.analysis.sentences import show, show_p

NAMED_OUTLIERS = 10


def assumption_parts(cells: Cells, result: Anova, alpha: float) -> Tree:
    """Look at residuals, outliers and sphericity.

    Args:
        cells: The design.
        result: Its analysis of variance.
        alpha: Significance level.

    Returns:
        `normality`, `outliers`, `sphericity`, and `assumptions`: one sentence each.
    """
    if not any(effect.ss_error > 0 for effect in result.effects):
        return {}
    normal = shapiro_residuals(cells.complete)
    found = outliers(cells.complete)
    without = _without(cells, [outlier for outlier in found if outlier.p_bonferroni < alpha])
    sphericity = [_sphericity(effect, alpha) for effect in result.effects if effect.df1 > 1 and effect.ss_error > 0]
    normality = _normality(normal, alpha)
    outlying = _outliers(cells, found, result, without, alpha)
    return {
        "normality": {
            "shapiro_residuals": {"W": number(normal.W), "p": p_number(normal.p)},
            "skewness": number(normal.skewness),
            "excess_kurtosis": number(normal.excess_kurtosis),
            "implies": normality,
        },
        "outliers": {
            "limit": STUDENTISED_LIMIT,
            "n_beyond_limit": len(found),
            "cells": [_outlier(cells, outlier) for outlier in found[:NAMED_OUTLIERS]],
            "without_subjects": without,
            "implies": outlying,
        },
        "sphericity": {"implies": sphericity or ["two levels: sphericity always holds"]},
        "assumptions": [normality, outlying, *sphericity],
    }


def _normality(found: Shapiro, alpha: float) -> str:
    if found.note is not None:
        return f"Normality of the residuals is not tested: {found.note}."
    test = f"Shapiro-Wilk W = {found.W:.3f}, p {show_p(found.p)}"
    if found.p >= alpha:
        return f"The residuals give no sign against a normal distribution ({test})."
    shape = f"skewness {found.skewness:.2g}, excess kurtosis {found.excess_kurtosis:.2g}"
    return (
        f"The residuals are not normally distributed ({test}; {shape}): F tests of balanced designs bear moderate "
        "departures, but small p values are less exact than they look; compare the permutation and rank tests."
    )


def _labels(cells: Cells, outlier: Outlier) -> tuple[str, str]:
    complete = np.nonzero(~np.isnan(cells.values).any(axis=1))[0]
    return cells.subjects[int(complete[outlier.subject])], cells.cell_labels[outlier.cell]


def _outlier(cells: Cells, outlier: Outlier) -> Tree:
    subject, level = _labels(cells, outlier)
    return {
        "subject": subject,
        "level": level,
        "value": number(float(cells.complete[outlier.subject, outlier.cell])),
        "studentised": number(outlier.studentised),
        "p_bonferroni": p_number(outlier.p_bonferroni),
    }


def _without(cells: Cells, found: list[Outlier]) -> Tree | None:
    """The ANOVA without the subjects of the outliers; None if there are none or too few subjects remain."""
    gone = sorted({outlier.subject for outlier in found})
    rest = np.delete(cells.complete, gone, axis=0)
    if not gone or len(rest) < 3:
        return None
    result = anova(rest, cells.shape, cells.factors)
    rows = {
        effect.name: {"F": number(effect.F), "p_GG": p_number(effect.p_GG), "log10_p_GG": number(effect.log10_p_GG)}
        for effect in result.effects
    }
    return {"n_subjects": len(rest), "anova": next(iter(rows.values())) if len(rows) == 1 else rows}


def _outliers(cells: Cells, found: list[Outlier], result: Anova, without: Tree | None, alpha: float) -> str:
    clear = [outlier for outlier in found if outlier.p_bonferroni < alpha]
    if not clear:
        return f"No cell is an outlier (largest studentised residuals tested at {alpha:g}, Bonferroni)."
    names = [f"{level} of subject {subject}" for subject, level in (_labels(cells, outlier) for outlier in clear[:5])]
    stand = "One cell stands" if len(clear) == 1 else f"{len(clear)} cells stand"
    text = f"{stand} out from the rest: {', '.join(names)}{' ...' if len(clear) > 5 else ''}"
    if without is None:
        return f"{text}; too few subjects would remain to see the result without them."
    effect = result.effects[0]
    row = without["anova"] if len(result.effects) == 1 else without["anova"][effect.name]
    change = (
        f"p(GG) of {effect.name} is {show_p(row['p_GG'], row['log10_p_GG']).removeprefix('= ')} "
        f"instead of {show_p(p_number(effect.p_GG), number(effect.log10_p_GG)).removeprefix('= ')}"
    )
    subjects = "that subject" if len(clear) == 1 else "the subjects concerned"
    return f"{text}; nothing is left out for it. Without {subjects} {change}."


def _sphericity(effect: Effect, alpha: float) -> str:
    test, gg = effect.sphericity, f"Greenhouse-Geisser epsilon {show(number(effect.eps_GG), 3)}"
    allowed = "the p(GG) shown allows for it"
    if test.note is not None:
        return f"{effect.name}: sphericity cannot be tested ({test.note}); {gg}; {allowed}."
    found = f"Mauchly W = {test.W:.3f}, p {show_p(p_number(test.p_exact_null))}"
    if test.p_exact_null < alpha:
        return (
            f"{effect.name}: differences between levels do not all vary alike ({found}): the uncorrected p is too "
            f"small and pooled-error comparisons are not valid; {gg}; {allowed}."
        )
    return f"{effect.name}: no sign that differences between levels vary unequally ({found}); {gg}; {allowed} anyway."
