"""What a published F(df1, df2) and generalized eta squared imply, and whether they can both be true.

With SS_e = 1 as unit: SS_effect = F df1 / df2. Generalized eta squared is SS_effect / (SS_effect + SS_subject + SS_e)
(Olejnik & Algina 2003), so it gives away the SS between subjects, which papers do not print: their F, their ICC, and
whether pairing carried any information. The rounding of the printed value decides how much that is worth; it is
carried through as an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayscale.analysis.distributions import f_tail, log10_f_tail, t_two_sided
from rayscale.analysis.noncentral import f_noncentrality
from rayscale.errors import InputError


@dataclass(frozen=True)
class Printed:
    """A number as it is printed, with the interval of what may have been rounded to it."""

    value: float
    half_unit: float

    @property
    def interval(self) -> tuple[float, float]:
        """Return the smallest and largest value that is printed so."""
        return self.value - self.half_unit, self.value + self.half_unit


def printed(text: str, what: str) -> Printed:
    """Read a number with its precision.

    Args:
        text: As published: `.997`, `24268.23`, `1.2e-5`.
        what: Its name, for the message.

    Returns:
        The value and half a unit of its last printed digit.

    Raises:
        InputError: If it is no number.
    """
    mantissa, _, exponent = text.strip().lower().partition("e")
    try:
        value = float(text)
        digits = len(mantissa.partition(".")[2]) - (int(exponent) if exponent else 0)
    except ValueError:
        value, digits = math.nan, 0
    if not math.isfinite(value):
        raise InputError(f"{what} {text}: expected a number as published, e.g. .997")
    return Printed(value, 0.5 * 10.0**-digits)


@dataclass(frozen=True)
class FEffects:
    """What F and its degrees of freedom alone imply.

    Attributes:
        partial_eta2: F df1 / (F df1 + df2).
        ci90: 90 % interval of partial eta squared from the noncentral F.
        partial_omega2: (F - 1) df1 / (F df1 + df2 + 1).
        partial_epsilon2: (F - 1) df1 / (F df1 + df2).
        p: Tail probability; 0.0 if below the smallest double.
        log10_p: Its decimal logarithm.
    """

    partial_eta2: float
    ci90: tuple[float, float]
    partial_omega2: float
    partial_epsilon2: float
    p: float
    log10_p: float


def effects_of_f(F: float, df1: float, df2: float) -> FEffects:
    """Derive effect sizes and p from a published F.

    Args:
        F: The value, >= 0.
        df1: Numerator degrees of freedom.
        df2: Denominator degrees of freedom.

    Returns:
        The effect sizes.

    Raises:
        InputError: For impossible values.
    """
    if not (math.isfinite(F) and F >= 0 and df1 > 0 and df2 > 0):
        raise InputError(f"F {F} with df {df1:g}, {df2:g}: expected F >= 0 and positive degrees of freedom")
    bounds = [f_noncentrality(F, df1, df2, probability) for probability in (0.95, 0.05)]
    whole = F * df1 + df2
    return FEffects(
        partial_eta2=F * df1 / whole,
        ci90=(bounds[0] / (bounds[0] + df2), bounds[1] / (bounds[1] + df2)),
        partial_omega2=(F - 1) * df1 / (whole + 1),
        partial_epsilon2=(F - 1) * df1 / whole,
        p=f_tail(F, df1, df2),
        log10_p=log10_f_tail(F, df1, df2),
    )


@dataclass(frozen=True)
class SubjectPart:
    """What the generalized eta squared gives away about the subjects.

    Attributes:
        n: Subjects, df2 / df1 + 1.
        k: Conditions, df1 + 1.
        error_over_effect: SS_error / SS_effect = df2 / (F df1).
        subject_over_effect: SS_subject / SS_effect = 1 / ges - 1 - SS_error / SS_effect; negative: impossible.
        F_subject: (SS_subject / (n - 1)) / (SS_error / df2).
        F_subject_range: Its values over the rounding of ges; the lower end may be negative.
        icc: (F_subject - 1) / (F_subject + k - 1).
        p_larger: Probability of a larger F for subjects if they share nothing.
        p_smaller: Probability of a smaller one.
    """

    n: int
    k: int
    error_over_effect: float
    subject_over_effect: float
    F_subject: float
    F_subject_range: tuple[float, float]
    icc: float
    p_larger: float
    p_smaller: float


def subject_part(F: float, df1: int, df2: int, ges: Printed) -> SubjectPart:
    """Solve generalized eta squared for the subjects.

    Args:
        F: Published F, > 0, of a one-way within-subject design without correction of its df.
        df1: k - 1.
        df2: (n - 1)(k - 1).
        ges: Generalized eta squared as printed.

    Returns:
        The subjects' part.

    Raises:
        InputError: If the values cannot be such a design.
    """
    problems = []
    if df2 % df1:
        problems.append(f"df {df1},{df2}: in a one-way repeated-measures design df2 is a multiple of df1")
    if not 0 < ges.value < 1:
        problems.append(f"ges {ges.value}: expected a number between 0 and 1")
    if F <= 0:
        problems.append(f"F {F}: expected a positive value")
    if problems:
        raise InputError(problems)
    n, k = df2 // df1 + 1, df1 + 1
    error = df2 / (F * df1)

    def f_subject(eta: float) -> float:
        return (1 / eta - 1 - error) / (n - 1) / (error / df2) if eta > 0 else math.inf

    low, high = ges.interval
    middle = f_subject(ges.value)
    tail = f_tail(middle, n - 1, df2) if middle >= 0 else 1.0
    return SubjectPart(
        n=n,
        k=k,
        error_over_effect=error,
        subject_over_effect=1 / ges.value - 1 - error,
        F_subject=middle,
        F_subject_range=(f_subject(high), f_subject(low)),
        icc=(middle - 1) / (middle + k - 1),
        p_larger=tail,
        p_smaller=1 - tail,
    )


@dataclass(frozen=True)
class TCheck:
    """A published t with its p values."""

    p_raw: float
    p_bonferroni: float


def p_of_t(t: float, df: float, comparisons: int) -> TCheck:
    """Compute what a published paired t implies.

    Args:
        t: The value.
        df: Degrees of freedom.
        comparisons: Size of the family.

    Returns:
        Two-sided p, raw and Bonferroni-adjusted (at most 1).

    Raises:
        InputError: For impossible values.
    """
    if not (math.isfinite(t) and df > 0 and comparisons >= 1):
        raise InputError(
            f"t {t}, df {df:g}, {comparisons} comparisons: expected finite t, df > 0, at least 1 comparison"
        )
    p = t_two_sided(t, df)
    return TCheck(p, min(1.0, comparisons * p))
