"""`rayscale report --model-card`: the `co2_eq_emissions` block of a Hugging Face model card, and a Green-AI table.

Format of the block: https://huggingface.co/docs/hub/model-cards-co2 (emissions in grams of CO2e). It covers the whole
sweep, failed attempts and overhead included. Without a grid intensity there is no block, but a comment that says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayscale.bibliography import bibtex
from rayscale.quantities import format_count
from rayscale.spec import SweepSpec

Tree = Mapping[str, Any]
NOT_KNOWN = "not known"


def card_text(spec: SweepSpec, tree: Tree) -> str:
    """Write the part of a model card that is about what training took.

    Args:
        spec: The sweep.
        tree: Its analysis tree, with `accounting`.

    Returns:
        Markdown that begins with YAML front matter.
    """
    accounting = tree["accounting"]
    return "\n".join(["---", _block(spec, accounting), "---", "", *_table(spec, accounting), ""])


def card_or_references(spec: SweepSpec, tree: Tree, *, model_card: bool, references: bool) -> str:
    """Write what the command was asked for.

    Args:
        spec: The sweep.
        tree: Its analysis tree.
        model_card: The model card.
        references: The references.

    Returns:
        Text.
    """
    parts = [card_text(spec, tree)] if model_card else []
    return "\n".join([*parts, *([bibtex(spec, tree)] if references else [])])


def _block(spec: SweepSpec, accounting: Tree) -> str:
    import yaml

    grid, grams = _own_emissions(accounting)
    if grid is None or grams is None:
        return "# co2_eq_emissions: no grid intensity or no energy is known (report.grid_g_per_kwh in the sweep file)"
    rates = accounting["rates"]
    kind = "an estimate of" if accounting["energy_estimated"] else "measured"
    source = (
        f"rayscale: {kind} device energy x PUE {rates['pue']['value']:g} x {grid['g_per_kwh']:g} g CO2e/kWh "
        f"({grid['source'] or 'source not stated'}{', ' + str(grid['year']) if grid['year'] else ''})"
    )
    block = {
        "emissions": float(f"{grams:.6g}"),
        "source": source,
        "training_type": "pre-training" if spec.model.pretrained is None else "fine-tuning",
        "geographical_location": grid["name"],
        "hardware_used": _hardware(accounting),
    }
    text = yaml.safe_dump({"co2_eq_emissions": block}, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip()


def _own_emissions(accounting: Tree) -> tuple[Tree | None, float | None]:
    """Take the sweep's own grid: the first one."""
    grids = accounting["rates"]["grids"]
    return (grids[0], accounting["sweep"]["co2e_g"][grids[0]["name"]]) if grids else (None, None)


def _hardware(accounting: Tree) -> str:
    return ", ".join(f"{row['devices']} x {name}" for name, row in accounting["hardware"].items())


def _table(spec: SweepSpec, accounting: Tree) -> list[str]:
    sweep, rates = accounting["sweep"], accounting["rates"]
    estimated = " (estimated)" if accounting["energy_estimated"] else ""
    rows = [
        ("Sweep", f"{spec.name}: {sweep['trials']} trials, {format_count(sweep['tokens'])} trained tokens"),
        ("Hardware", _hardware(accounting)),
        ("Training compute", f"{sweep['flops']['training']:.4g} FLOP (6ND: {sweep['flops']['rule_6nd']:.4g})"),
        ("Evaluation compute", f"{sweep['flops']['evaluation']:.4g} FLOP"),
        ("Device time", f"{sweep['device_hours']:.4g} h"),
        (f"Device energy{estimated}", _energy(sweep)),
        ("Of it training", _number(sweep["parts"].get("train", {}).get("energy_kwh"), "kWh")),
        ("Overhead of the sweep", _share(accounting["overhead"]["share_of_hours"])),
        ("PUE", f"{rates['pue']['value']:g} ({rates['pue']['source'] or 'source not stated'})"),
        *_carbon_rows(rates, sweep),
        ("Cost", _number(sweep["cost"], rates["currency"] or "(currency not stated)")),
        ("Energy by", "; ".join(accounting["energy_methods"]) or NOT_KNOWN),
    ]
    lines = ["## What it took", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows]
    return [*lines, "", *(f"- {note}" for note in accounting["notes"])]


def _energy(sweep: Tree) -> str:
    bound = f" ± {sweep['bound_kwh']:.2g}" if sweep["bound_kwh"] is not None else ""
    return NOT_KNOWN if sweep["energy_kwh"] is None else f"{sweep['energy_kwh']:.4g}{bound} kWh"


def _carbon_rows(rates: Tree, sweep: Tree) -> list[tuple[str, str]]:
    rows = []
    for grid in rates["grids"]:
        about = ", ".join(str(part) for part in (grid["source"], grid["year"]) if part)
        intensity = (
            "" if grid["g_per_kwh"] is None else f" ({grid['g_per_kwh']:g} g/kWh; {about or 'no source stated'})"
        )
        rows.append((f"CO2e, {grid['name']}", _number(sweep["co2e_g"][grid["name"]], "g") + intensity))
    return rows or [("CO2e", NOT_KNOWN)]


def _number(value: float | None, unit: str) -> str:
    return NOT_KNOWN if value is None else f"{value:.4g} {unit}"


def _share(share: float | None) -> str:
    return NOT_KNOWN if share is None else f"{100 * share:.1f} % of the device time"


def _cell(text: str) -> str:
    """Keep a name from ending a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
