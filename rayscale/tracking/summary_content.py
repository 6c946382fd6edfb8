"""From the analysis to one summary run per level: MLflow's pages show no spread over runs, so a run states it.

The mean has the trials' own metric name, so that it stands in their column; beside it `<dv>_sd` and `<dv>_ci` (the
half-width of the mean's interval); the run's description has them as a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from rayscale.design import Condition, Plan, condition_label, grid
from rayscale.tracking.content import Point, RunContent, condition_name, digest_of


def summary_contents(plan: Plan, tree: Mapping[str, Any], at_ms: int) -> list[RunContent]:
    """Put together the summary runs.

    Args:
        plan: The plan.
        tree: The analysis of the ledger (design 4.6): `results.<dv>.descriptives.<level>`, with
            several factors `results.<dv>.descriptives.cells.<cell>`.
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
    values = {name: value for dv, facts in described.items() for name, value in _metrics(dv, facts).items()}
    tags = {
        "rayscale.energy_estimated": str(estimated).lower(),
        "mlflow.note.content": _note(described, estimated),
    }
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
    """Find each dependent variable's description of one condition; a factor with one level is not in its label."""
    from rayscale.analysis.cells import cell_label
    from rayscale.analysis.levels import level_label

    described = {}
    for dv, result in tree.get("results", {}).items():
        within = [name for name in result.get("within", ["tokens"]) if name in condition]
        label = cell_label(within, [level_label(condition[name]) for name in within])
        levels = result.get("descriptives", {})
        facts = (levels.get("cells", {}) if len(within) > 1 else levels).get(label)
        if isinstance(facts, Mapping):
            described[dv] = facts
    return described


def _metrics(dv: str, facts: Mapping[str, Any]) -> dict[str, float]:
    interval = _interval(facts)
    half = (interval[2] - interval[1]) / 2 if interval else None
    named = {dv: facts.get("mean"), f"{dv}_sd": facts.get("sd"), f"{dv}_ci": half}
    return {name: float(value) for name, value in named.items() if _is_finite(value)}


def _interval(facts: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """Return name (`ci95`), lower and upper end of the mean's interval; None if an end is unavailable."""
    for name, value in facts.items():
        if name.startswith("ci") and isinstance(value, Mapping):
            low, high = value.get("lo"), value.get("hi")
            if _is_finite(low) and _is_finite(high):
                return name, float(low), float(high)
    return None


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _note(described: Mapping[str, Mapping[str, Any]], estimated: bool) -> str:
    """Describe a level for the run's page; Markdown."""
    lines = ["| measure | n | mean | sd | interval of the mean |", "|---|---:|---:|---:|---:|"]
    for dv, facts in described.items():
        interval = _interval(facts)
        ends = f"[{interval[1]:.6g}, {interval[2]:.6g}] ({interval[0]})" if interval else "n/a"
        numbers = (f"{facts[name]:.6g}" if _is_finite(facts.get(name)) else "n/a" for name in ("mean", "sd"))
        lines.append(f"| {dv} | {facts.get('n', 'n/a')} | {' | '.join(numbers)} | {ends} |")
    if estimated:
        lines.append("\nEnergy is *estimated*, not measured.")
    return "\n".join(lines)
