"""Adjustment of p values for a family of comparisons: what R's `p.adjust` gives, undefined members included safely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from rayscale.analysis.kernel import FloatArray
from rayscale.errors import InputError

ADJUSTMENTS: Mapping[str, str] = MappingProxyType(
    {
        "none": "p_raw",
        "bonferroni": "p_bonferroni",
        "holm": "p_holm",
        "hochberg": "p_hochberg",
        "hommel": "p_hommel",
        "bh": "p_BH",
        "by": "p_BY",
    }
)
"""Name in a sweep file -> key in the JSON tree."""


def adjust(p_values: Sequence[float], method: str) -> list[float]:
    """Adjust the p values of one family.

    Args:
        p_values: Raw p values. NaN (undefined) keeps its place in the family and counts as 1, which can only raise
            the others; its own adjusted value is NaN.
        method: A key of `ADJUSTMENTS`.

    Returns:
        Adjusted p values in the same order.

    Raises:
        InputError: If the method is unknown.
    """
    methods: dict[str, Callable[[FloatArray], FloatArray]] = {
        "none": lambda p: p,
        "bonferroni": lambda p: p * len(p),
        "holm": _holm,
        "hochberg": _hochberg,
        "hommel": _hommel,
        "bh": lambda p: _step_up(p, len(p) / np.arange(1, len(p) + 1)),
        "by": lambda p: _step_up(p, np.sum(1 / np.arange(1, len(p) + 1)) * len(p) / np.arange(1, len(p) + 1)),
    }
    if method not in methods:
        raise InputError(f"unknown correction `{method}`; expected one of {', '.join(methods)}")
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(np.where(np.isnan(raw), 1.0, raw), kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, methods[method](np.where(np.isnan(raw), 1.0, raw)[order]))
    return [math.nan if math.isnan(p) else float(q) for p, q in zip(raw, adjusted, strict=True)]


def _holm(p: FloatArray) -> FloatArray:
    """Holm (1979), Scandinavian Journal of Statistics 6, 65-70: step down over ascending p."""
    return np.maximum.accumulate(p * np.arange(len(p), 0, -1))


def _hochberg(p: FloatArray) -> FloatArray:
    """Hochberg (1988), Biometrika 75, 800-802: Holm's factors, stepping up."""
    return _step_up(p, np.arange(len(p), 0, -1.0))


def _step_up(p: FloatArray, factors: FloatArray) -> FloatArray:
    """Smallest product from each p upwards (Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001)."""
    return np.minimum.accumulate((p * factors)[::-1])[::-1]


def _hommel(p: FloatArray) -> FloatArray:
    """Hommel (1988), Biometrika 75, 383-386: for every size m of an intersection, Simes' bound on its members."""
    n = len(p)
    adjusted = np.full(n, np.min(n * p / np.arange(1, n + 1), initial=math.inf))
    for m in range(n - 1, 1, -1):
        simes = np.min(m * p[n - m + 1 :] / np.arange(2, m + 1))
        bound = np.full(n, simes)
        bound[: n - m + 1] = np.minimum(m * p[: n - m + 1], simes)
        adjusted = np.maximum(adjusted, bound)
    return np.maximum(adjusted, p)
