"""Two ways to spend the same energy: all of it at once, or evenly while efficiency grows (arXiv 2501.02156, section 5).

Both plans spend `years` fleet-years of energy and start from the same first run (T0 = 1 yr of the fleet's compute):

    even:          C(t) = (2^(gamma t) - 1)/(gamma ln 2)                 for t <= years
    front-loaded:  C(t) = (years/s) (2^(gamma t) - 1)/(gamma ln 2)       for t <= s, constant afterwards

and R(t) = (1 + C(t)/T0)^(-kappa). Without gains (gamma = 0) both end equal and the front-loaded plan is only earlier;
with gains it buys its compute at today's efficiency, leads at first and is overtaken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayscale.analysis.forecast import LN2, log_compute_multiple
from rayscale.errors import InputError

LARGEST_LOG = 700.0
"""Below it an exponential is still a double."""


@dataclass(frozen=True)
class FleetComparison:
    """Both plans at the date.

    Attributes:
        years: The date, and the energy in fleet-years. Units: yr.
        spend_years: Within these the front-loaded plan spends everything. Units: yr.
        energy: Energy of each plan, in years of the even fleet's use; equal by construction.
        even: Relative loss of the even plan at the date.
        front_loaded: Relative loss of the front-loaded plan at the date.
        overtaken: When the even plan overtakes the front-loaded one; None if it does not before the date. Units: yr.
    """

    years: float
    spend_years: float
    energy: float
    even: float
    front_loaded: float
    overtaken: float | None


def compare_fleets(kappa: float, gamma: float, years: float, spend_years: float) -> FleetComparison:
    """Compare an even with a front-loaded fleet of the same energy.

    Args:
        kappa: Exponent of the loss in compute, > 0.
        gamma: Efficiency doublings per year.
        years: The date. Units: yr.
        spend_years: How fast the front-loaded plan spends. Units: yr.

    Returns:
        The comparison.

    Raises:
        InputError: If a time is not positive, or the spending takes longer than the plan.
    """
    if not (math.isfinite(years) and years > 0):
        raise InputError(f"--years {years}: expected a number > 0 to compare plans")
    if not 0 < spend_years <= years:
        raise InputError(f"--front-load {spend_years}: expected years above 0 and at most --years ({years:g})")
    even = log_compute_multiple(years, gamma)
    front = front_loaded_log_multiple(years, gamma, years, spend_years)
    return FleetComparison(
        years=years,
        spend_years=spend_years,
        energy=years,
        even=math.exp(-kappa * even),
        front_loaded=math.exp(-kappa * front),
        overtaken=_overtaken(gamma, years, front) if even > front else None,
    )


def front_loaded_log_multiple(t: float, gamma: float, years: float, spend_years: float) -> float:
    """Compute ln(1 + C(t)) of the front-loaded plan.

    Args:
        t: Time. Units: yr.
        gamma: Efficiency doublings per year.
        years: Energy in fleet-years. Units: yr.
        spend_years: Within these it is spent. Units: yr.

    Returns:
        The logarithm of the compute multiple.
    """
    return log_compute_multiple(min(t, spend_years), gamma, spend_years / years)


def _overtaken(gamma: float, years: float, front: float) -> float:
    """Solve for the time at which the even plan has the front-loaded plan's final compute, in closed form."""
    rate = gamma * LN2
    if front > LARGEST_LOG and rate > 0:  # 1 is nothing beside rate · gain
        return min((front + math.log(rate)) / rate, years)
    gain = math.expm1(front)
    return min(math.log1p(rate * gain) / rate if rate else gain, years)
