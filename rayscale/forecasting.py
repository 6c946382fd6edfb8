"""`rayscale forecast`: the relative-loss forecast as a document and as text, with kappa stated or from a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.analysis.fleets import compare_fleets
from rayscale.analysis.forecast import forecast, gamma_for_target, years_to_target
from rayscale.errors import InputError

FAMILY = (-0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
"""Doublings per year of the table and the figure, beside the one asked for."""
DATES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Years of the table, beside the one asked for."""


@dataclass(frozen=True)
class Kappa:
    """The exponent of the loss in compute.

    Attributes:
        value: kappa.
        ci95: Its interval; None for a stated value.
        applies_to: `L`, or `L - E` where a floor was fitted.
        floor: E of the fit; None for a stated value.
        source: Where it comes from.
    """

    value: float
    ci95: tuple[float, float] | None = None
    applies_to: str = "L"
    floor: float | None = None
    source: str = "stated"


def kappa_of_fit(fit: dict[str, Any], source: str) -> Kappa:
    """Take kappa = alpha beta/(alpha + beta) from a fit.

    Args:
        fit: The document of `fitting.fit_frame`.
        source: Name of the table or ledger.

    Returns:
        kappa with its bootstrap interval; it applies to L - E.

    Raises:
        InputError: If the fit has only one term: then the loss at the best N and D is not known.
    """
    optimum = fit["optimum"]
    if optimum is None:
        raise InputError(f"--fit {source}: N and D must both vary for a kappa of compute; state --kappa instead")
    low, high = optimum["ci95"]["kappa"]
    if low is None or high is None or low <= 0:
        raise InputError(f"--fit {source}: the data leave kappa open (no bootstrap interval above 0); state --kappa")
    return Kappa(optimum["kappa"], (low, high), "L - E", fit["E"], f"fit of {source}, bootstrap by run")


def forecast_document(
    kappa: float | Kappa, gamma: float, years: float, target: float | None, front_load: float | None = None
) -> dict[str, Any]:
    """Compute the forecast of design 4.6.

    Args:
        kappa: Exponent of the loss in compute, stated or fitted.
        gamma: Efficiency doublings per year.
        years: The date. Units: yr.
        target: Wanted relative loss; None asks for none.
        front_load: Years within which a front-loaded fleet of the same energy spends it; None compares none.

    Returns:
        R, compute_multiple (null above the largest double; its logarithm beside it), years_to_target (null: never, or
        not asked), gamma_for_target, limit, their intervals where kappa has one, family, fleets.
    """
    exponent = kappa if isinstance(kappa, Kappa) else Kappa(kappa)
    found = forecast(exponent.value, gamma, years)
    return {
        "R": found.relative_loss,
        "log_R": found.log_relative_loss,
        "compute_multiple": found.compute_multiple,
        "log10_compute_multiple": found.log10_compute_multiple,
        "limit": found.limit,
        "target": target,
        **_inverse(exponent.value, gamma, years, target),
        "kappa": exponent.value,
        "kappa_ci95": list(exponent.ci95) if exponent.ci95 else None,
        "kappa_source": exponent.source,
        "applies_to": exponent.applies_to,
        "floor": exponent.floor,
        "gamma": gamma,
        "gamma_unit": "doublings per year",
        "years": years,
        "ci95": _intervals(exponent, gamma, years, target),
        "family": family(exponent.value, gamma, years),
        "fleets": None if front_load is None else asdict(compare_fleets(exponent.value, gamma, years, front_load)),
    }


def _inverse(kappa: float, gamma: float, years: float, target: float | None) -> dict[str, float | None]:
    asked = target is not None and 0 < target < 1 and years > 0
    return {
        "years_to_target": None if target is None else years_to_target(target, kappa, gamma),
        "gamma_for_target": gamma_for_target(target, kappa, years) if asked and target is not None else None,
    }


def _intervals(kappa: Kappa, gamma: float, years: float, target: float | None) -> dict[str, Any] | None:
    """Carry kappa's interval through: all results are monotone in kappa, so its ends give theirs."""
    if kappa.ci95 is None:
        return None
    low, high = kappa.ci95
    slow, fast = (_inverse(end, gamma, years, target) for end in (low, high))
    return {
        "R": [forecast(high, gamma, years).relative_loss, forecast(low, gamma, years).relative_loss],
        "years_to_target": [fast["years_to_target"], slow["years_to_target"]],
        "gamma_for_target": [fast["gamma_for_target"], slow["gamma_for_target"]],
    }


def family(kappa: float, gamma: float, years: float) -> dict[str, Any]:
    """Tabulate R over doublings per year and dates.

    Args:
        kappa: The exponent.
        gamma: Added to `FAMILY`.
        years: Added to `DATES`.

    Returns:
        `gammas, years, R` with one row per gamma.
    """
    gammas, dates = sorted({*FAMILY, gamma}), sorted({*DATES, years})
    return {
        "gammas": gammas,
        "years": dates,
        "R": [[forecast(kappa, g, t).relative_loss for t in dates] for g in gammas],
    }


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
        f"kappa = alpha beta / (alpha + beta) = {document['kappa']:.4g} ({low:.4g} to {high:.4g}) from the "
        f"{document['kappa_source']}; it holds for L - E, with E = {document['floor']:.4g}"
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
