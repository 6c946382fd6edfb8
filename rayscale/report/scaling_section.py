"""The report's sections on the scaling law of a sweep whose size or tokens vary enough, and on what it forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayscale.analysis.forecast_tree import visible_floor
from rayscale.quantities import format_count
from rayscale.report.cells import Cell, Table
from rayscale.report.figures import ReportFigure
from rayscale.report.gather import ReportData
from rayscale.report.numerals import number
from rayscale.report.plot_scaling import scaling_figure
from rayscale.report.sections import Section


def scaling_section(data: ReportData) -> Section | None:
    """Say what the fit of L = E + A/N^alpha + B/D^beta, or of a power law in one of them, found.

    Args:
        data: The sweep.

    Returns:
        The section; None without a fit.
    """
    fit = data.analysis.get("scaling")
    if not fit:
        return None
    why_not = (data.analysis.get("forecast") or {}).get("why_not")
    further = [f"There is no relative-loss forecast: {why_not}."] if why_not else []
    sentences = _sentences(fit, " (estimated)" if data.energy_estimated else "")
    notes = [f"{note[0].upper()}{note[1:]}." for note in fit["notes"]]
    return Section("scaling", "Scaling law", [*sentences, *further], [_figure(data, fit)], (_table(fit),), notes)


def _figure(data: ReportData, fit: Mapping[str, Any]) -> ReportFigure:
    used = data.frame[data.frame["eval_loss"].notna() & ~data.frame["trial_key"].isin(data.excluded)]
    columns = (used[name].tolist() for name in ("params", "trained_tokens", "eval_loss"))
    params, tokens, loss = columns
    return ReportFigure(
        slug="figure-scaling",
        group="section",
        title="held-out loss and fitted law",
        caption="Held-out loss of every trial against its trained tokens, one colour per model size, and the law.",
        alt=f"Scatter plot of {len(loss)} held-out losses between {number(min(loss))} and {number(max(loss))} nats per "
        f"token against tokens, with one falling curve per model size ({len(set(params))}).",
        wide=True,
        make=lambda: scaling_figure(fit, params, tokens, loss),
    )


def _sentences(fit: Mapping[str, Any], mark: str) -> list[str]:
    terms = "".join(
        f" + {one}" for name, one in (("alpha", "A/N^alpha"), ("beta", "B/D^beta")) if fit[name] is not None
    )
    sentences = [
        f"Held-out loss over {fit['n_points']} trials is fitted by L = E{terms} "
        "(N parameters, D trained tokens; Huber loss on ln L)."
    ]
    best = fit["optimum"]
    if best is not None:
        low, high = best["ci95"]["params_exponent"]
        growth = f"C^{number(best['params_exponent'], 3)} (95 % interval {number(low, 3)} to {number(high, 3)})"
        sentences.append(
            f"If the law holds, the best model size for a compute budget C grows as {growth}, and the part of the loss "
            f"above E falls as C^−{number(best['kappa'], 3)}."
        )
    sentences += _optima(fit, mark)
    if fit["isoflop"] is not None:
        sentences.append(
            f"Parabolas at {fit['isoflop']['budgets']} equal compute budgets, computed to be compared with, would have "
            f"the best N grow as C^{number(fit['isoflop']['a'], 3)}."
        )
    held = fit["held_out"]
    if held is not None:
        rows = "trial" if held["n"] == 1 else f"{held['n']} trials"
        sentences.append(
            f"Fitted without the {rows} with the most compute, it predicts their loss with a relative error of "
            f"{100 * held['rms_log_error']:.2g} % (root mean square)."
        )
    return sentences


def _optima(fit: Mapping[str, Any], mark: str) -> list[str]:
    """Say which size is best at what the largest trial took: its compute, and its energy where that is known."""
    sentences = []
    best, thrifty = fit["optimum"], fit["energy_optimum"]
    if best is not None and best["flops"]:
        sentences.append(
            f"At the compute of the largest trial ({number(best['flops'], 3)} FLOP by 6·N·D) the law's best is "
            f"{_size(best)}."
        )
    if thrifty is not None:
        sentences.append(
            f"At the energy of the trial that took the most ({number(thrifty['joules'], 3)} J) it is {_size(thrifty)}, "
            f"since joules{mark} per FLOP go as N^{number(thrifty['size_exponent'], 3)}."
        )
    return sentences


def _size(best: Mapping[str, Any]) -> str:
    counts = (format_count(round(best[name])) for name in ("params", "tokens"))
    return "N = {} and D = {}, with a loss of {}".format(*counts, number(best["loss"]))


def _table(fit: Mapping[str, Any]) -> Table:
    rows = []
    for name in ("E", "A", "alpha", "B", "beta"):
        if fit[name] is not None:
            intervals = (fit["ci95"][name], (fit["profile95"] or {}).get(name))
            rows.append([Cell(name), Cell(number(_shown(name, fit[name])), kind="number")])
            rows[-1] += [_interval(ends and [_shown(name, end) for end in ends]) for ends in intervals]
    head = ["parameter", "estimate", "95 % interval, bootstrap by run", "95 % interval, profile"]
    note = (
        "The bootstrap draws whole runs; the profile treats trials as independent and shows what the data leave open."
    )
    return Table("table-scaling", "The fitted law.", head, rows, (note,))


def _shown(name: str, value: float | None) -> float | None:
    return visible_floor(value) if name == "E" and value is not None else value


def _interval(ends: list[float | None] | None) -> Cell:
    if ends is None:
        return Cell("n/a", kind="number")
    low, high = ("open" if end is None else number(end) for end in ends)
    return Cell(f"{low} to {high}", kind="number")
