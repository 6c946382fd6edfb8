"""Numbers and trees fit for JSON: finite or null, and no p value that underflowed to 0."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

Tree = dict[str, Any]

TINY_P = "is smaller than the smallest floating-point number and shown as null; its decimal logarithm is beside it"


def number(value: float) -> float | int | None:
    """Make a value fit for JSON: whole and finite numbers as they are, everything else null."""
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def p_number(p: float) -> float | None:
    """Make a p value fit for JSON; one that underflowed is null, never 0."""
    return p if math.isfinite(p) and p > 0 else None


def to_json(tree: Tree) -> str:
    """Write a tree as JSON.

    Args:
        tree: The tree.

    Returns:
        Indented JSON; only finite numbers, everything else null.
    """
    return json.dumps(_clean(tree), indent=1, ensure_ascii=False, allow_nan=False)


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def interval_tree(bounds: tuple[float, float]) -> Tree:
    """Write an interval as `{lo, hi}`."""
    return {"lo": number(bounds[0]), "hi": number(bounds[1])}
