"""Plans and states as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rayscale.design import Plan, condition_label
from rayscale.ledger import Failure, Ledger, Status
from rayscale.quantities import format_count, format_duration
from rayscale.training.compiling import MFU_EAGER

WIDTH = 110


def to_text(table: Table) -> str:
    """Draw a table without colours.

    Args:
        table: The table.

    Returns:
        Text of at most `WIDTH` columns.
    """
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, no_color=True, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def render_plan(document: dict[str, Any]) -> str:
    """Write a plan document as a table and its totals.

    Args:
        document: From `planning.plan_document`.

    Returns:
        Text.
    """
    table = Table(box=None, pad_edge=False, header_style="")
    for name in ("run", "block", "condition", "seed", "trial_key", "tokens", "steps", "FLOPs", "time (est.)"):
        table.add_column(name, justify="left" if name in ("condition", "trial_key") else "right", no_wrap=True)
    for row in document["trials"]:
        table.add_row(
            str(row["run_order"]),
            str(row["block"]),
            _short_label(row["condition"]),
            str(row["seed"]),
            row["trial_key"],
            f"{row['tokens']:,}",
            f"{row['steps']:,}",
            _scientific(row["flops"]),
            format_duration(row["time_s"]) if row["time_s"] is not None else "n/a",
        )
    return to_text(table) + "\n\n" + _render_totals(document["name"], document["totals"])


def _short_label(condition: Mapping[str, Any]) -> str:
    """Name a condition by the last parts of its factors' names, without the tokens if there are other factors.

    The table is 110 columns wide and keys have to be whole; tokens have a column of their own.
    """
    others = {name: level for name, level in condition.items() if name != "tokens"} or dict(condition)
    last = [name.rsplit(".", 1)[-1] for name in others]
    names = last if len(set(last)) == len(last) else list(others)
    return ",".join(f"{name}={level}" for name, level in zip(names, others.values(), strict=True))


def _render_totals(name: str, totals: dict[str, Any]) -> str:
    lines = [f"{name}: {totals['trials']} trials, {format_count(totals['tokens'])} tokens"]
    if totals["params"]:
        lines[0] += f", {format_count(totals['params'])} parameters"
    if totals["flops"]:
        lines[0] += f", {_scientific(totals['flops'])} training FLOPs"
    if totals["teacher_flops"]:
        lines.append(f"beside them {_scientific(totals['teacher_flops'])} FLOPs of a teacher's forward passes")
    if totals["beforehand"]["models"]:
        lines.append(_beforehand_line(totals["beforehand"]))
    if totals["run_tokens"] < totals["tokens"]:
        lines.append(
            f"shared trunks (train.share_prefix): {format_count(totals['run_tokens'])} tokens are run, "
            f"{totals['saved_share']:.0%} are saved; budgets run in ascending order and their energies are dependent"
        )
    if totals["time_s"] is not None:
        text = f"estimate: {format_duration(totals['time_s'])} on one slot"
        if totals["energy_kwh"] is not None:
            text += f", {totals['energy_kwh'] * 1000:.3g} Wh while training"
        lines.append(f"{text} (from {totals['estimate']})")
    if totals["memory"]:
        lines.append(totals["memory"]["sentence"])
    if totals["assumed_train_s"]:
        times = (f"{format_duration(value)} on an {name}" for name, value in totals["assumed_train_s"].items())
        lines.append(f"training alone, at an assumed {MFU_EAGER:.0%} of the peak: {', '.join(times)}")
    return "\n".join([*lines, *totals["notes"]])


def _beforehand_line(found: dict[str, Any]) -> str:
    models = ", ".join(f"{model['role']} on {format_count(model['tokens'])} tokens" for model in found["models"])
    took = "" if found["time_s"] is None else f", about {format_duration(found['time_s'])}"
    return f"trained once beforehand (per machine, then cached): {models}; {_scientific(found['flops'])} FLOPs{took}"


def _scientific(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def render_status(
    ledger: Ledger,
    plan: Plan,
    counts: Status,
    holder: str | None,
    failures: dict[str, Failure],
    budget: Mapping[str, Mapping[str, float | None]],
) -> str:
    """Write how far a sweep is.

    Args:
        ledger: The ledger.
        plan: The plan.
        counts: Its trials by state.
        holder: Who runs it now.
        failures: Trial key -> last failure, of trials without a record.
        budget: From `accounting.budget_state`.

    Returns:
        Text.
    """
    lines = [
        f"{ledger.name} ({ledger}): {counts.completed} of {counts.planned} trials completed, "
        f"{counts.running} running, {counts.failed} failed, {counts.pending} to do",
        f"of the completed: {counts.completed - counts.suspect - counts.invalid} clean, {counts.suspect} suspect, "
        f"{counts.invalid} invalid; {counts.attempts} attempts in all",
    ]
    if counts.stopped:
        lines.append(f"ended by design.stop, {counts.not_needed} trials are not needed: {counts.stopped}")
    lines += _budget_lines(budget, plan.spec.report.currency)
    if holder:
        lines.append(f"being run by {holder}")
    labels = {trial.trial_key: f"{condition_label(trial.condition)} rep {trial.repetition}" for trial in plan.trials}
    lines += [f"{labels[key]} ({key}): {failure.reason}: {failure.detail}" for key, failure in failures.items()]
    return "\n".join(lines)


def _budget_lines(budget: Mapping[str, Mapping[str, float | None]], currency: str | None) -> list[str]:
    """Write what is spent, of which cap: `spent: 0.21 of 4 device-hours, 0.0031 kWh (no cap)`."""
    units = {"gpu_hours": "device-hours", "kwh": "kWh", "money": currency or "in the currency of the prices"}

    def amount(name: str, key: str) -> str:
        found, cap = budget[name][key], budget[name]["cap"]
        if found is None:
            return f"{units[name]} not known for all of the time" + (f" (cap {cap:g})" if cap is not None else "")
        text = f"{found:.4g}"
        return f"{text} of {cap:g} {units[name]}" if cap is not None else f"{text} {units[name]} (no cap)"

    shown = [name for name, row in budget.items() if name != "money" or row["spent"] is not None or row["cap"]]
    lines = [f"spent: {', '.join(amount(name, 'spent') for name in shown)}"]
    begun = {name: value for name, row in budget.items() if (value := row["in_progress"])}
    parts = (f"{value:.3g} {units[name]}" for name, value in begun.items())
    return [*lines, f"and by attempts that have not ended: {', '.join(parts)}"] if begun else lines
