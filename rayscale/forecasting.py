"""`rayscale forecast`: the relative-loss forecast as a document and as text."""

from __future__ import annotations

from typing import Any

from rayscale.analysis.forecast import forecast, gamma_for_target, years_to_target


def forecast_document(kappa: float, gamma: float, years: float, target: float | None) -> dict[str, Any]:
    """Compute the forecast of design 4.6.

    Args:
        kappa: Exponent of the loss in compute.
        gamma: Efficiency doublings per year.
        years: The date. Units: yr.
        target: Wanted relative loss; None asks for none.

    Returns:
        R, compute_multiple (null above the largest double; its logarithm beside it), years_to_target (null: never, or
        not asked), gamma_for_target, limit.
    """
    found = forecast(kappa, gamma, years)
    asked = target is not None and 0 < target < 1 and years > 0
    return {
        "R": found.relative_loss,
        "log_R": found.log_relative_loss,
        "compute_multiple": found.compute_multiple,
        "log10_compute_multiple": found.log10_compute_multiple,
        "limit": found.limit,
        "target": target,
        "years_to_target": None if target is None else years_to_target(target, kappa, gamma),
        "gamma_for_target": gamma_for_target(target, kappa, years) if asked and target is not None else None,
        "kappa": kappa,
        "gamma": gamma,
        "gamma_unit": "doublings per year",
        "years": years,
    }


def render_forecast(document: dict[str, Any]) -> str:
    """Write a forecast as text.

    Args:
        document: From `forecast_document`.

    Returns:
        Text.
    """
    gamma, years = document["gamma"], document["years"]
    lines = [
        f"relative loss after {years:g} years: {document['R']:.6g} (kappa {document['kappa']:g}, gamma {gamma:g} "
        f"doublings of efficiency per year; compute so far 10^{document['log10_compute_multiple']:.4g} first years)"
    ]
    if gamma < 0:
        lines.append(f"efficiency falls: the relative loss never goes below {document['limit']:.6g}")
    if document["target"] is not None:
        wanted = document["years_to_target"]
        when = "never" if wanted is None else f"after {wanted:.5g} years"
        lines.append(f"relative loss {document['target']:g} is reached {when}")
        if document["gamma_for_target"] is not None:
            lines.append(f"to reach it within {years:g} years takes gamma = {document['gamma_for_target']:.4g}")
    lines.append("with an irreducible loss E this holds for L - E, with kappa = alpha beta / (alpha + beta)")
    return "\n".join(lines)
