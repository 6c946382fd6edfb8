"""Levels of a factor: their labels, their order, and the names of pairs and intervals (design 4.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rayscale.quantities import parse_count, parse_duration


def level_label(value: Any) -> str:
    """Write a level as in the input, numbers in shortest form.

    Args:
        value: A number, text or truth value; numpy scalars too.

    Returns:
        `500000`, `0.5`, `1`, `500K`, `true`.
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def level_values(labels: Sequence[str]) -> list[float] | None:
    """Read the numbers behind the labels: plain numbers, counts (`500K`) or durations (`100ms`).

    Args:
        labels: All labels of a factor.

    Returns:
        One finite number per label, or None if the labels are names.
    """
    for parse in (float, parse_count, parse_duration):
        values = _all(labels, parse)
        if values is not None:
            return values
    return None


def _all(labels: Sequence[str], parse: Callable[[str], float]) -> list[float] | None:
    try:
        values = [float(parse(label)) for label in labels]
    except (ValueError, OverflowError):
        return None
    return values if values and all(math.isfinite(value) for value in values) else None


def order_levels(labels: Sequence[str]) -> list[str]:
    """Order the levels of a factor: by value (`500K` < `1M` < `2M`), names by first appearance.

    Text order would put 1M before 500K, and with it every trend and every pair's sign would be wrong.

    Args:
        labels: Distinct labels in order of appearance.

    Returns:
        The same labels, ordered.
    """
    values = level_values(labels)
    if values is None:
        return list(labels)
    return [label for _, label in sorted(zip(values, labels, strict=True), key=lambda pair: pair[0])]


def pair_label(lower: str, higher: str) -> str:
    """Name a pair of levels, the lower first: `500000|1000000`."""
    return f"{lower}|{higher}"


def interval_name(alpha: float) -> str:
    """Name an interval's key by its confidence: `ci95` for alpha = 0.05."""
    return f"ci{100 * (1 - alpha):.10g}"
