"""Carbon intensity of a grid, from the data set of the package `codecarbon` (MIT), an optional extra: rayscale[carbon].

Only its data files are read; the package itself is not imported (that would bring in a web client and a tracker). What
a region needs to be computed is computed as codecarbon 3.3 does:

    country            carbon_intensity of its generation mix, in g CO2e/kWh
    USA/<state>        EPA eGRID total output rate, in lb/MWh: 1 lb/MWh = 0.45359237 g/kWh
    CAN/<province>     sum of share x intensity over coal, petroleum and gas; others count as 0
    SWE/SE3, NOR/NO1   bidding zones; CHN/<province>: official factors; both in g/kWh
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rayscale.errors import InputError

G_PER_KWH_OF_LB_PER_MWH = 0.45359237
"""1 lb = 453.59237 g, 1 MWh = 1000 kWh."""

_FOSSIL_G_PER_KWH = {"coal": 995.725971, "petroleum": 816.6885263, "naturalGas": 743.8415916}
"""As codecarbon's `_region_energy_mix_to_emissions_rate`. Units: g/kWh."""

HOW_TO_GIVE = "install rayscale[carbon] or give the intensity: report.grid_g_per_kwh, or g_per_kwh in report.regions"


@dataclass(frozen=True)
class Intensity:
    """A carbon intensity and where it comes from.

    Attributes:
        g_per_kwh: Units: g CO2e/kWh.
        source: Data set.
        year: Year that it describes; None if the data set does not say.
    """

    g_per_kwh: float
    source: str
    year: int | None


def data_directory() -> Path:
    """Find codecarbon's data files.

    Returns:
        The directory `data/private_infra`.

    Raises:
        InputError: If the package is not installed; says how to do without it.
    """
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"no grid intensities here (the package codecarbon is not installed): {HOW_TO_GIVE}")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "private_infra"


def lookup(code: str, directory: Path | None = None) -> Intensity:
    """Look up a grid.

    Args:
        code: ISO 3166 country of two or three letters, with `/region` where the data set has regions.
        directory: Data files; None finds those of codecarbon.

    Returns:
        Its intensity.

    Raises:
        InputError: If the package is not installed, or it does not know the grid.
    """
    directory = directory or data_directory()
    country, _, region = code.partition("/")
    alpha3 = _alpha3(country.strip().upper(), code)
    source = f"codecarbon {_version()}"
    if region:
        return _region(directory, alpha3, region.strip().lower(), code, source)
    mix = _read(directory / "global_energy_mix.json").get(alpha3)
    if not mix or mix.get("carbon_intensity") is None:
        raise InputError(f"grid `{code}`: codecarbon has no intensity for it; {HOW_TO_GIVE}")
    return Intensity(float(mix["carbon_intensity"]), f"{source}, generation mix of {mix['country_name']}", mix["year"])


def _region(directory: Path, country: str, region: str, code: str, source: str) -> Intensity:
    if country == "USA":
        table = _newest(directory, "usa_emissions.json")
        if region in table and "emissions" in table[region]:
            about = table.get("_source", {})
            rate = float(table[region]["emissions"]) * G_PER_KWH_OF_LB_PER_MWH
            return Intensity(rate, f"{source}, {about.get('name', 'EPA eGRID')}", about.get("year"))
    elif country == "CAN":
        table = _newest(directory, "canada_energy_mix.json")
        if region in table:
            mix = table[region]
            rate = sum(mix[name] / mix["total"] * grams for name, grams in _FOSSIL_G_PER_KWH.items())
            return Intensity(rate, f"{source}, fossil shares of the province's mix", _newest_year(directory, "canada"))
    elif country == "CHN":
        table = _newest(directory, "china_provincial_emissions.json").get("data", {})
        for row in table.values():
            if region in row["names"]:
                return Intensity(float(row["emission_factor"]), f"{source}, provincial factor", row["year"])
    else:
        row = _read(directory / "nordic_emissions.json").get("data", {}).get(region.upper(), {})
        if row and region.upper()[:2] == {"SWE": "SE", "NOR": "NO", "FIN": "FI"}.get(country):
            return Intensity(float(row["emission_factor"]), f"{source}, {row['description']}", row["year"])
    raise InputError(f"grid `{code}`: codecarbon has no intensity for this region; {HOW_TO_GIVE}")


def _newest(directory: Path, name: str) -> Mapping[str, Any]:
    """Read a file that lies in a folder named after its year; the newest."""
    found = sorted(directory.glob(f"*/{name}"))
    return _read(found[-1]) if found else {}


def _newest_year(directory: Path, prefix: str) -> int | None:
    years = [int(path.parent.name) for path in directory.glob(f"*/{prefix}*.json") if path.parent.name.isdigit()]
    return max(years, default=None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: codecarbon's data cannot be read ({type(error).__name__}); {HOW_TO_GIVE}") from None


def _alpha3(country: str, code: str) -> str:
    if len(country) == 3:
        return country
    try:
        found = importlib.import_module("pycountry").countries.get(alpha_2=country)
    except ImportError:
        raise InputError(
            f"grid `{code}`: expected a country code of three letters (DEU); two need the package pycountry"
        ) from None
    if found is None:
        raise InputError(f"grid `{code}`: expected an ISO 3166 country code such as DE or DEU")
    return str(found.alpha_3)


def _version() -> str:
    try:
        return metadata.version("codecarbon")
    except metadata.PackageNotFoundError:
        return "(version unknown)"
