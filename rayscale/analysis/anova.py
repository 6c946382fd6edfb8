"""Within-subject analysis of variance for any number of crossed factors: arrays in, frozen results out.

Every effect of a factorial design is a set of orthonormal contrasts C over the cells (Kronecker products of Helmert
contrasts for the factors in the effect and of the mean for the others). With Z the residuals and m the cell means,
SS_effect = n |m C|^2, SS_error = |Z C|^2, df = (p, (n - 1) p). One-way is the case of one factor. `moments` finds a
triangle that stands for Z.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import f_tail, log10_f_tail
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.moments import Moments, moments
from rayscale.analysis.sphericity import Mauchly, greenhouse_geisser, huynh_feldt, mauchly_of_errors, undefined_mauchly


@dataclass(frozen=True)
class Effect:
    """One line of the ANOVA table. NaN where undefined, with a sentence in `notes`.

    Attributes:
        name: Factors joined by `:`.
        ss: Sum of squares of the effect.
        ss_error: Sum of squares of effect x subjects.
        rms_error: Square root of the error mean square (it stays in range where the square would not).
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.
        F: Mean square ratio.
        p_unc: p without correction.
        log10_p_unc: Its decimal logarithm, also where p underflows.
        p_GG: p with both df times `eps_GG`.
        log10_p_GG: Its decimal logarithm.
        p_HF: p with both df times `eps_HF`.
        p_LB: p with both df times the lower bound.
        eps_GG: Greenhouse-Geisser epsilon.
        eps_HF: Huynh-Feldt epsilon within [eps_GG, 1].
        eps_HF_unclamped: Huynh-Feldt epsilon as computed.
        eps_lower_bound: 1 / df1.
        partial_eta2: SS / (SS + SS_error).
        generalized_eta2: SS / (SS + SS_subject + all SS_error) (Olejnik & Algina 2003,
            Psychological Methods 8, 434-447).
        partial_epsilon2: (SS - df1 MS_error) / (SS + SS_error).
        sphericity: Mauchly's test.
        notes: Why something is undefined.
    """

    name: str
    ss: float
    ss_error: float
    rms_error: float
    df1: int
    df2: int
    F: float
    p_unc: float
    log10_p_unc: float
    p_GG: float
    log10_p_GG: float
    p_HF: float
    p_LB: float
    eps_GG: float
    eps_HF: float
    eps_HF_unclamped: float
    eps_lower_bound: float
    partial_eta2: float
    generalized_eta2: float
    partial_epsilon2: float
    sphericity: Mauchly
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Multivariate:
    """Hotelling's test that all cell means are equal; NaN where n - 1 < p."""

    T2: float
    F: float
    df1: int
    df2: int
    p: float


@dataclass(frozen=True)
class Anova:
    """All effects of a within-subject design, main effects first."""

    effects: tuple[Effect, ...]
    ss_subject: float
    multivariate: Multivariate


@dataclass(frozen=True)
class _Stratum:
    """An effect before its tests, in the kernel's units."""

    name: str
    ss: float
    ss_error: float
    errors: FloatArray


def helmert(levels: int) -> FloatArray:
    """Orthonormal contrasts of a factor.

    Args:
        levels: Number of levels, >= 2.

    Returns:
        Shape (levels, levels - 1); columns are orthonormal and sum to zero.
    """
    contrasts = np.zeros((levels, levels - 1))
    for j in range(1, levels):
        contrasts[:j, j - 1], contrasts[j, j - 1] = 1.0, -j
        contrasts[:, j - 1] /= math.sqrt(j * (j + 1))
    return contrasts


def effect_contrasts(shape: Sequence[int], members: Sequence[int]) -> FloatArray:
    """Orthonormal contrasts of one effect over all cells.

    Args:
        shape: Levels per factor, the last factor varying fastest over the cells.
        members: Indices of the factors in the effect.

    Returns:
        Shape (cells, df of the effect).
    """
    parts = (
        helmert(levels) if index in members else np.full((levels, 1), 1 / math.sqrt(levels))
        for index, levels in enumerate(shape)
    )
    return functools.reduce(np.kron, parts)


