"""The report's sections on what the sweep took (FLOPs, hours, energy, carbon, money) and what its loss cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayscale.analysis.accounting import PURPOSE_NAMES, PURPOSES
from rayscale.analysis.accounting_tree import budget_lines
from rayscale.analysis.returns_text import front_word, label_words, shown, step_sentences
from rayscale.quantities import format_count
from rayscale.report.cells import Cell, Table, assemble, number_column
from rayscale.report.figures import ReportFigure
from rayscale.report.gather import ReportData
from rayscale.report.numerals import number
from rayscale.report.plot_pareto import pareto_figure
from rayscale.report.sections import Section

Tree = Mapping[str, Any]

KILOGRAMS_FROM = 100.0
"""From here on masses are written in kg. Units: g."""
MOST_STEPS = 6
"""With more steps between levels the table says what each buys, and no sentence does."""


def accounting_section(data: ReportData) -> Section | None:
    """Say what the sweep took.

    Args:
        data: The sweep; its analysis tree may be of a version without accounts.

    Returns:
        The section; None without accounts.
    """
    tree = data.analysis.get("accounting")
    if not tree or not tree["trials"]:
        return None
    tables = [_levels_table(tree), _purposes_table(tree)]
    if tree["rates"]["grids"]:
        tables.append(_grids_table(tree))
    notes = [f"{note[0].upper()}{note[1:]}." for note in tree["notes"]]
    return Section("accounting", "What the sweep took", _sentences(tree), (), tables, notes)


def returns_section(data: ReportData) -> Section | None:
    """Say what loss cost and what more tokens bought.

    Args:
        data: The sweep.

    Returns:
        The section; None without two complete blocks.
    """
    pareto = data.analysis.get("pareto") or {}
    if not pareto:
        return None
    marginal = data.analysis.get("marginal") or {}
    tables = [_front_table(name, found) for name, found in pareto.items()]
    figures = [_figure(name, found) for name, found in pareto.items()]
    notes = [
        "A condition is on the front if no other has, on average, a lower loss for less. Overlaps: off the front, but "
        "its intervals reach it. Share: how often it is on the front when whole blocks are drawn again (bootstrap)."
    ]
    if marginal:
        notes.append(
            "Returns are ratios of mean differences within blocks, with Fieller's interval at the declared level."
        )
    named = {name: found | {"steps": _named_steps(found["steps"])} for name, found in marginal.items()}
    short = "energy" in named and len(named["energy"]["steps"]) <= MOST_STEPS
    sentences = [_front(pareto["energy"])] if "energy" in pareto else []
    sentences += _returns(named["energy"], "energy") if short else []
    return Section("returns", "What the loss cost", sentences, figures, [*tables, *_marginal_tables(named)], notes)


def _front(found: Tree) -> str:
    on = [label_words(label) for label, point in found["points"].items() if point["on_front"]]
    mark = " (estimated)" if found["energy_estimated"] else ""
    names = "; ".join(on) if any("," in name for name in on) else ", ".join(on)
    return f"Per energy{mark} of training, no condition has on average a lower loss for less than these: {names}."


def _named_steps(steps: Tree) -> dict[str, Any]:
    return {"|".join(label_words(end) for end in pair.split("|", 1)): step for pair, step in steps.items()}


def _returns(found: Tree, name: str) -> list[str]:
    mark = " (the energy is an estimate)" if found["energy_estimated"] else ""
    return [f"{sentence[0].upper()}{sentence[1:]}{mark}." for sentence in step_sentences(dict(found), name)]


def _sentences(tree: Tree) -> list[str]:
    sweep, mark = tree["sweep"], " (estimated)" if tree["energy_estimated"] else ""
    devices = ", ".join(f"{row['devices']} × {name}" for name, row in tree["hardware"].items())
    energy = sweep["energy_kwh"]
    bound = f" ± {number(sweep['bound_kwh'], 2)}" if sweep["bound_kwh"] is not None else ""
    drawn = (
        f"{number(energy)}{bound} kWh{mark}"
        if energy is not None
        else f"at least {number(sweep['energy_known_kwh'])} kWh{mark} (not known for all of the time)"
    )
    sentences = [
        f"The sweep took {number(sweep['device_hours'])} device-hours on {devices} and {drawn}, "
        f"for {format_count(sweep['tokens'])} trained tokens."
    ]
    share = tree["overhead"]["share_of_hours"]
    if share is not None:
        lost = len(tree["lost_attempts"])
        sentences.append(
            f"{100 * share:.0f} % of the time went neither into training nor evaluation but into the sweep itself"
            + (f", {lost} failed or repeated attempts included." if lost else ".")
        )
    pue = tree["rates"]["pue"]["value"]
    known = {name: grams for name, grams in sweep["co2e_g"].items() if grams is not None}
    if known:
        masses = ", ".join(f"{_mass(grams)} CO2e on the grid {name}" for name, grams in known.items())
        sentences.append(f"With PUE {pue:g} that is {masses}{mark}.")
    if sweep["cost"] is not None:
        currency = tree["rates"]["currency"] or "in the currency of the prices"
        sentences.append(f"It cost {number(sweep['cost'])} {currency}.")
    return [*sentences, *(f"{line[0].upper()}{line[1:]}." for line in budget_lines(dict(tree)))]


def _mass(grams: float) -> str:
    return f"{number(grams / 1000)} kg" if grams >= KILOGRAMS_FROM else f"{number(grams)} g"


def _levels_table(tree: Tree) -> Table:
    rows = {**tree["levels"], "sweep": tree["sweep"]}
    mark = " (estimated)" if tree["energy_estimated"] else ""
    columns = [
        ("condition", [Cell(label_words(label), label) for label in rows]),
        ("trials", [Cell(str(row["trials"]), kind="number") for row in rows.values()]),
        number_column("training FLOP", [row["flops"]["training"] for row in rows.values()]),
        number_column("of it attention", [row["flops"]["attention"] for row in rows.values()], 3),
        number_column("6·N·D", [row["flops"]["rule_6nd"] for row in rows.values()]),
        *_teacher_columns(rows),
        number_column("evaluation FLOP", [row["flops"]["evaluation"] for row in rows.values()]),
        number_column("device-hours", [row["device_hours"] for row in rows.values()]),
        number_column(f"energy in kWh{mark}", [row["energy_kwh"] for row in rows.values()]),
        number_column("± kWh", [row["bound_kwh"] for row in rows.values()], 2),
        *_money_columns(tree, rows),
    ]
    caption = "What each condition and the whole sweep took: all attempts, all phases."
    return assemble("table-accounting", caption, columns)


def _teacher_columns(rows: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    found = [row["flops"]["teacher"] for row in rows.values()]
    return [number_column("teacher FLOP", found)] if any(found) else []


def _money_columns(tree: Tree, rows: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    if tree["sweep"]["cost"] is None:
        return []
    currency = tree["rates"]["currency"]
    return [number_column("cost" + (f" in {currency}" if currency else ""), [row["cost"] for row in rows.values()])]


def _purposes_table(tree: Tree) -> Table:
    parts = tree["sweep"]["parts"]
    names = [name for name in PURPOSES if name in parts]
    mark = " (estimated)" if tree["energy_estimated"] else ""
    total = tree["sweep"]["device_hours"]
    columns = [
        ("purpose", [Cell(PURPOSE_NAMES[name]) for name in names]),
        number_column("device-hours", [parts[name]["device_hours"] for name in names]),
        number_column(
            "share in %", [100 * parts[name]["device_hours"] / total if total else None for name in names], 3
        ),
        number_column(f"energy in kWh{mark}", [parts[name]["energy_kwh"] for name in names]),
    ]
    caption = "Where the device time went; all but training and evaluation is the sweep's own overhead."
    return assemble("table-purposes", caption, columns)


def _grids_table(tree: Tree) -> Table:
    grids, sweep = tree["rates"]["grids"], tree["sweep"]
    columns = [
        ("grid", [Cell(grid["name"]) for grid in grids]),
        number_column("g CO2e/kWh", [grid["g_per_kwh"] for grid in grids]),
        ("source", [Cell(grid["source"] or "not stated") for grid in grids]),
        ("year", [Cell(str(grid["year"] or "not stated")) for grid in grids]),
        number_column("kg CO2e of the sweep", [_kilo(sweep["co2e_g"].get(grid["name"])) for grid in grids]),
    ]
    return assemble("table-grids", "The same sweep on other grids: device energy × PUE × intensity.", columns)


def _kilo(grams: float | None) -> float | None:
    return None if grams is None else grams / 1000


def _front_table(name: str, found: Tree) -> Table:
    points: Sequence[Tree] = list(found["points"].values())
    mark = " (estimated)" if found["energy_estimated"] else ""
    columns = [
        ("condition", [Cell(label_words(label), label) for label in found["points"]]),
        number_column("held-out loss", [point["loss"] for point in points]),
        number_column(f"{shown(name)} in {found['unit']}{mark}", [point["resource"] for point in points]),
        ("on the front", [Cell(front_word(dict(point))) for point in points]),
        number_column("share", [point["front_share"] for point in points], 3),
    ]
    return assemble(
        f"table-front-{name}", f"Held-out loss against {shown(name)} of training.", columns, folded=name != "energy"
    )


def _marginal_tables(marginal: Tree) -> list[Table]:
    tables = []
    for name, found in marginal.items():
        steps = found["steps"]
        columns = [
            ("step", [Cell(" → ".join(pair.split("|", 1))) for pair in steps]),
            number_column("nats gained", [step["gain_nats"] for step in steps.values()]),
            number_column(f"{found['unit']} more", [step["spent"] for step in steps.values()]),
            number_column(f"nats per {found['unit']}", [step["return"] for step in steps.values()]),
            number_column("from", [step["ci"] and step["ci"][0] for step in steps.values()]),
            number_column("to", [step["ci"] and step["ci"][1] for step in steps.values()]),
        ]
        caption = f"What the next level of tokens buys per additional {shown(name)}."
        tables.append(assemble(f"table-marginal-{name}", caption, columns, folded=name != "energy"))
    return tables


def _figure(name: str, found: Tree) -> ReportFigure:
    mark = " (estimated)" if found["energy_estimated"] else ""
    title = f"Loss against {shown(name)}{mark}"
    points = {label_words(label): point for label, point in found["points"].items()}
    on = [label for label, point in points.items() if point["on_front"]]
    return ReportFigure(
        slug=f"pareto-{name}",
        group="tokens",
        title=title,
        caption=f"Mean held-out loss against {shown(name)} of training{mark}, intervals of both; filled: on the front. "
        "A name that would cover another is left to the table.",
        alt=f"Held-out loss against {shown(name)}; on the front: {', '.join(on)}.",
        wide=False,
        make=lambda: pareto_figure(title, f"{shown(name)} in {found['unit']}", points),
    )
