"""The relative-loss forecast as a document, with kappa stated or from a fit and its interval carried through.

Which kappa a fit gives depends on what varied. Where N and D did, compute is spent on the best of both and kappa =
alpha beta/(alpha + beta); where only D did, the model stays as it is, compute goes into tokens alone and kappa = beta.
Either holds for L - E, with the floor E of the same fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.analysis.fleets import compare_fleets
from rayscale.analysis.forecast import forecast, gamma_for_target, years_to_target
from rayscale.errors import InputError

FAMILY = (-0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
"""Doublings per year of the table and the figure, beside the one asked for."""
NO_FLOOR = 1e-6
"""Below this a fitted floor is none. Units: nats per token."""
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
        formula: How it follows from the fit's exponents; None for a stated value.
        compute: What more compute is spent on; None for a stated value.
    """

    value: float
    ci95: tuple[float, float] | None = None
    applies_to: str = "L"
    floor: float | None = None
    source: str = "stated"
    formula: str | None = None
    compute: str | None = None


FORMULAS = {
    "both": ("alpha beta / (alpha + beta)", "the best N and D together"),
    "beta": ("beta", "tokens alone, at this model size"),
    "alpha": ("alpha", "model size alone, at this number of tokens"),
}
"""Exponents of the fit -> kappa, and what more compute is spent on."""


def kappa_of_fit(fit: Mapping[str, Any], source: str) -> Kappa:
    """Take kappa from a fit.

    Args:
        fit: The document of `fitting.fit_frame`.
        source: Name of the table or ledger.

    Returns:
        kappa with its bootstrap interval; it applies to L - E.

    Raises:
        InputError: If the data leave it open.
    """
    found = kappa_or_reason(fit, source)
    if isinstance(found, str):
        raise InputError(f"--fit {source}: {found}; state --kappa instead")
    return found


def kappa_or_reason(fit: Mapping[str, Any], source: str) -> Kappa | str:
    """Take kappa from a fit, or say why the data leave it open.

    Args:
        fit: The document of `fitting.fit_frame`.
        source: Name of the table or ledger.

    Returns:
        kappa with its interval, or the reason, a clause. The interval is that of the bootstrap; where the floor is open
        (at E = 0 a bootstrap is too narrow) or one term was fitted, the wider ends of bootstrap and profile.
    """
    names = [name for name in ("alpha", "beta") if fit[name] is not None]
    if any(fit[name] <= 0 for name in names) or (len(names) == 2 and fit["optimum"] is None):
        return "an exponent is not above 0, so the loss does not fall with compute"
    interval = _kappa_interval(fit, names)
    if interval is None:
        return "the data leave kappa open (no interval of the fit's exponents with two ends above 0)"
    value = _harmonic([fit[name] for name in names])
    formula, compute = FORMULAS["both" if len(names) == 2 else names[0]]
    return Kappa(value, interval, "L - E", visible_floor(fit["E"]), f"fit of {source}", formula, compute)


def visible_floor(floor: float) -> float:
    """Read a fitted E: its logarithm is what is fitted, so that a law without a floor ends at some 1e-14.

    Args:
        floor: E. Units: nats per token.

    Returns:
        E; 0.0 where it is below `NO_FLOOR`.
    """
    return floor if floor >= NO_FLOOR else 0.0


def _kappa_interval(fit: Mapping[str, Any], names: list[str]) -> tuple[float, float] | None:
    known = fit["optimum"]["ci95"]["kappa"] if len(names) == 2 else fit["ci95"][names[0]]
    profile = fit["profile95"]
    ends = [known]
    if profile is not None:
        if any(None in profile[name] for name in names):
            return None
        if len(names) == 1 or None in profile["E"]:
            ends.append([_harmonic([profile[name][side] for name in names]) for side in (0, 1)])
    if any(None in pair or pair[0] <= 0 for pair in ends):
        return None
    return min(pair[0] for pair in ends), max(pair[1] for pair in ends)


def _harmonic(exponents: list[float]) -> float:
    """Compute alpha beta/(alpha + beta), or take the one exponent: it grows with each of them; 0 if one is."""
    return 1 / sum(1 / exponent for exponent in exponents) if min(exponents) > 0 else 0.0


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
        "kappa_formula": exponent.formula,
        "compute_spent_on": exponent.compute,
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