def anova(values: FloatArray, shape: Sequence[int], factors: Sequence[str]) -> Anova:
    """Analyse a complete within-subject design.

    Args:
        values: Finite values, shape (n >= 2, product of `shape`).
        shape: Levels per factor, each >= 2.
        factors: Their names.

    Returns:
        Every main effect and interaction.
    """
    parts = moments(values)
    sets = [s for size in range(1, len(shape) + 1) for s in itertools.combinations(range(len(shape)), size)]
    strata = [_stratum(parts, shape, members, ":".join(factors[i] for i in members)) for members in sets]
    total_error = parts.subject + math.fsum(stratum.ss_error for stratum in strata)
    effects = tuple(_effect(stratum, parts, total_error) for stratum in strata)
    return Anova(effects, parts.ss_subject, _multivariate(parts))


def _stratum(parts: Moments, shape: Sequence[int], members: Sequence[int], name: str) -> _Stratum:
    contrasts = effect_contrasts(shape, members)
    errors, effect = parts.errors(contrasts), parts.effects(contrasts)
    return _Stratum(name, parts.n * float(np.sum(effect**2)), float(np.sum(errors**2)), errors)


def _effect(stratum: _Stratum, parts: Moments, total_error: float) -> Effect:
    n, p = parts.n, stratum.errors.shape[1]
    df1, df2 = p, (n - 1) * p
    ss, error = stratum.ss, stratum.ss_error
    F = (ss / df1) / (error / df2) if error > 0 else math.nan
    gg = greenhouse_geisser(stratum.errors.T @ stratum.errors) if error > 0 else math.nan
    hf_raw = huynh_feldt(gg, n, p) if error > 0 else math.nan
    hf = min(1.0, max(gg, hf_raw))
    test = mauchly_of_errors(stratum.errors, n, parts.k) if error > 0 else undefined_mauchly(None)
    return Effect(
        name=stratum.name,
        ss=parts.in_units(ss),
        ss_error=parts.in_units(error),
        rms_error=math.ldexp(math.sqrt(error / df2), parts.exponent),
        df1=df1,
        df2=df2,
        F=F,
        p_unc=f_tail(F, df1, df2),
        log10_p_unc=log10_f_tail(F, df1, df2),
        p_GG=f_tail(F, df1 * gg, df2 * gg),
        log10_p_GG=log10_f_tail(F, df1 * gg, df2 * gg),
        p_HF=f_tail(F, df1 * hf, df2 * hf),
        p_LB=f_tail(F, 1.0, n - 1),
        eps_GG=gg,
        eps_HF=hf,
        eps_HF_unclamped=hf_raw,
        eps_lower_bound=1 / p,
        partial_eta2=_share(ss, ss + error),
        generalized_eta2=_share(ss, ss + total_error),
        partial_epsilon2=_share(ss - df1 * error / df2, ss + error),
        sphericity=test,
        notes=_notes(stratum, test),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _notes(stratum: _Stratum, test: Mauchly) -> tuple[str, ...]:
    notes = []
    if stratum.ss_error == 0 and stratum.ss == 0:
        notes.append(f"{stratum.name}: F is undefined (0/0): the measure is the same in every cell of a subject")
    elif stratum.ss_error == 0:
        notes.append(f"{stratum.name}: F is undefined: the error variance is zero (every subject changes alike)")
    if test.note:
        notes.append(f"{stratum.name}: {test.note}")
    return tuple(notes)


def _multivariate(parts: Moments) -> Multivariate:
    """Hotelling's T2 = n m' S^-1 m on the contrasts of all cells; F = T2 (n - p) / (p (n - 1))."""
    n, p = parts.n, parts.k - 1
    undefined = Multivariate(math.nan, math.nan, p, n - p, math.nan)
    spread = np.linalg.svd(parts.factor, compute_uv=False) if n > p else np.zeros(p)
    if spread[-1] <= parts.floor * math.sqrt(n):
        return undefined
    # The test is the same for any contrasts, differences to the first cell among them. Solving with the triangle
    # itself keeps the digits that a covariance would lose by squaring it.
    T2 = float(n * (n - 1) * np.sum(np.linalg.solve(parts.factor.T, parts.means[1:]) ** 2))
    F = T2 * (n - p) / (p * (n - 1))
    return Multivariate(T2, F, p, n - p, f_tail(F, p, n - p))
