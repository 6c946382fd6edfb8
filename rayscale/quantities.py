"""Quantities with units as people write them in a sweep file: `100ms`, `10s`, `500K`, `1.5M`, `4MB`.

Pure functions from text or number to a plain number in the base unit; the pydantic types of `spec` wrap them.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*)?(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]*)\s*")
_SECONDS = {"us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "sec": "1", "m": "60", "min": "60", "h": "3600"}
_COUNTS = {"": "1", "K": "1e3", "M": "1e6", "B": "1e9", "G": "1e9", "T": "1e12"}
_BYTES = {
    "": "1",
    "B": "1",
    "KB": "1e3",
    "MB": "1e6",
    "GB": "1e9",
    "KiB": "1024",
    "MiB": "1048576",
    "GiB": "1073741824",
}


def _split(value: object, what: str) -> tuple[Fraction, str]:
    """Split a quantity into an exact number and its unit.

    Args:
        value: A number, or text such as `1.5M`.
        what: What was expected, for the error message.

    Returns:
        The exact number and the unit as written (empty if none).

    Raises:
        ValueError: If the value is no finite number with an optional unit.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected {what}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected {what}, got {value!r}")
    match = _NUMBER.fullmatch(str(value))
    if not match or not any(char.isdigit() for char in match[1]):
        raise ValueError(f"expected {what}, got {value!r}")
    return Fraction(match[1].replace("_", "")), match[2]


def _scaled(value: object, units: dict[str, str], what: str, bare: str | None) -> Fraction:
    number, unit = _split(value, what)
    scale = units.get(unit if unit or bare is None else bare)
    if scale is None:
        known = ", ".join(name for name in units if name)
        raise ValueError(f"expected {what} (units: {known}), got {value!r}")
    return number * Fraction(scale)


def parse_duration(value: object) -> float:
    """Read a duration.

    Units: s.

    Args:
        value: `100ms`, `10s`, `5min`, `2h`, or a bare number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: If it is no non-negative duration.
    """
    seconds = _scaled(value, _SECONDS, "a duration such as 100ms or 10s", bare="s")
    if seconds < 0:
        raise ValueError(f"expected a duration >= 0, got {value!r}")
    return float(seconds)


def parse_count(value: object) -> int:
    """Read a whole, non-negative number such as a token count.

    Units: 1.

    Args:
        value: `500_000`, `500K`, `1.5M`, or an integer.

    Returns:
        The exact integer.

    Raises:
        ValueError: If it is not a whole non-negative number.
    """
    what = "a whole number such as 500_000 or 500K"
    count = _scaled(value, _COUNTS, what, bare=None)
    if count.denominator != 1 or count < 0:
        raise ValueError(f"expected {what}, got {value!r}")
    return int(count)


def parse_bytes(value: object) -> int:
    """Read a size such as `4MB` or `64MiB`.

    Units: B.

    Args:
        value: Text with a unit, or a bare number of bytes.

    Returns:
        Bytes, rounded down.

    Raises:
        ValueError: If it is no positive size.
    """
    size = _scaled(value, _BYTES, "a size such as 4MB or 64MiB", bare=None)
    if size < 1:
        raise ValueError(f"expected a size of at least one byte, got {value!r}")
    return int(size)


def format_count(value: float) -> str:
    """Write a count as people read it: `500K`, `1.5M`, `123`.

    Args:
        value: The count.

    Returns:
        The shortest form that keeps three significant digits below 1000 units.
    """
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    return f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Write a duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.

    Args:
        seconds: The duration.

    Returns:
        Text with units.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
