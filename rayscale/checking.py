"""What `rayscale check-reported` does: do the statistics that a paper prints fit together, in words and numbers."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.analysis.jsonable import number, p_number
from rayscale.analysis.reported import FEffects, SubjectPart, effects_of_f, p_of_t, printed, subject_part
from rayscale.errors import InputError

FAR = 0.01
"""Probability below which F for subjects counts as too small or clearly larger than noise."""


@dataclass(frozen=True)
class Reported:
    """Statistics as published, as text so that their rounding is known; None if not published.

    Attributes:
        F: F of the effect.
        t: A paired t instead.
        df: `2,98` for F, `49` for t.
        ges: Generalized eta squared.
        p: p value, also as a bound: `<.001`. For a t with several comparisons the Bonferroni-adjusted one.
        comparisons: Size of the family of a t.
    """

    F: str | None = None
    t: str | None = None
    df: str | None = None
    ges: str | None = None
    p: str | None = None
    comparisons: int = 1


def reported_document(given: Reported) -> dict[str, Any]:
    """Derive what published statistics imply.

    Args:
        given: The statistics.

    Returns:
        `given, fits, findings` and what follows: for F `partial_eta2, log10_p, ...`, for t `p_raw, p_bonferroni`.

    Raises:
        InputError: If values are missing or impossible in themselves.
    """
    if (given.F is None) == (given.t is None):
        raise InputError("expected --F with --df 2,98, or --t with --df 49")
    if given.df is None:
        raise InputError("--df: expected the degrees of freedom, e.g. 2,98")
    derived, fits, findings = _of_t(given) if given.F is None else _of_f(given)
    return {"given": asdict(given), "fits": fits, "findings": findings, **derived}


def _dfs(text: str, count: int) -> list[float]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
        raise InputError(f"--df {text}: expected {'df1,df2, e.g. 2,98' if count == 2 else 'one number, e.g. 49'}")
    return [float(part) for part in parts]


# -- t -----------------------------------------------------------------------------------------------------------------


def _of_t(given: Reported) -> tuple[dict[str, Any], bool, list[str]]:
    (df,) = _dfs(given.df or "", 1)
    t = printed(given.t or "", "--t")
    found = p_of_t(t.value, df, given.comparisons)
    # |t| as printed could be anything in its interval; p falls with |t|.
    low, high = sorted(abs(end) for end in t.interval)
    ends = [p_of_t(end, df, given.comparisons).p_bonferroni for end in (high, low if t.value else 0.0)]
    fits, findings = _p_fits(given.p, found.p_bonferroni, (ends[0], ends[1]))
    findings.insert(0, f"t({df:g}) = {given.t} gives p = {found.p_raw:.4g}" + _family(given, found.p_bonferroni))
    return {"p_raw": p_number(found.p_raw), "p_bonferroni": p_number(found.p_bonferroni)}, fits, findings


def _family(given: Reported, p: float) -> str:
    return f", times {given.comparisons} comparisons (Bonferroni) {p:.4g}" if given.comparisons > 1 else ""


def _p_fits(text: str | None, p: float, interval: tuple[float, float]) -> tuple[bool, list[str]]:
    """Compare a published p, or a bound on it, with the range of p that follows."""
    if text is None:
        return True, []
    sign, _, digits = re.fullmatch(r"\s*([<>]?)(=?)\s*(.*)", text).groups()  # type: ignore[union-attr]
    stated = printed(digits, "--p")
    slack = 1e-9 * max(stated.value, 1e-12)
    if sign == "<":
        fits = interval[0] < stated.value + slack
    elif sign == ">":
        fits = interval[1] > stated.value - slack
    else:
        low, high = stated.interval
        fits = interval[0] <= high + slack and interval[1] >= low - slack
    word = "fits" if fits else "does not fit"
    return fits, [f"the published p {text} {word}: p = {p:.4g} follows"]


# -- F -----------------------------------------------------------------------------------------------------------------


def _of_f(given: Reported) -> tuple[dict[str, Any], bool, list[str]]:
    df1, df2 = _dfs(given.df or "", 2)
    value = printed(given.F or "", "--F")
    effects = effects_of_f(value.value, df1, df2)
    low, high = value.interval
    ends = (effects_of_f(high, df1, df2).p, effects_of_f(max(low, 0.0), df1, df2).p)
    fits, findings = _p_fits(given.p, effects.p, ends)
    findings.insert(0, _f_sentence(given, effects))
    derived = _effects_tree(effects)
    if given.ges is None:
        return derived, fits, findings
    if df1 != int(df1) or df2 != int(df2):
        raise InputError(f"--df {given.df}: with --ges expected the uncorrected, whole degrees of freedom")
    ges = printed(given.ges, "--ges")
    part = subject_part(value.value, int(df1), int(df2), ges)
    possible, words = _subject_words(part, effects, given.ges)
    return derived | _subject_tree(part), fits and possible, findings + words


def _f_sentence(given: Reported, effects: FEffects) -> str:
    p = f"p = {effects.p:.4g}" if effects.p > 1e-300 else f"p = 10^{effects.log10_p:.2f}"
    low, high = effects.ci90
    return (
        f"F({given.df}) = {given.F} gives {p} and partial eta squared {effects.partial_eta2:.5f} "
        f"(90 % interval {low:.4f} to {high:.4f})"
    )


def _effects_tree(effects: FEffects) -> dict[str, Any]:
    return {
        "partial_eta2": effects.partial_eta2,
        "ci90_lo": effects.ci90[0],
        "ci90_hi": effects.ci90[1],
        "omega2_partial_from_F": effects.partial_omega2,
        "epsilon2_partial": effects.partial_epsilon2,
        "p": p_number(effects.p),
        "log10_p": number(effects.log10_p),
    }


def _subject_tree(part: SubjectPart) -> dict[str, Any]:
    return {
        "n": part.n,
        "k": part.k,
        "SSerror_over_SSeffect": part.error_over_effect,
        "SSsubject_over_SSeffect": part.subject_over_effect,
        "F_subject": part.F_subject,
        "F_subject_range_for_rounding_of_ges": [number(end) for end in part.F_subject_range],
        "icc_consistency": number(part.icc),
        "p_subject_larger": p_number(part.p_larger),
    }


def _subject_words(part: SubjectPart, effects: FEffects, ges: str) -> tuple[bool, list[str]]:
    low, high = part.F_subject_range
    if high < 0:
        return False, [
            f"generalized eta squared {ges} is larger than partial eta squared {effects.partial_eta2:.5f}, which no "
            "data can give: F, df and eta squared do not fit together"
        ]
    span = f"{part.F_subject:.2f} (between {max(low, 0.0):.2f} and {high:.2f} for the rounding of {ges})"
    words = [
        f"the design is {part.n} subjects x {part.k} conditions; generalized eta squared {ges} implies "
        f"F({part.n - 1},{(part.n - 1) * (part.k - 1)}) = {span} for the subjects, ICC {part.icc:.3f}"
    ]
    return True, [*words, _pairing(part, high)]


def _pairing(part: SubjectPart, high: float) -> str:
    """Say what F for subjects means; the doubt that rounding leaves goes in favour of the authors."""
    if math.isfinite(high) and part.p_larger < FAR:
        return "subjects differ by more than noise: pairing carried information, as a repeated-measures design supposes"
    too_small = part.p_smaller < FAR and high < 1
    if too_small:
        return (
            "subjects differ by less than noise alone would make them (F well below 1): the values fit arithmetically, "
            "but such data are rare under any model with independent errors"
        )
    return (
        "subjects differ no more than noise would make them: the values fit together, but pairing carried no "
        "information; the runs are exchangeable, as in a one-way design without repeated measures"
    )


def render_reported(document: dict[str, Any]) -> str:
    """Write the document as text.

    Args:
        document: From `reported_document`.

    Returns:
        The verdict and one sentence per finding.
    """
    verdict = "the published values fit together" if document["fits"] else "the published values do NOT fit together"
    return "\n".join([verdict, *(f"- {finding}" for finding in document["findings"])])
