"""Numbers as a paper prints them: significant digits, true minus signs, powers of ten, p values in APA style.

A column of a table shares one scale and one number of decimals, so that its numerals line up and can be compared.
An unavailable number is `n/a`, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NA = "n/a"
"""What stands for a number that is not available."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def as_number(value: Any) -> float | None:
    """Read a value of the analysis tree or of a table as a finite number.

    Args:
        value: Anything.

    Returns:
        The number; None for None, NaN, infinities, booleans and what is no number.
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def exponent(value: float) -> int:
    """Return the power of ten of a number's first digit, 0 for 0."""
    return math.floor(math.log10(abs(value))) if value else 0


def power_of_ten(power: int) -> str:
    """Write a power of ten, e.g. `10⁻⁴`."""
    return "10" + str(power).translate(_SUPERSCRIPT)


def fixed(value: float, decimals: int) -> str:
    """Write a number with a fixed number of decimals, narrow spaces between thousands and a true minus sign."""
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    if not text.strip("-0.\u202f"):
        return text.lstrip("-")
    return text.replace("-", "−")


def number(value: Any, digits: int = 4) -> str:
    """Write one number with significant digits.

    Args:
        value: The number, or None.
        digits: Significant digits.

    Returns:
        E.g. `14.83`, `−0.002150`, `1.234 × 10⁻⁶`, or `n/a`.
    """
    known = as_number(value)
    if known is None:
        return NA
    if known == 0:
        return "0"
    power = exponent(float(f"{known:.{digits - 1}e}"))  # rounding may carry: 9.9996 -> 10.00
    if -4 <= power < 7:
        return fixed(known, max(0, digits - 1 - power))
    return f"{fixed(known / 10.0**power, digits - 1)} × {power_of_ten(power)}"


def whole(value: Any) -> str:
    """Write a count or degrees of freedom: no decimals where there are none, `n/a` if there is none."""
    known = as_number(value)
    return fixed(known, 0) if known is not None and known.is_integer() else number(value)


def exact(value: Any) -> str:
    """Write a number with all its digits, for a tooltip; `n/a` if there is none."""
    known = as_number(value)
    return NA if known is None else f"{known:.15g}"


def p_value(p: Any, log10_p: Any = None) -> str:
    """Write a p value in APA style: no leading zero, three decimals, `< .001` below.

    Args:
        p: The p value, or None.
        log10_p: Its decimal logarithm, where p itself may underflow.

    Returns:
        `.042`, `< .001`, `> .999` or `n/a`.
    """
    known = as_number(p)
    if known is None:
        known = None if as_number(log10_p) is None else 10 ** max(float(log10_p), -300.0)
    if known is None:
        return NA
    if known < 0.0005:
        return "< .001"
    return "> .999" if known > 0.9995 else f"{known:.3f}".removeprefix("0")


def p_exact(p: Any, log10_p: Any = None) -> str:
    """Write a p value in full, as `p = 3.2e-74`, or by its logarithm where it underflows."""
    known, logarithm = as_number(p), as_number(log10_p)
    if known is not None and (known > 0 or logarithm is None):
        return f"p = {known:.4g}"
    return "" if logarithm is None else f"log10 p = {logarithm:.4f}"


def p_phrase(p: Any, log10_p: Any = None) -> str:
    """Write a p value with its relation: `p = .042` or `p < .001`."""
    text = p_value(p, log10_p)
    return f"p {text}" if text[0] in "<>" else f"p = {text}"


@dataclass(frozen=True)
class Scale:
    """How all numbers of one column are written.

    Attributes:
        power: Numbers are divided by 10**power; it stands in the column's head.
        decimals: Decimals of each number.
    """

    power: int
    decimals: int

    @classmethod
    def fitting(cls, values: Iterable[Any], digits: int = 4, smallest: int = -2) -> Scale:
        """Choose the scale of a column.

        Args:
            values: Its numbers; unavailable ones do not count.
            digits: Significant digits of the largest.
            smallest: Power of ten below which numbers are scaled; higher where there is little room.

        Returns:
            The scale.
        """
        magnitudes = [abs(known) for known in map(as_number, values) if known]
        if not magnitudes:
            return cls(0, 0)
        top = exponent(max(magnitudes))
        power = 0 if smallest <= top < 7 else top
        if all(size == int(size) for size in magnitudes) and not power:
            return cls(0, 0)
        return cls(power, max(0, digits - 1 - (top - power)))

    def write(self, value: Any) -> str:
        """Write one number of the column, `n/a` if there is none."""
        known = as_number(value)
        return NA if known is None else fixed(known / 10.0**self.power, self.decimals)

    def unit(self, unit: str) -> str:
        """Write a unit with the power of ten that was taken out: `10⁻³ J/token`; empty for a pure number as it is."""
        return " ".join(part for part in (power_of_ten(self.power) if self.power else "", unit) if part)

    @property
    def head(self) -> str:
        """What the column's head adds: ` (×10⁻⁴)` or nothing."""
        return f" (×{power_of_ten(self.power)})" if self.power else ""
