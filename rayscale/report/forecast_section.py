"""The report's section on the relative-loss forecast (arXiv 2501.02156) of a sweep's own fit; none without a kappa."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayscale.report.cells import Cell, Table, assemble, number_column
from rayscale.report.figures import ReportFigure
from rayscale.report.gather import ReportData
from rayscale.report.numerals import number
from rayscale.report.plot_forecast import forecast_figure
from rayscale.report.sections import Section

Tree = Mapping[str, Any]


def forecast_section(data: ReportData) -> Section | None:
    """Say how the loss of a fleet falls while its efficiency grows, by the law that was fitted to this sweep.

    Args:
        data: The sweep.

    Returns:
        The section; None without a fit, or where it leaves kappa open.
    """
    tree = data.analysis.get("forecast")
    if not tree or tree["kappa"] is None:
        return None
    tables = [_plans_table(tree), _fleets_table(tree), _family_table(tree)]
    notes = [f"{note[0].upper()}{note[1:]}." for note in tree["notes"]]
    return Section("forecast", "Relative-loss forecast", _sentences(tree), [_figure(tree)], tables, notes)


def _sentences(tree: Tree) -> list[str]:
    formula = "αβ/(α + β)" if "(" in tree["kappa_formula"] else {"beta": "β", "alpha": "α"}[tree["kappa_formula"]]
    low, high = (number(end) for end in tree["kappa_ci95"])
    years, target = _years(tree["years"]), f"{tree['target']:g}"
    first, last = tree["plans"][0], tree["plans"][-1]
    left = " and ".join(
        f"{_ends(plan['R'], plan['ci95']['R'])} at γ = {_signed(plan['gamma'])}"
        for plan in ([first, last] if first is not last else [last])
    )
    return [
        f"The fit of this sweep gives κ = {formula} = {number(tree['kappa'])} (95 % interval {low} to {high}): with "
        f"compute spent on {tree['compute_spent_on']}, the loss above the floor, {_applies(tree)} with "
        f"E = {number(tree['floor'], 3)}, falls as compute to the power −κ.",
        f"A fleet that uses the same energy every year would, after {years}, have this share of it left: {left}; "
        "γ is how often its efficiency doubles per year.",
        f"To leave {target} of it within {years} takes γ = "
        f"{_ends(tree['gamma_for_target'], tree['gamma_for_target_ci95'])} doublings per year.",
        _fleet_sentence(last),
    ]


def _fleet_sentence(plan: Tree) -> str:
    fleets = plan["fleets"]
    ends = (
        f"With the same energy, a front-loaded fleet that spends it all within {_years(fleets['spend_years'])} ends at "
        f"{number(fleets['front_loaded'])}, one that spends it evenly while efficiency grows (γ = "
        f"{_signed(plan['gamma'])}) at {number(fleets['even'])}"
    )
    overtaken = fleets["overtaken"]
    if overtaken is None:
        return f"{ends}; the even one does not get ahead within {_years(fleets['years'])}."
    return f"{ends}; the even one gets ahead after {number(overtaken, 3)} years."


def _plans_table(tree: Tree) -> Table:
    plans: Sequence[Tree] = tree["plans"]
    columns = [
        ("γ, doublings per year", [Cell(_signed(plan["gamma"]), kind="number") for plan in plans]),
        (f"R after {_years(tree['years'])}", [_cell(plan["R"], plan["ci95"]["R"]) for plan in plans]),
        (
            f"years to R = {tree['target']:g}",
            [_cell(plan["years_to_target"], plan["ci95"]["years_to_target"]) for plan in plans],
        ),
    ]
    caption = "Relative loss, and when the wanted one is reached; with the 95 % interval of κ carried through."
    return assemble("table-forecast", caption, columns)


def _fleets_table(tree: Tree) -> Table:
    plans = tree["plans"]
    spent = _years(plans[0]["fleets"]["spend_years"])
    columns = [
        ("γ, doublings per year", [Cell(_signed(plan["gamma"]), kind="number") for plan in plans]),
        (f"R, front-loaded within {spent} years", [_cell(plan["fleets"]["front_loaded"]) for plan in plans]),
        ("R, spent evenly", [_cell(plan["fleets"]["even"]) for plan in plans]),
        (
            "even one ahead after years",
            [Cell(_word(plan["fleets"]["overtaken"], "not within them"), kind="number") for plan in plans],
        ),
    ]
    caption = f"Two fleets that spend the same energy ({tree['years']:g} fleet-years), at the end."
    return assemble("table-fleets", caption, columns)


def _family_table(tree: Tree) -> Table:
    found = tree["family"]
    columns = [("γ, doublings per year", [Cell(_signed(gamma), kind="number") for gamma in found["gammas"]])]
    for index, years in enumerate(found["years"]):
        columns.append(number_column(f"{years:g} yr", [row[index] for row in found["R"]]))
    return assemble("table-family", "R(t) over γ and dates.", columns, folded=True)


def _figure(tree: Tree) -> ReportFigure:
    gammas = [plan["gamma"] for plan in tree["plans"]]
    ends = "; ".join(f"γ {plan['gamma']:g}: {number(plan['R'])}" for plan in tree["plans"])
    return ReportFigure(
        slug="figure-forecast",
        group="section",
        title="relative loss of a fleet",
        caption=f"Relative loss R(t), of {_applies(tree)}, for a fleet that uses the same energy every year: one curve "
        f"per γ (doublings of efficiency per year), with the 95 % interval of κ; dotted: R = {tree['target']:g}.",
        alt=f"Curves of the relative loss over {_years(tree['years'])}. At the end: {ends}.",
        wide=True,
        make=lambda: forecast_figure(tree["kappa"], gammas, tree["years"], tree["target"], tree["kappa_ci95"]),
    )


def _applies(tree: Tree) -> str:
    return str(tree["applies_to"]).replace("-", "−")


def _years(value: float) -> str:
    return "1 year" if value == 1 else f"{value:g} years"


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _word(value: float | None, nothing: str) -> str:
    return nothing if value is None else number(value)


def _cell(value: float | None, ends: Sequence[float | None] | None = None) -> Cell:
    text = _word(value, "never") if ends is None else _ends(value, ends)
    return Cell(text, "" if value is None else f"{value:.15g}", "number")


def _ends(value: float | None, ends: Sequence[float | None]) -> str:
    low, high = (_word(end, "never") for end in ends)
    return f"{_word(value, 'never')} ({low} to {high})"
