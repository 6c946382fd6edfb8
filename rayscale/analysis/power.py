"""How many repetitions? Power of the repeated-measures ANOVA for a given n, n for a wanted power, smallest effect.

F follows F'(df1, df2, lambda) with df1 = (k - 1) eps, df2 = (n - 1)(k - 1) eps and lambda = n x rate. What one
repetition contributes, the *rate*, can be stated in two ways:

- from Cohen's f and the correlation rho of a repetition's trials: rate = f^2 k eps / (1 - rho), as G*Power does for
  "repeated measures, within factors" (Faul et al. 2007, Behavior Research Methods 39, 175-191);
- from a pilot's mean squares: rate = df1 (F - 1) eps / n, for E[MS_effect] / MS_error = 1 + lambda / df1. The
  -1 takes off what noise alone adds to the effect's sum of squares; without it small pilots promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.design_effects import design_effects
from rayscale.analysis.noncentral import bisect, f_noncentrality, power_of_f
from rayscale.analysis.sweepcells import resolve_effect
from rayscale.errors import InputError

LARGEST_N = 1_000_000
"""Beyond it no sweep will go: the effect is called out of reach."""

CAUTIOUS = 0.8
"""Confidence with which the pilot's effect is at least as large as its cautious value."""


@dataclass(frozen=True)
class Design:
    """What is compared, without the effect.

    Attributes:
        levels: Number of conditions k, >= 2.
        rho: Correlation between the trials of a repetition.
        epsilon: Departure from sphericity, 1 / (k - 1) to 1.
        alpha: Significance level.
    """

    levels: int
    rho: float = 0.5
    epsilon: float = 1.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what no design can be.

        Raises:
            InputError: With one line per impossible value.
        """
        checks = (
            (self.levels >= 2, f"levels {self.levels}: expected at least 2"),
            (-1 < self.rho < 1, f"rho {self.rho}: expected a correlation between -1 and 1"),
            (0 < self.epsilon <= 1, f"epsilon {self.epsilon}: expected a number between 1/(levels - 1) and 1"),
            (0 < self.alpha < 1, f"alpha {self.alpha}: expected a number between 0 and 1"),
        )
        problems = [problem for fine, problem in checks if not fine]
        if not problems and self.epsilon * self.df1 < 1 - 1e-9:
            problems = [f"epsilon {self.epsilon}: expected at least 1/{self.df1} (the lower bound)"]
        if problems:
            raise InputError(problems)

    @property
    def df1(self) -> int:
        """Degrees of freedom of the effect before epsilon."""
        return self.levels - 1

    def rate(self, f: float) -> float:
        """Return the noncentrality that one repetition adds at Cohen's f."""
        return f * f * self.levels * self.epsilon / (1 - self.rho)

    def effect(self, rate: float) -> float:
        """Return Cohen's f for a rate."""
        return math.sqrt(rate * (1 - self.rho) / (self.levels * self.epsilon))


@dataclass(frozen=True)
class Pilot:
    """What a pilot says about the effect.

    Attributes:
        dv: The measure.
        factor: The factor or interaction that is tested.
        n: Complete repetitions.
        F: Observed F.
        f: Cohen's f, freed of what noise adds; 0 if F is below 1.
        f_cautious: f that the true effect exceeds with confidence `CAUTIOUS`.
        ms_effect: Mean square of the effect.
        ms_error: Mean square of effect x repetitions.
        design: Levels, rho (ICC) and epsilon (Greenhouse-Geisser) as found.
        sd_error: Sd, within repetitions, of one level's mean over all other factors; None for an interaction.
        mean: Mean of the measure.
    """

    dv: str
    factor: str
    n: int
    F: float
    f: float
    f_cautious: float
    ms_effect: float
    ms_error: float
    design: Design
    sd_error: float | None = None
    mean: float | None = None


def rm_power(f: float, n: int, design: Design) -> float:
    """Power of the within-subject F test.

    Args:
        f: Cohen's f: sd of the condition means (over k) / sd of a condition's values.
        n: Repetitions, >= 2.
        design: What is compared.

    Returns:
        Probability of rejecting, in [alpha, 1].

    Raises:
        InputError: For fewer than two repetitions or a negative effect.
    """
    if n < 2 or not (math.isfinite(f) and f >= 0):
        raise InputError(f"n {n}, f {f}: expected at least 2 repetitions and an effect f >= 0")
    df1 = design.df1 * design.epsilon
    return power_of_f(df1, (n - 1) * df1, n * design.rate(f), design.alpha)


def repetitions_for(f: float, power: float, design: Design) -> int | None:
    """Smallest n that reaches a power.

    Args:
        f: Cohen's f.
        power: Wanted power, between alpha and 1.
        design: What is compared.

    Returns:
        n; None if not even `LARGEST_N` repetitions reach it.

    Raises:
        InputError: If the power cannot be wanted.
    """
    _check_power(power, design)
    if rm_power(f, LARGEST_N, design) < power:
        return None
    low, high = 1, 2
    while rm_power(f, high, design) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rm_power(f, middle, design) >= power else (middle, high)
    return high


