"""The relative-loss forecast of a sweep's own fit: the part `forecast` of the analysis tree, and as text.

It carries the fitted law far beyond what was measured, and says by how much: the tree holds the factor of compute that
the trials span beside the one that the forecast reaches.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from rayscale.analysis.forecast_tree import Kappa, family, forecast_document, kappa_or_reason
from rayscale.spec import ForecastSpec

Tree = dict[str, Any]

WIDTH = 100

PLAN_KEYS = ("gamma", "R", "log10_compute_multiple", "limit", "years_to_target", "gamma_for_target", "fleets")
SHARED_KEYS = (
    *("kappa", "kappa_ci95", "kappa_source", "kappa_formula", "compute_spent_on", "applies_to", "floor"),
    *("gamma_unit", "years", "target", "gamma_for_target"),
)


def sweep_forecast(fit: Mapping[str, Any], settings: ForecastSpec, name: str) -> Tree:
    """Forecast from the fit of a sweep.

    Args:
        fit: The document of `fitted.sweep_scaling`.
        settings: Years, gammas, target.
        name: The sweep.

    Returns:
        kappa and its source, `gamma_for_target`, one entry per gamma under `plans` with intervals and the comparison
        of two fleets of the same energy, a `family` over dates; or `{"kappa": None, "why_not": ...}`.
    """
    kappa = kappa_or_reason(fit, name)
    if isinstance(kappa, str):
        return {"kappa": None, "why_not": kappa}
    front = settings.front_load or settings.years / 10
    gammas = sorted(set(settings.gammas))
    found = [forecast_document(kappa, gamma, settings.years, settings.target, front) for gamma in gammas]
    return {
        **{key: found[0][key] for key in SHARED_KEYS},
        "gamma_for_target_ci95": found[0]["ci95"]["gamma_for_target"],
        "plans": [{**{key: one[key] for key in PLAN_KEYS}, "ci95": one["ci95"]} for one in found],
        "family": family(kappa.value, gammas[-1], settings.years),
        "notes": _notes(kappa, fit, max(one["log10_compute_multiple"] for one in found)),
    }


def _notes(kappa: Kappa, fit: Mapping[str, Any], decades: float) -> list[str]:
    notes = [
        "gamma counts doublings of the fleet's efficiency per year (gamma = 2: every 6 months); the fleet uses the "
        "same energy every year, and R = 1 is what a first year's compute has reached",
    ]
    if kappa.floor:
        notes.append(f"R is the share of L - E that is left; E = {kappa.floor:.4g} is never undercut")
    else:
        notes.append("the best fit has no floor (E = 0), so R is the share of the whole loss")
    flops = fit["range"]["flops"]
    if flops:
        measured = math.log10(flops[1] / flops[0])
        notes.append(
            f"an extrapolation: the trials span a factor of 10^{measured:.1f} in compute, the forecast reaches "
            f"10^{decades:.1f} times the first year's; the interval is that of kappa if the law holds that far"
        )
    return notes


def forecast_text(tree: Mapping[str, Any]) -> str:
    """Write a sweep's forecast for people.

    Args:
        tree: From `sweep_forecast`.

    Returns:
        Lines; one that says why there is none.
    """
    if tree["kappa"] is None:
        return f"no relative-loss forecast: {tree['why_not']}"
    low, high = tree["kappa_ci95"]
    years, target = f"{tree['years']:g}", f"{tree['target']:g}"
    kappa = (
        f"kappa = {tree['kappa_formula']} = {tree['kappa']:.4g} (95% CI {low:.4g} to {high:.4g}), from the "
        f"{tree['kappa_source']}; for {tree['applies_to']}, compute spent on {tree['compute_spent_on']}"
    )
    head = f"{'gamma (doublings/yr)':>20}{f'R after {years} yr':>30}{f'years to R = {target}':>34}"
    needed = _ends(tree["gamma_for_target"], tree["gamma_for_target_ci95"])
    lines = [*textwrap.wrap(kappa, WIDTH), "", head, *(_row(plan) for plan in tree["plans"]), ""]
    lines.append(f"to reach R = {target} within {years} years takes gamma = {needed}")
    lines.append(_fleets(tree["plans"][-1]))
    notes = (textwrap.wrap(note, WIDTH, initial_indent="- ", subsequent_indent="  ") for note in tree["notes"])
    return "\n".join([*lines, *(line for note in notes for line in note)])


def _fleets(plan: Mapping[str, Any]) -> str:
    fleets = plan["fleets"]
    ahead = "never ahead" if fleets["overtaken"] is None else f"ahead after {fleets['overtaken']:.4g} years"
    return (
        f"the same energy at gamma {plan['gamma']:g}: front-loaded within {fleets['spend_years']:g} years R = "
        f"{fleets['front_loaded']:.4g}, spent evenly R = {fleets['even']:.4g} ({ahead})"
    )


def _row(plan: Mapping[str, Any]) -> str:
    years = _ends(plan["years_to_target"], plan["ci95"]["years_to_target"])
    return f"{plan['gamma']:>20g}{_ends(plan['R'], plan['ci95']['R']):>30}{years:>34}"


def _ends(value: float | None, ends: list[float | None]) -> str:
    words = ["never" if one is None else f"{one:.4g}" for one in (value, *ends)]
    return f"{words[0]} ({words[1]} to {words[2]})"
