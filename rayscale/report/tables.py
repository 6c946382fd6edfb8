"""Tables about the runs: every trial, failures, settings, versions, definitions of the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayscale.quantities import format_count
from rayscale.report.cells import Cell, Table, assemble, number_cell, number_column
from rayscale.report.gather import ReportData
from rayscale.report.numerals import NA, fixed, number

FOLD_ABOVE = 30
"""A table with more rows than this is folded away until it is asked for."""


def trials_table(data: ReportData) -> Table:
    """Tabulate all completed trials.

    Args:
        data: The sweep.

    Returns:
        One row per record in run order: condition, duration, losses, energy, power, verdict.
    """
    records, frame = data.records, data.frame
    suffix = " (estimated)" if data.energy_estimated else ""
    factors = [name for name in data.spec.design.factors if name != "tokens"]

    def column(name: str) -> list[Any]:
        return list(frame[name]) if name in frame.columns else [None] * len(records)

    columns = [
        ("run", [Cell(str(record.run_order + 1), f"trial {record.trial_key}", "number") for record in records]),
        ("started", [Cell(_clock(record.started_at), record.started_at) for record in records]),
        ("repetition", [Cell(str(record.repetition), f"seed {record.seed}", "number") for record in records]),
        ("tokens", [number_cell(_whole(r.condition["tokens"]), r.condition["tokens"]) for r in records]),
        *((name, [Cell(str(record.condition.get(name, NA))) for record in records]) for name in factors),
        number_column("duration in s", column("duration_s")),
        number_column("train loss", column("train_loss")),
        number_column("held-out loss", column("eval_loss")),
        number_column("perplexity", column("perplexity")),
        number_column(f"energy in J{suffix}", column("energy_j")),
        number_column(f"net energy in J{suffix}", column("net_energy_j")),
        number_column(f"mean power in W{suffix}", column("power_mean_w")),
        number_column("coverage in %", [_percent(value) for value in column("coverage")], 3),
        ("verdict", [_verdict(record.quality.verdict, record.quality.reasons) for record in records]),
    ]
    caption = "All completed trials, in run order. Energy and power are those of the training phase."
    return assemble("table-trials", caption, columns, folded=len(records) > FOLD_ABOVE)


def failures_table(data: ReportData) -> Table:
    """Tabulate the trials whose last attempt failed.

    Args:
        data: The sweep.

    Returns:
        One row per trial; no rows if none failed.
    """
    rows = [
        [
            Cell(str(failed.trial.run_order + 1), f"trial {failed.trial.trial_key}", "number"),
            Cell(", ".join(_factor_words(failed.trial.condition))),
            Cell(str(failed.trial.repetition), kind="number"),
            Cell(str(failed.attempt), kind="number"),
            Cell(failed.failure.reason.replace("_", " ")),
            Cell(failed.failure.detail),
        ]
        for failed in data.failed
    ]
    head = ["run", "condition", "repetition", "attempts", "reason", "what happened"]
    return Table("table-failures", "Trials without a result.", head, rows)


def environment_table(data: ReportData) -> Table:
    """Tabulate versions and hosts: those stored with the plan, then those of the trials.

    Args:
        data: The sweep.

    Returns:
        One row per entry; entries that differ between trials say so.
    """
    rows = [[Cell(name), Cell(text)] for name, text in _flat(data.environment)]
    seen = {name for name, _ in _flat(data.environment)}
    found: dict[str, dict[str, int]] = {}
    for record in data.records:
        for name, text in _flat(record.environment):
            counts = found.setdefault(name, {})
            counts[text] = counts.get(text, 0) + 1
    for name, counts in found.items():
        if name not in seen or len(counts) > 1 or [Cell(name), Cell(next(iter(counts)))] not in rows:
            rows.append([Cell(f"trial: {name}"), Cell(_tally(counts))])
    return Table("table-environment", "Versions, as recorded by the runs.", ["entry", "value"], rows, folded=True)


def metrics_table(data: ReportData) -> Table:
    """Tabulate the definitions of all metrics, user-defined ones last.

    Args:
        data: The sweep.

    Returns:
        Name, unit and definition of each.
    """
    from rayscale.analysis.efficiency import METRICS

    rows = [[Cell(metric.name), Cell(metric.unit or "1"), Cell(metric.definition)] for metric in METRICS.values()]
    rows += [
        [Cell(name), Cell(""), Cell(f"{text} (defined in the sweep file)")]
        for name, text in data.spec.analysis.metrics.items()
    ]
    caption = "Definitions of the metrics; each is computed per trial."
    return Table("table-metrics", caption, ["metric", "unit", "definition"], rows)


def settings_yaml(data: ReportData) -> str:
    """Write the sweep as YAML, as `rayscale run` would read it.

    Args:
        data: The sweep.

    Returns:
        YAML with the keys that were given; defaults are left out.
    """
    import yaml

    tree = data.spec.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def _factor_words(condition: Mapping[str, Any]) -> list[str]:
    return [f"{name} {format_count(int(level)) if name == 'tokens' else level}" for name, level in condition.items()]


def _verdict(verdict: str, reasons: Any) -> Cell:
    return Cell(verdict, "; ".join(f"{reason.code}: {reason.detail}" for reason in reasons), verdict)


def _clock(stamp: str) -> str:
    return f"{datetime.fromisoformat(stamp):%m-%d %H:%M:%S}"


def _whole(value: Any) -> str:
    return fixed(float(value), 0)


def _percent(share: Any) -> float | None:
    return None if number(share) == NA else 100 * float(share)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Write nested entries with dotted names; what is null is not listed."""
    entries: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            entries += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            entries.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return entries


def _tally(counts: Mapping[str, int]) -> str:
    """Say which values occur, with counts where there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = sorted(counts.items(), key=lambda item: -item[1])[:3]
    more = f"; {len(counts) - 3} more" if len(counts) > 3 else ""
    return "; ".join(f"{text} ({count}×)" for text, count in shown) + more
