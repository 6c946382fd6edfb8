"""The documents of `power` and `check-reported` as CSV and LaTeX, beside their text and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rayscale.analysis.csv_tables import document_csv
from rayscale.analysis.latex_parts import escape, math_number, table
from rayscale.errors import InputError

FORMATS = ("text", "csv", "latex")
NAMES = {
    "partial_eta2": r"Partial $\eta^2$",
    "ci90_lo": r"90\% CI of partial $\eta^2$, low",
    "ci90_hi": r"90\% CI of partial $\eta^2$, high",
    "omega2_partial_from_F": r"Partial $\omega^2$",
    "epsilon2_partial": r"Partial $\varepsilon^2$",
    "p": "$p$",
    "log10_p": r"$\log_{10} p$",
    "n": "Subjects",
    "k": "Conditions",
    "SSerror_over_SSeffect": r"$SS_{error} / SS_{effect}$",
    "SSsubject_over_SSeffect": r"$SS_{subject} / SS_{effect}$",
    "F_subject": "$F$ for subjects",
    "icc_consistency": "ICC (consistency)",
    "p_subject_larger": "$p$ of a larger $F$ for subjects",
    "p_raw": "$p$",
    "p_bonferroni": "$p$ (Bonferroni)",
}
"""Quantities of `check-reported` as LaTeX writes them."""


def render_document(
    document: dict[str, Any], form: str, text: Callable[[dict[str, Any]], str], latex: Callable[[dict[str, Any]], str]
) -> str:
    """Write a document in a format.

    Args:
        document: What a command found.
        form: `text`, `csv` or `latex`.
        text: Writes it as text.
        latex: Writes it as LaTeX.

    Returns:
        Text without a closing line break.

    Raises:
        InputError: If the format is unknown.
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}: expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return {"text": text, "csv": document_csv, "latex": latex}[form](document).rstrip("\n")


def power_latex(document: Mapping[str, Any]) -> str:
    """Write planning numbers as a booktabs table and a sentence for a paper.

    Args:
        document: From `powering.power_document`.

    Returns:
        LaTeX that needs `booktabs`.
    """
    design, effect = document["design"], document["effect"]
    at, wanted, least = document["power_at_n"], document["n_for_power"], document["smallest_effect"]
    rows = [["Levels", f"${design['levels']}$"], [r"Significance level $\alpha$", f"${_short(design['alpha'])}$"]]
    rows += [[r"Correlation within repetitions $\rho$", f"${_short(design['rho'])}$"]]
    rows += [[r"Sphericity $\varepsilon$", f"${_short(design['epsilon'])}$" if design["epsilon"] < 1 else "$1$"]]
    if effect["f"] is not None:
        rows.append([f"Effect $f$ ({escape(str(effect['source']))})", math_number(effect["f"], 3)])
    if at["power"] is not None:
        rows.append([f"Power with ${at['n']}$ repetitions", f"${_short(at['power'])}$"])
    if wanted["n"] is not None:
        rows.append([f"Repetitions for power ${_short(wanted['power'])}$", f"${wanted['n']}$"])
    if least["f"] is not None:
        label = f"Smallest effect $f$ with ${least['n']}$ repetitions and power ${_short(least['power'])}$"
        rows.append([label, math_number(least["f"], 3)])
    written = table("Planned number of repetitions.", "power", ["Quantity", "Value"], rows)
    return "\n".join([written, *_power_sentence(document), *map(_note, document["notes"])])


def _power_sentence(document: Mapping[str, Any]) -> list[str]:
    design, effect, wanted = document["design"], document["effect"], document["n_for_power"]
    if effect["f"] is None or wanted["n"] is None:
        return []
    return [
        f"An a priori power analysis for a repeated-measures ANOVA with {design['levels']} levels ($f = "
        f"{math_number(effect['f'], 3).strip('$')}$, $\\alpha = {_short(design['alpha'])}$, $\\rho = "
        f"{_short(design['rho'])}$, $\\varepsilon = {_short(design['epsilon'])}$) gave {wanted['n']} repetitions for a "
        f"power of ${_short(wanted['power'])}$."
    ]


def _short(share: float) -> str:
    """A number that cannot exceed one: three digits, no leading zero, no empty ones behind."""
    return f"{share:.3g}".removeprefix("0") if 0 < share < 1 else f"{share:g}"


def _note(text: str) -> str:
    return f"Note: {escape(text)}."


def reported_latex(document: Mapping[str, Any]) -> str:
    """Write what published statistics imply as a booktabs table and sentences.

    Args:
        document: From `checking.reported_document`.

    Returns:
        LaTeX that needs `booktabs`.
    """
    stated = {name: value for name, value in document["given"].items() if value is not None}
    if document["given"].get("t") is None:
        stated.pop("comparisons", None)  # only a t has a family of comparisons
    given = [[escape(name), escape(str(value))] for name, value in stated.items()]
    skipped = ("given", "fits", "findings")
    derived = [
        [NAMES.get(name, escape(name)), math_number(value, 5)]
        for name, value in document.items()
        if name not in skipped and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    verdict = "The published values fit together." if document["fits"] else "The published values do not fit together."
    return "\n".join(
        [
            table("Published statistics.", "reported", ["Statistic", "As printed"], given),
            table("What they imply.", "implied", ["Quantity", "Value"], derived),
            verdict,
            *(f"{escape(finding[:1].upper() + finding[1:])}." for finding in document["findings"]),
        ]
    )