def smallest_effect(n: int, power: float, design: Design) -> float:
    """Smallest Cohen's f that n repetitions detect with a power.

    Args:
        n: Repetitions, >= 2.
        power: Wanted power.
        design: What is compared.

    Returns:
        Cohen's f.

    Raises:
        InputError: If the power cannot be wanted or n is too small.
    """
    _check_power(power, design)
    high = 1.0
    while rm_power(high, n, design) < power:
        high *= 2
    return bisect(lambda f: rm_power(f, n, design) - power, 0.0, high)


def _check_power(power: float, design: Design) -> None:
    if not design.alpha < power < 1:
        raise InputError(f"power {power}: expected a number between alpha ({design.alpha}) and 1")


def paired_power(dz: float, n: int, alpha: float) -> float:
    """Power of the two-sided paired t test: the case of two levels, with lambda = n dz^2.

    Args:
        dz: Mean difference / sd of the differences.
        n: Pairs, >= 2.
        alpha: Significance level.

    Returns:
        Power in [alpha, 1].
    """
    # With rho = 0.5 the sd of a difference is that of a value, so dz = 2 f.
    return rm_power(abs(dz) / 2, n, Design(levels=2, rho=0.5, alpha=alpha))


def paired_repetitions(dz: float, power: float, alpha: float) -> int | None:
    """Smallest number of pairs with which the two-sided paired t test reaches a power; None if out of reach."""
    return repetitions_for(abs(dz) / 2, power, Design(levels=2, rho=0.5, alpha=alpha))


def effect_from_variances(means: Sequence[float], sd_subject: float, sd_error: float) -> tuple[float, float]:
    """Turn stated means and standard deviations into f and rho.

    Args:
        means: Expected mean of each condition.
        sd_subject: Sd of what a repetition's trials share.
        sd_error: Sd of what they do not share.

    Returns:
        Cohen's f and rho = sd_subject^2 / (sd_subject^2 + sd_error^2).

    Raises:
        InputError: If there are fewer than two means or no error.
    """
    if len(means) < 2 or not all(map(math.isfinite, means)):
        raise InputError("means: expected at least two finite numbers")
    if not (sd_error > 0 and sd_subject >= 0 and math.isfinite(sd_error + sd_subject)):
        raise InputError(f"sd_error {sd_error}, sd_subject {sd_subject}: expected sd_error > 0 and sd_subject >= 0")
    total = math.hypot(sd_subject, sd_error)
    return float(np.std(means)) / total, (sd_subject / total) ** 2


def smallest_difference(f: float, design: Design, sd_error: float) -> float:
    """Turn Cohen's f into the difference of two levels, all other levels halfway between them.

    Such means have the smallest sd for their range (Cohen 1988, section 8.2.1): sum (mu - mean)^2 = range^2 / 2, and
    that sum over the error variance is the rate (without epsilon).

    Args:
        f: Cohen's f.
        design: What is compared.
        sd_error: Sd within repetitions of one level's mean.

    Returns:
        The difference, in units of `sd_error`'s measure.
    """
    return math.sqrt(2 * design.rate(f) / design.epsilon) * sd_error


def pilot_effect(cells: Cells, dv: str, alpha: float, named: str | None = None) -> Pilot:
    """Read effect, rho and epsilon off a pilot.

    Args:
        cells: The laid-out pilot.
        dv: Name of its measure.
        alpha: Significance level of the planned study.
        named: The factor or interaction to plan for; None takes `tokens`, or else the first factor.

    Returns:
        What the pilot says.

    Raises:
        InputError: With fewer than two complete repetitions, no variation, or no such effect.
    """
    values = cells.complete
    if values.shape[0] < 2 or math.prod(cells.shape) < 2:
        raise InputError(
            f"{dv}: {values.shape[0]} complete repetitions; a pilot needs at least two, and two conditions"
        )
    factor, _ = resolve_effect(dict(zip(cells.factors, cells.shape, strict=True)), named)
    effect = next(effect for effect in anova(values, cells.shape, cells.factors).effects if effect.name == factor)
    if not math.isfinite(effect.F):
        raise InputError(f"{dv}: the pilot has no error variance; nothing can be planned from it")
    rho = 0.0
    if len(cells.factors) == 1:
        found = design_effects(values, alpha).icc_consistency
        rho = min(max(found, 0.0), 0.999) if math.isfinite(found) else 0.0
    design = Design(effect.df1 + 1, rho, max(effect.eps_GG, effect.eps_lower_bound), alpha)
    n = values.shape[0]
    cautious = f_noncentrality(effect.F, effect.df1, effect.df2, CAUTIOUS) / n * design.epsilon
    return Pilot(
        dv=dv,
        factor=factor,
        n=n,
        F=effect.F,
        f=design.effect(max(effect.df1 * (effect.F - 1), 0.0) / n * design.epsilon),
        f_cautious=design.effect(cautious),
        ms_effect=effect.ss / effect.df1,
        ms_error=effect.ss_error / effect.df2,
        design=design,
        sd_error=None
        if ":" in factor
        else math.sqrt(effect.ss_error / effect.df2 * (effect.df1 + 1) / values.shape[1]),
        mean=float(values[0, 0] + np.mean(values - values[0, 0])),
    )
