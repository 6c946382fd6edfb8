"""The accounts of a sweep as the part `accounting` of the analysis tree, and as text.

`accounting.{sweep,levels.<condition>,trials.<key>}` have the same fields: operations in FLOP, device-hours, energy in
kWh with its bound, parts by purpose, CO2e per grid, cost. `overhead` lists what the sweep spent on itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from rayscale.analysis.accounting import (
    PURPOSE_NAMES,
    PURPOSES,
    RESULTS,
    SECONDS_PER_HOUR,
    Account,
    SweepAccount,
    operations_tree,
    part_tree,
)
from rayscale.analysis.rates import Rates, bill, bill_tree
from rayscale.analysis.returns_text import label_words
from rayscale.record import Record

Tree = dict[str, Any]

WIDTH = 100


def accounting_tree(account: SweepAccount, rates: Rates, records: Sequence[Record]) -> Tree:
    """Write the accounts of a sweep.

    Args:
        account: The accounts.
        rates: PUE, grids, prices.
        records: The accepted trials, for where their energy comes from.

    Returns:
        `rates, hardware, sweep, levels, trials, overhead, lost_attempts, energy_estimated, notes`.
    """
    estimated = any(record.energy.estimated for record in records)
    return {
        "energy_estimated": estimated,
        "energy_methods": sorted({record.energy.method for record in records}),
        "rates": rates.tree(),
        "hardware": {name: _hardware(found, records, name) for name, found in account.hardware.items()},
        "sweep": account_tree(account.sweep, rates),
        "levels": {label: account_tree(found, rates) for label, found in account.levels.items()},
        "trials": {key: account_tree(found, rates) for key, found in account.trials.items()},
        "overhead": _overhead(account.sweep),
        "lost_attempts": [
            {"trial_key": one.trial_key, "attempt": one.attempt, "reason": one.reason, **part_tree(one.part)}
            for one in account.lost
        ],
        "notes": _notes(account, rates, estimated),
    }


def account_tree(account: Account, rates: Rates) -> Tree:
    """Write one account.

    Args:
        account: The account.
        rates: PUE, grids, prices.

    Returns:
        `trials, tokens, flops, device_hours, energy_kwh, bound_kwh, ..., parts, co2e_g, cost, ...`; host energy is
        null, since no source of rayscale measures it apart from the device.
    """
    total = account.total
    return {
        "trials": account.trials,
        "tokens": account.tokens,
        "flops": operations_tree(account.operations),
        **part_tree(total),
        "host_kwh": None,
        **bill_tree(bill(total, rates), rates),
        "parts": {name: part_tree(part) for name, part in account.parts.items()},
    }


def _hardware(account: Account, records: Sequence[Record], name: str) -> Tree:
    devices = {record.device.uuid for record in records if record.device.name == name}
    kinds = {record.device.kind for record in records if record.device.name == name}
    return {"devices": len(devices), "kind": ", ".join(sorted(kinds)), "trials": account.trials} | part_tree(
        account.total
    )


def _overhead(account: Account) -> Tree:
    """List what was spent beside training and evaluation, with its share of all."""
    total, own = account.total, account.overhead
    rows = {name: part_tree(part) for name, part in account.parts.items() if name not in RESULTS}
    return {
        **part_tree(own),
        "share_of_hours": own.seconds / total.seconds if total.seconds > 0 else None,
        "share_of_energy": own.energy_j / total.energy_j if total.energy_j > 0 and not own.unknown_s else None,
        "parts": rows,
    }


def _notes(account: SweepAccount, rates: Rates, estimated: bool) -> list[str]:
    notes = ["energy of the training devices only, without the rest of the host; time between attempts is not counted"]
    if estimated:
        notes.insert(0, "the energy is an estimate, not a measurement; its bound covers sampling, not the model")
    total = account.sweep.total
    if total.unknown_s > 0:
        notes.append(
            f"the energy of {total.unknown_s / SECONDS_PER_HOUR:.3g} of {total.seconds / SECONDS_PER_HOUR:.3g} "
            "device-hours is not known (no usable power trace): sums that hold it are null, what is known is beside"
        )
    silent = sum(one.part.seconds == 0 for one in account.lost)
    if silent:
        notes.append(f"{silent} failed attempts left neither log nor trace; their time is not known and not counted")
    if rates.price_per_kwh is None and rates.price_per_gpu_hour is None:
        notes.append("no cost: no price was given (report.price_per_kwh, report.price_per_gpu_hour)")
    return [*notes, *rates.notes()]


def accounting_text(tree: Tree) -> str:
    """Write the accounts for people.

    Args:
        tree: From `accounting_tree`.

    Returns:
        What the sweep took, per level and purpose; lines of at most 100 columns.
    """
    title = "What it took" + (" (*estimated* energy)" if tree["energy_estimated"] else "")
    lines = [title, "=" * len(title), *_summary_lines(tree), ""]
    head = f"{'':<34}{'trials':>7}{'FLOP':>11}{'device-h':>11}{'kWh':>23}{'in training':>14}"
    rows = [*tree["levels"].items(), ("sweep", tree["sweep"])]
    lines += [head.rstrip(), *(_row(label, row) for label, row in rows), ""]
    lines += [f"{'purpose':<34}{'device-h':>11}{'kWh':>12}"]
    parts = tree["sweep"]["parts"]
    for name in (name for name in PURPOSES if name in parts):
        part = parts[name]
        lines.append(f"{PURPOSE_NAMES[name]:<34}{part['device_hours']:>11.4g}{_show(part['energy_kwh']):>12}")
    return "\n".join([*lines, "", *(line for note in tree["notes"] for line in _wrap(note))])


def _wrap(note: str) -> list[str]:
    return textwrap.wrap(note, WIDTH, initial_indent="- ", subsequent_indent="  ")


def _summary_lines(tree: Tree) -> list[str]:
    sweep, rates = tree["sweep"], tree["rates"]
    names = ", ".join(f"{row['devices']} x {name}" for name, row in tree["hardware"].items())
    lines = [f"{sweep['device_hours']:.4g} device-hours on {names}" if names else "no finished trial"]
    flops = sweep["flops"]
    lines.append(
        f"{flops['training']:.4g} FLOP of training (6ND: {flops['rule_6nd']:.4g}; attention {flops['attention']:.3g} "
        f"of it), {flops['evaluation']:.3g} of evaluation"
    )
    currency = f" {rates['currency']}" if rates["currency"] else ""
    lines += [
        f"{grams / 1000:.4g} kg CO2e, grid {name} (PUE {rates['pue']['value']:g})"
        for name, grams in sweep["co2e_g"].items()
        if grams is not None
    ]
    if sweep["cost"] is not None:
        lines.append(f"cost: {sweep['cost']:.4g}{currency}")
    return [*lines, *budget_lines(tree)]


def budget_lines(tree: Tree) -> list[str]:
    """Say what is spent of the caps that the sweep file sets: `budget: 0.21 of 4 device-hours spent`.

    Args:
        tree: From `accounting.accounting_of`; trees of earlier versions have no budget.

    Returns:
        One line; none without caps.
    """
    units = {"gpu_hours": "device-hours", "kwh": "kWh", "money": tree["rates"]["currency"] or "in the prices' currency"}
    capped = {name: row for name, row in (tree.get("budget") or {}).items() if row["cap"] is not None}
    parts = (f"{_show(row['spent'])} of {row['cap']:g} {units[name]}" for name, row in capped.items())
    return [f"budget: {', '.join(parts)} spent"] if capped else []


def _row(label: str, row: Tree) -> str:
    energy = _show(row["energy_kwh"]) + (f" +- {row['bound_kwh']:.2g}" if row["bound_kwh"] is not None else "")
    train = row["parts"].get("train", {}).get("energy_kwh")
    return (
        f"{label_words(label)[:33]:<34}{row['trials']:>7}{row['flops']['training']:>11.3g}{row['device_hours']:>11.4g}"
        f"{energy:>23}{_show(train):>14}"
    )


def _show(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
