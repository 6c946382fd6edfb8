"""From the analysis to one summary run per level: MLflow's pages show no spread over runs, so a run states it.

The mean has the trials' own metric name, so that it stands in their column; beside it `<dv>_sd` and `<dv>_ci` (the
half-width of the mean's interval). The interval itself is a tag, to keep the runs table narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayscale.design import Condition, Plan, condition_label, grid
from rayscale.tracking.content import Point, RunContent, condition_name, digest_of


def summary_contents(plan: Plan, tree: Mapping[str, Any], at_ms: int) -> list[RunContent]:
    """Put together the summary runs.

    Args:
        plan: The plan.
        tree: The analysis of the ledger (design 4.6): `results.<dv>.descriptives.<level>`.
        at_ms: Time of the values: the end of the last trial, so that the same analysis gives the same points.

    Returns:
        One content per condition that the analysis describes.
    """
    found = ((condition, _described(tree, condition)) for condition in grid(plan.spec.design.factors))
    estimated = bool(tree.get("energy_estimated"))
    return [_content(condition, described, at_ms, estimated) for condition, described in found if described]


def _content(
    condition: Condition, described: Mapping[str, Mapping[str, Any]], at_ms: int, estimated: bool
) -> RunContent:
    label = condition_label(condition)
    values: dict[str, float] = {}
    tags = {"rayscale.condition": label, "rayscale.energy_estimated": str(estimated).lower()}
    for dv, facts in described.items():
        for name, value in ((dv, facts.get("mean")), (f"{dv}_sd", facts.get("sd")), (f"{dv}_ci", _half(facts))):
            if isinstance(value, (int, float)) and math.isfinite(value):
                values[name] = float(value)
        tags[f"rayscale.{dv}.n"] = str(facts.get("n"))
        for name, (low, high) in _intervals(facts):
            tags[f"rayscale.{dv}.{name}"] = f"[{low!r}, {high!r}]"
    return RunContent(
        kind="summary",
        key=label,
        name=f"{condition_name(condition)}/mean",
        status="FINISHED",
        digest=digest_of("summary", values, tags, at_ms),
        start_ms=at_ms,
        end_ms=at_ms,
        tags=tags,
        params={name: str(level) for name, level in condition.items()},
        points=tuple(Point(name, value, at_ms) for name, value in values.items()),
    )


def _described(tree: Mapping[str, Any], condition: Condition) -> dict[str, Mapping[str, Any]]:
    """Find each dependent variable's description of one condition."""
    from rayscale.analysis.levels import level_label

    described = {}
    for dv, result in tree.get("results", {}).items():
        within = result.get("within") or list(condition)
        label = ",".join(level_label(condition[name]) for name in within if name in condition)
        facts = result.get("descriptives", {}).get(label)
        if isinstance(facts, Mapping):
            described[dv] = facts
    return described


def _intervals(facts: Mapping[str, Any]) -> list[tuple[str, tuple[float, float]]]:
    """Return the intervals of the mean by name (`ci95`) that have two finite ends."""
    found = []
    for name, value in facts.items():
        if name.startswith("ci") and isinstance(value, Mapping):
            ends = (value.get("lo"), value.get("hi"))
            if all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends):
                found.append((name, ends))
    return found  # type: ignore[return-value]


def _half(facts: Mapping[str, Any]) -> float | None:
    intervals = _intervals(facts)
    return (intervals[0][1][1] - intervals[0][1][0]) / 2 if intervals else None
