"""`rayscale forecast`: the relative-loss forecast as text, and what its options mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayscale.analysis.forecast_tree import Kappa, family, forecast_document, kappa_of_fit
from rayscale.errors import InputError

__all__ = ["Kappa", "family", "forecast_document", "gammas_of", "kappa_of_fit", "render_forecast"]


def render_forecast(document: dict[str, Any], *, with_table: bool = False) -> str:
    """Write a forecast as text.

    Args:
        document: From `forecast_document`.
        with_table: Add the table over gamma and dates.

    Returns:
        Text.
    """
    gamma, years, ci = document["gamma"], document["years"], document["ci95"]
    lines = [
        f"relative loss after {years:g} years: {document['R']:.6g}{_interval(ci, 'R')} (kappa {document['kappa']:.4g}, "
        f"gamma {gamma:g} doublings of efficiency per year; compute so far 10^{document['log10_compute_multiple']:.4g} "
        "first years)"
    ]
    if gamma < 0:
        lines.append(f"efficiency falls: the relative loss never goes below {document['limit']:.6g}")
    if document["target"] is not None:
        wanted = document["years_to_target"]
        when = "never" if wanted is None else f"after {wanted:.5g} years"
        lines.append(f"relative loss {document['target']:g} is reached {when}{_interval(ci, 'years_to_target')}")
        if document["gamma_for_target"] is not None:
            needed = f"gamma = {document['gamma_for_target']:.4g}{_interval(ci, 'gamma_for_target')}"
            lines.append(f"to reach it within {years:g} years takes {needed}")
    lines += _fleet_lines(document["fleets"])
    lines.append(_floor_line(document))
    return "\n".join([*lines, "", *_table_lines(document["family"])] if with_table else lines)


def _interval(ci: dict[str, Any] | None, name: str) -> str:
    if ci is None:
        return ""
    low, high = ("never" if end is None else f"{end:.4g}" for end in ci[name])
    return f" (95 % CI {low} to {high})"


def _floor_line(document: dict[str, Any]) -> str:
    if document["floor"] is None:
        return "with an irreducible loss E this holds for L - E, with kappa = alpha beta / (alpha + beta)"
    low, high = document["kappa_ci95"]
    return (
        f"kappa = {document['kappa_formula']} = {document['kappa']:.4g} ({low:.4g} to {high:.4g}) from the "
        f"{document['kappa_source']}; compute is spent on {document['compute_spent_on']}; it holds for L - E, with "
        f"E = {document['floor']:.4g}"
    )


def _fleet_lines(fleets: dict[str, Any] | None) -> list[str]:
    if fleets is None:
        return []
    lines = [
        f"the same energy ({fleets['energy']:g} fleet-years): spent evenly R = {fleets['even']:.5g}; front-loaded "
        f"within {fleets['spend_years']:g} years R = {fleets['front_loaded']:.5g}"
    ]
    if fleets["overtaken"] is None:
        return [*lines, "the even plan does not overtake the front-loaded one before that date"]
    return [*lines, f"the even plan overtakes it after {fleets['overtaken']:.4g} years"]


def _table_lines(found: dict[str, Any]) -> list[str]:
    head = "gamma (doublings/yr)" + "".join(f"{f'{t:g} yr':>10}" for t in found["years"])
    rows = zip(found["gammas"], found["R"], strict=True)
    return [head, *(f"{gamma:>20g}" + "".join(f"{value:>10.4f}" for value in row) for gamma, row in rows)]


def gammas_of(text: str) -> Sequence[float]:
    """Read gammas of the command line.

    Args:
        text: One number, or several separated by commas (for the figure; the first one is the forecast's).

    Returns:
        At least one number.

    Raises:
        InputError: If a part is no number.
    """
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--gamma {text}: expected doublings per year, e.g. 1 or 0,0.5,1,2")
    return found
