"""The relative-loss forecast of Lu (2025), arXiv 2501.02156: what a fleet that gets more efficient buys in loss.

A fixed annual compute budget whose efficiency doubles `gamma` times per year accumulates, after t years, the multiple

    M(t) = 1 + (2**(gamma t) - 1) / (gamma ln 2 · T0), T0 = 1 yr        (gamma -> 0: 1 + t/T0)

of its first year's compute, and a loss that is a pure power law of compute with exponent `kappa` falls to
R(t) = M(t)**(-kappa) of its value. With an irreducible floor E, R applies to L - E, and kappa is
alpha beta/(alpha + beta).

Everything is computed in logarithms: 2**(gamma t) overflows past gamma t = 1024, and 2**(gamma t) - 1 loses its digits
for small gamma. The unit of gamma is doublings per year (gamma = 2 doubles every 6 months).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayscale.errors import InputError

LN2 = math.log(2.0)
LARGE = 30.0
"""From here on exp(-x) is below the last digit of a double next to 1."""
SERIES_BELOW = 1e-5
"""Below it three terms of expm1's series are exact to the last digit."""


@dataclass(frozen=True)
class Forecast:
    """One forecast.

    Attributes:
        relative_loss: R(t); 0.0 only where it is below the smallest double.
        log_relative_loss: Natural logarithm of R.
        compute_multiple: M(t); None where it is above the largest double.
        log10_compute_multiple: Decimal logarithm of M.
        limit: Smallest R that is ever reached; 0.0 for gamma >= 0.
    """

    relative_loss: float
    log_relative_loss: float
    compute_multiple: float | None
    log10_compute_multiple: float
    limit: float


def log_compute_multiple(years: float, gamma: float, base_years: float = 1.0) -> float:
    """Compute ln M(t).

    Args:
        years: t >= 0. Units: yr.
        gamma: Efficiency doublings per year; any sign.
        base_years: T0: compute that the fleet begins with, in years of its own time. Units: yr.

    Returns:
        ln M, >= 0.
    """
    rate = gamma * LN2
    grown = rate * years
    if abs(grown) < SERIES_BELOW:
        return math.log1p(years / base_years * (1.0 + grown / 2.0 + grown * grown / 6.0))
    if grown < LARGE:
        return math.log1p(math.expm1(grown) / (rate * base_years))
    # M = (e^x + rate T0 - 1) / (rate T0)
    scaled = rate * base_years
    return grown + math.log1p((scaled - 1.0) * math.exp(-grown)) - math.log(scaled)


def forecast(kappa: float, gamma: float, years: float, base_years: float = 1.0) -> Forecast:
    """Compute the relative loss after some years.

    Args:
        kappa: Exponent of the loss in compute, > 0.
        gamma: Efficiency doublings per year.
        years: t >= 0. Units: yr.
        base_years: T0 (see `log_compute_multiple`). Units: yr.

    Returns:
        The forecast.

    Raises:
        InputError: If an argument is out of range.
    """
    _check(kappa, gamma, base_years)
    if not (math.isfinite(years) and years >= 0):
        raise InputError(f"--years {years}: expected a number >= 0")
    log_multiple = log_compute_multiple(years, gamma, base_years)
    return Forecast(
        relative_loss=math.exp(-kappa * log_multiple),
        log_relative_loss=-kappa * log_multiple,
        compute_multiple=math.exp(log_multiple) if log_multiple < 709.0 else None,
        log10_compute_multiple=log_multiple / math.log(10.0),
        limit=limit(kappa, gamma, base_years),
    )


def limit(kappa: float, gamma: float, base_years: float = 1.0) -> float:
    """Return the relative loss that is approached as t grows without end.

    Args:
        kappa: Exponent, > 0.
        gamma: Doublings per year; negative means that efficiency falls and compute saturates.
        base_years: T0. Units: yr.

    Returns:
        (1 + 1/(|gamma| ln 2 T0))**(-kappa) for gamma < 0, else 0.0.
    """
    return math.exp(-kappa * math.log1p(-1.0 / (gamma * LN2 * base_years))) if gamma < 0 else 0.0


def years_to_target(target: float, kappa: float, gamma: float, base_years: float = 1.0) -> float | None:
    """Invert the forecast: t = log2(1 + gamma ln 2 T0 (R**(-1/kappa) - 1)) / gamma.

    Args:
        target: Wanted relative loss in (0, 1].
        kappa: Exponent, > 0.
        gamma: Doublings per year.
        base_years: T0. Units: yr.

    Returns:
        Years; None if the target is never reached (or not within 1e308 years).

    Raises:
        InputError: If an argument is out of range.
    """
    _check(kappa, gamma, base_years)
    _check_target(target)
    log_multiple = -math.log(target) / kappa
    rate = gamma * LN2
    if log_multiple == 0:
        return 0.0
    # ln(T0 (M - 1)), without computing M
    log_gain = math.log(math.expm1(log_multiple)) if log_multiple < LARGE else log_multiple
    log_gain += math.log(base_years)
    if gamma == 0 or math.log(abs(rate)) + log_gain < math.log(SERIES_BELOW):
        return _slow_growth(log_gain, rate)
    if rate > 0:
        exponent = math.log(rate) + log_gain
        return (exponent + math.log1p(math.exp(-exponent)) if exponent > 0 else math.log1p(math.exp(exponent))) / rate
    argument = rate * math.exp(log_gain) if log_gain < 709.0 else -math.inf
    return math.log1p(argument) / rate if argument > -1.0 else None


def _slow_growth(log_gain: float, rate: float) -> float | None:
    """T = gain (1 - u/2 + u²/3) with u = rate x gain small."""
    if log_gain >= 709.0:
        return None
    gain = math.exp(log_gain)
    small = rate * gain
    return gain * (1.0 - small / 2.0 + small * small / 3.0)


def gamma_for_target(target: float, kappa: float, years: float) -> float:
    """Find the doublings per year that reach a relative loss by a date.

    Args:
        target: Wanted relative loss in (0, 1).
        kappa: Exponent, > 0.
        years: The date. Units: yr.

    Returns:
        gamma, of any sign.

    Raises:
        InputError: If an argument is out of range.
    """
    from scipy.optimize import brentq

    _check(kappa, 0.0, 1.0)
    _check_target(target)
    if target == 1.0 or not (math.isfinite(years) and years > 0):
        raise InputError("expected --target below 1 and --years above 0 to find a gamma")
    wanted = -math.log(target) / kappa
    low, high = -1.0, 1.0
    while log_compute_multiple(years, low) > wanted:
        low *= 2.0
    while log_compute_multiple(years, high) < wanted:
        high *= 2.0
    return float(brentq(lambda gamma: log_compute_multiple(years, gamma) - wanted, low, high, xtol=1e-14, rtol=1e-14))


def _check(kappa: float, gamma: float, base_years: float) -> None:
    if not (math.isfinite(base_years) and base_years > 0):
        raise InputError(f"base years {base_years}: expected a number > 0")
    if not (math.isfinite(kappa) and kappa > 0):
        raise InputError(f"--kappa {kappa}: expected a number > 0")
    if not math.isfinite(gamma):
        raise InputError(f"--gamma {gamma}: expected a finite number of doublings per year")


def _check_target(target: float) -> None:
    if not 0 < target <= 1:
        raise InputError(f"--target {target}: expected a relative loss in (0, 1]")
