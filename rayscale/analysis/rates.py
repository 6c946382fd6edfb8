"""What turns energy and time into carbon and money: PUE, grid intensities, prices, each with its source and year.

    facility energy = device energy · PUE      CO2e = facility energy · intensity
    cost = facility energy · price per kWh + device-hours · price per device-hour

A rate that was not given is None, and so is all that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rayscale.analysis.accounting import JOULES_PER_KWH, SECONDS_PER_HOUR, Part
from rayscale.analysis.grid import lookup
from rayscale.errors import InputError
from rayscale.spec import RegionSpec, ReportSpec


@dataclass(frozen=True)
class Grid:
    """A grid to show the energy with.

    Attributes:
        name: As it is shown.
        g_per_kwh: Intensity; None if it could not be found. Units: g CO2e/kWh.
        source: Where the intensity comes from; None if it was not said.
        year: Year that it describes; None if it was not said.
        why_not: Why there is no intensity.
    """

    name: str
    g_per_kwh: float | None
    source: str | None = None
    year: int | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Rates:
    """All rates.

    Attributes:
        pue: Facility energy / device energy; 1.0 counts the devices alone.
        pue_source: Where it comes from.
        pue_year: Year that it describes.
        grids: The sweep's own grid first, then those it is compared with.
        price_per_kwh: Price of electricity; None if not given.
        price_per_gpu_hour: Price of a device-hour; None if not given.
        currency: Of both prices.
    """

    pue: float = 1.0
    pue_source: str | None = None
    pue_year: int | None = None
    grids: Sequence[Grid] = field(default_factory=tuple)
    price_per_kwh: float | None = None
    price_per_gpu_hour: float | None = None
    currency: str | None = None

    def tree(self) -> dict[str, Any]:
        """Write the rates for JSON."""
        return {
            "pue": {"value": self.pue, "source": self.pue_source, "year": self.pue_year},
            "grids": [asdict(grid) for grid in self.grids],
            "price_per_kwh": self.price_per_kwh,
            "price_per_gpu_hour": self.price_per_gpu_hour,
            "currency": self.currency,
        }

    def notes(self) -> list[str]:
        """Say which rates are missing or have no source, one sentence each."""
        notes = []
        if self.pue_source is None and self.pue == 1.0:
            notes.append("PUE 1: the building's cooling and conversion losses are not counted (report.pue)")
        elif self.pue_source is None:
            notes.append(f"PUE {self.pue:g} was given without a source (report.pue_source)")
        for grid in self.grids:
            if grid.why_not:
                notes.append(f"no CO2e for {grid.name}: {grid.why_not}")
            elif grid.source is None or grid.year is None:
                notes.append(f"the grid intensity of {grid.name} was given without source or year")
        if not self.grids:
            notes.append(
                "no CO2e: no grid intensity was given (report.grid_g_per_kwh, report.country or report.regions)"
            )
        return notes


def rates_of(report: ReportSpec) -> Rates:
    """Read the rates of a sweep file; intensities of countries are looked up.

    Args:
        report: The section `report`.

    Returns:
        The rates; a grid that cannot be looked up is there with the reason.
    """
    grids = [_own_grid(report)] if report.grid_g_per_kwh is not None or report.country else []
    return Rates(
        pue=report.pue,
        pue_source=report.pue_source,
        pue_year=report.pue_year,
        grids=(*grids, *(_region(region) for region in report.regions)),
        price_per_kwh=report.price_per_kwh,
        price_per_gpu_hour=report.price_per_gpu_hour,
        currency=report.currency,
    )


def _own_grid(report: ReportSpec) -> Grid:
    name = report.country or "stated"
    if report.grid_g_per_kwh is not None:
        return Grid(name, report.grid_g_per_kwh, report.grid_source, report.grid_year)
    return _looked_up(name, report.country or "")


def _region(region: RegionSpec) -> Grid:
    if region.g_per_kwh is not None:
        return Grid(region.name, region.g_per_kwh, region.source, region.year)
    return _looked_up(region.name, region.code or "")


def _looked_up(name: str, code: str) -> Grid:
    try:
        found = lookup(code)
    except InputError as error:
        return Grid(name, None, why_not=str(error))
    return Grid(name, found.g_per_kwh, found.source, found.year)


@dataclass(frozen=True)
class Bill:
    """Carbon and money of something; None where a rate or the energy is not known.

    Attributes:
        facility_kwh: Energy with PUE. Units: kWh.
        co2e_g: Grid name -> emissions. Units: g CO2e.
        electricity_cost: In the currency of the prices.
        device_cost: In the currency of the prices.
    """

    facility_kwh: float | None
    co2e_g: dict[str, float | None]
    electricity_cost: float | None
    device_cost: float | None

    def cost(self, rates: Rates) -> float | None:
        """Add up the parts that have a price; None if none has, or a priced one is not known."""
        priced = [(self.electricity_cost, rates.price_per_kwh), (self.device_cost, rates.price_per_gpu_hour)]
        parts = [amount for amount, price in priced if price is not None]
        known = [amount for amount in parts if amount is not None]
        return sum(known) if known and len(known) == len(parts) else None


def bill(part: Part, rates: Rates) -> Bill:
    """Price a part.

    Args:
        part: Time and energy.
        rates: The rates.

    Returns:
        The bill, linear in the part.
    """
    return bill_of(
        part.seconds / SECONDS_PER_HOUR, None if part.energy is None else part.energy / JOULES_PER_KWH, rates
    )


def bill_of(device_hours: float, kwh: float | None, rates: Rates) -> Bill:
    """Price hours and energy.

    Args:
        device_hours: Units: h.
        kwh: Device energy; None if unknown. Units: kWh.
        rates: The rates.

    Returns:
        The bill.
    """
    facility = None if kwh is None else kwh * rates.pue
    price = rates.price_per_kwh
    return Bill(
        facility_kwh=facility,
        co2e_g={
            grid.name: None if facility is None or grid.g_per_kwh is None else facility * grid.g_per_kwh
            for grid in rates.grids
        },
        electricity_cost=None if facility is None or price is None else facility * price,
        device_cost=None if rates.price_per_gpu_hour is None else device_hours * rates.price_per_gpu_hour,
    )


def bill_tree(found: Bill, rates: Rates) -> dict[str, Any]:
    """Write a bill for JSON."""
    return {**asdict(found), "cost": found.cost(rates)}


LITTLE = 0.02
"""Share of the time whose energy may be unknown before a cap on energy cannot be kept any more."""


def amounts(part: Part, rates: Rates) -> dict[str, float | None]:
    """Express a part in the units of the caps; None where its energy is not known.

    Args:
        part: Time and energy.
        rates: PUE and prices.

    Returns:
        `gpu_hours, kwh, money`.
    """
    filled = _filled(part)
    energy = filled.energy
    return {
        "gpu_hours": part.seconds / SECONDS_PER_HOUR,
        "kwh": None if energy is None else energy / JOULES_PER_KWH,
        "money": bill(filled, rates).cost(rates),
    }


def _filled(part: Part) -> Part:
    """Reckon a little time of unknown energy at the mean power of the rest; more than a little stays unknown."""
    if not 0 < part.unknown_s <= LITTLE * part.seconds:
        return part
    mean_w = part.energy_j / (part.seconds - part.unknown_s)
    return Part.of(part.seconds, part.energy_j + part.unknown_s * mean_w, part.bound)
