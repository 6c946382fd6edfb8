"""The price of a study as text, and the options of the command line that state rates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayscale.analysis.grid import lookup
from rayscale.analysis.rates import Grid, Rates, rates_of
from rayscale.design import Plan
from rayscale.errors import InputError
from rayscale.pricing.basis import find_basis
from rayscale.pricing.document import price_document
from rayscale.pricing.hardware import HARDWARE
from rayscale.quantities import format_count, format_duration


def price_plan(
    plan: Plan,
    hardware: str,
    storage: str | Path,
    prices: Sequence[str],
    country: str | None,
    grid: float | None,
    effect: float | None,
) -> dict[str, Any]:
    """Price a plan as the command line asks.

    Args:
        plan: The plan.
        hardware: `this` or a key of `HARDWARE`.
        storage: Where earlier ledgers lie.
        prices: See `stated_rates`.
        country: See `stated_rates`.
        grid: See `stated_rates`.
        effect: Cohen's f.

    Returns:
        The document of `price_document`.

    Raises:
        InputError: For unknown hardware or prices, or where there is nothing to price from.
    """
    rates = stated_rates(rates_of(plan.spec.report), prices, country, grid)
    basis = find_basis(plan, hardware, storage)
    if basis is None:
        raise InputError(
            f"--hardware {hardware}: no earlier ledger on this machine under {storage}, and the model is too large to "
            f"calibrate (or not known offline); expected a ledger, or one of {', '.join(HARDWARE)}"
        )
    return price_document(plan, basis, rates, effect)


def stated_rates(rates: Rates, prices: Sequence[str], country: str | None, grid: float | None) -> Rates:
    """Put what the command line states over the sweep file's rates.

    Args:
        rates: Of the sweep file.
        prices: E.g. `1.2/h`, `0.3/kWh`.
        country: ISO 3166 code, looked up in codecarbon's data.
        grid: Intensity, instead of a lookup. Units: g CO2e/kWh.

    Returns:
        The rates; a country without intensity is there with the reason.

    Raises:
        InputError: If a price cannot be read.
    """
    for text in prices:
        unit, value = _price(text)
        rates = replace(rates, price_per_gpu_hour=value) if unit == "h" else replace(rates, price_per_kwh=value)
    if grid is not None:
        own = Grid(country or "stated", grid, "stated on the command line")
        return replace(rates, grids=(own, *rates.grids))
    return replace(rates, grids=(_looked_up(country), *rates.grids)) if country else rates


def _price(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"\s*([\d_]*\.?\d+)\s*/\s*(h|kWh)\s*", text)
    if not match:
        raise InputError(f"--price {text}: expected a price per device-hour such as 1.2/h, or of electricity: 0.3/kWh")
    return match[2], float(match[1])


def _looked_up(country: str) -> Grid:
    try:
        found = lookup(country)
    except InputError as error:
        return Grid(country, None, why_not=f"{error}; here: --grid G_PER_KWH")
    return Grid(country, found.g_per_kwh, found.source, found.year)


def render_price(document: Mapping[str, Any]) -> str:
    """Write a price for people.

    Args:
        document: From `pricing.document.price_document`.

    Returns:
        Text.
    """
    basis, totals, currency = document["basis"], document["totals"], document["rates"]["currency"] or ""
    lines = [f"price (from {basis['source']}; low to high)"]
    lines += [f"  {line}" for line in _basis_lines(basis)]
    lines += [f"  {line}" for line in _amount_lines(totals, currency)]
    for key, title in (
        ("more_repetitions", f"{document['more_repetitions']['repetitions']} more repetitions"),
        ("next_level", f"a level of {format_count(document['next_level']['tokens'])} tokens"),
    ):
        lines.append(f"  {title} ({document[key]['trials']} trials): {_brief(document[key], currency)}")
    if document["power"]:
        lines += [f"  {line}" for line in _power_lines(document["power"])]
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])])


def _basis_lines(basis: Mapping[str, Any]) -> list[str]:
    rate = {name: value / 1e12 for name, value in basis["train_rate"].items()}
    lines = [f"rate {_range(rate)} TFLOP/s while training"]
    if basis["kind"] == "assumed":
        known = basis["assumptions"]
        lines[0] += f" = {_range(known['mfu'])} of the {known['precision']} peak of {known['peak_tflops']:g} TFLOP/s"
    if basis["busy_w"]:
        lines.append(f"power {_range(basis['busy_w'])} W while computing, {_range(basis['idle_w'])} W while idle")
    return lines


def _range(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "n/a"
    if found["low"] == found["high"]:
        return f"{found['typical']:.3g}"
    return f"{found['typical']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _amount_lines(totals: Mapping[str, Any], currency: str) -> list[str]:
    hours = totals["device_hours"]
    if hours is None:
        return ["time, energy, carbon and cost: n/a"]
    spans = [format_duration(3600 * hours[name]) for name in ("typical", "low", "high")]
    lines = [f"device time {spans[0]} ({spans[1]} to {spans[2]}) for {totals['trials']} trials"]
    parts = ", ".join(f"{name} {format_duration(found['typical'])}" for name, found in totals["seconds"].items())
    lines += [f"  of it {parts}", f"energy {_range(totals['energy_kwh'])} kWh"]
    lines += [f"CO2e, grid {name}: {_range(grams)} g" for name, grams in totals["co2e_g"].items()]
    return [*lines, f"cost {_range(totals['cost'])} {currency}".rstrip()]


def _brief(found: Mapping[str, Any], currency: str) -> str:
    if found["device_hours"] is None:
        return "n/a"
    text = f"{_range(found['device_hours'])} device-hours, {_range(found['energy_kwh'])} kWh"
    return text if found["cost"] is None else f"{text}, {_range(found['cost'])} {currency}".rstrip()


def _power_lines(power: Mapping[str, Any]) -> list[str]:
    assumed = f"rho {power['rho']:g} and epsilon {power['epsilon']:g} assumed"
    lines = [
        f"{power['repetitions']} repetitions of {power['levels']} levels of {power['factor']} find effects from "
        f"f = {power['smallest_effect']:.3g} on with power {power['wanted_power']:g} ({assumed})"
    ]
    if power["power"] is not None:
        lines.append(f"power for f = {power['effect']:g}: {power['power']:.3f}")
    return lines
