"""The report's figures: which there are, what they say in words, and how to save them as SVG or PNG.

Figures are described first (`ReportFigure`) and drawn on demand, so that the page, MLflow and the README share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rayscale.design import Condition, Plan, grid
from rayscale.errors import InputError
from rayscale.quantities import format_count
from rayscale.record import Record
from rayscale.report import plot_budget, plot_measure, plot_power, plot_resample
from rayscale.report.gather import ReportData, gather
from rayscale.report.measures import Measure
from rayscale.report.numerals import as_number, number
from rayscale.report.plot_measure import Centre, Point
from rayscale.report.plotting import style
from rayscale.report.svg import figure_svg
from rayscale.report.tree import cell_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rayscale.ledger import Ledger

Group = Literal["tokens", "power", "order", "time", "section"]
"""`section`: the figure stands in a section of `sections.py`."""


@dataclass(frozen=True)
class ReportFigure:
    """One figure.

    Attributes:
        slug: Anchor and file name.
        group: Section of the report.
        title: Its name in the table of contents.
        caption: What is seen, in words.
        alt: The same for who cannot see it, with the numbers that matter.
        wide: True when it has the line to itself.
        make: Draws it; call it within `plotting.style`.
    """

    slug: str
    group: Group
    title: str
    caption: str
    alt: str
    wide: bool
    make: Callable[[], Figure]

    def svg(self) -> str:
        """Draw it for inline use.

        Returns:
            An `<svg>` element.
        """
        with style():
            return figure_svg(self.make(), self.slug, self.alt)

    def png(self, path: Path, dpi: int = 160) -> Path:
        """Save it as PNG on white.

        Args:
            path: The file; its directory must exist.
            dpi: Resolution.

        Returns:
            The path.
        """
        with style():
            self.make().savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        return path


def figure_png(ledger: Ledger, analysis: Mapping[str, Any], directory: Path, dpi: int = 160) -> list[Path]:
    """Save every figure of a sweep as PNG, for MLflow or a README.

    Args:
        ledger: The sweep's ledger.
        analysis: Its analysis tree.
        directory: Where; made if it is not there.
        dpi: Resolution.

    Returns:
        The files, named after the figures' slugs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return [figure.png(directory / f"{figure.slug}.png", dpi) for figure in report_figures(gather(ledger, analysis))]


def report_figures(data: ReportData) -> list[ReportFigure]:
    """List the figures that the sweep has data for.

    Args:
        data: The sweep.

    Returns:
        Measures against tokens, power traces of one block, efficiency against sampling period, measures against run
        order, time budget.
    """
    if not data.records:
        return []
    measures, block = data.known_measures(), _block_with_traces(data)
    return [
        *(_tokens_figure(data, measure, index) for index, measure in enumerate(measures, 1)),
        *_power_figures(block),
        *_resample_figures(data, block),
        *(_order_figure(data, measure, index) for index, measure in enumerate(measures, 1)),
        _budget_figure(data),
    ]


def rest_words(condition: Mapping[str, Any]) -> str:
    """Name the levels of all factors but tokens: `train.precision bf16`; empty if there is none.

    Args:
        condition: Factor -> level.

    Returns:
        The words.
    """
    return ", ".join(f"{name} {level}" for name, level in condition.items() if name != "tokens")


def condition_words(condition: Mapping[str, Any]) -> str:
    """Name a condition: `500K`, or `500K, train.precision bf16`.

    Args:
        condition: Factor -> level.

    Returns:
        The words.
    """
    tokens = format_count(int(condition["tokens"]))
    return ", ".join(part for part in (tokens, rest_words(condition)) if part)


def conditions(plan: Plan) -> list[Condition]:
    """List the conditions of a plan, tokens ascending within the other factors' levels.

    Args:
        plan: The plan.

    Returns:
        Every cell of the factor grid.
    """
    return grid(plan.spec.design.factors)


def points_of(data: ReportData, name: str) -> list[Point]:
    """Collect the known values of one measure.

    Args:
        data: The sweep.
        name: Column of the table.

    Returns:
        One point per trial that has a value.
    """
    starts = sorted(data.records, key=lambda record: datetime.fromisoformat(record.started_at))
    rank = {record.trial_key: index for index, record in enumerate(starts, 1)}
    values = map(as_number, data.frame[name].tolist())
    return [
        Point(
            tokens=int(record.condition["tokens"]),
            rest=rest_words(record.condition),
            repetition=record.repetition,
            value=value,
            rank=rank[record.trial_key],
            used=record.trial_key not in data.excluded,
        )
        for record, value in zip(data.records, values, strict=True)
        if value is not None
    ]


def _rests(data: ReportData) -> list[str]:
    return list(dict.fromkeys(rest_words(condition) for condition in conditions(data.plan)))


def _tokens_figure(data: ReportData, measure: Measure, index: int) -> ReportFigure:
    points = points_of(data, measure.name)
    intervals = cell_intervals(data.results.get(measure.name, {}))
    centres = {}
    for condition in conditions(data.plan):
        key = (int(condition["tokens"]), rest_words(condition))
        centre = intervals.of(condition) or _plain_mean(points, key)
        if centre is not None:
            centres[key] = centre
    means = "; ".join(
        f"{format_count(tokens)}{f' {rest}' if rest else ''}: {number(c.mean)}" for (tokens, rest), c in centres.items()
    )
    versus = against(data)
    lines = ", thin lines connect the trials of one repetition" if "tokens" in versus else ""
    hollow = " Hollow dots are left out of the analysis." if any(not point.used for point in points) else ""
    return ReportFigure(
        slug=f"figure-tokens-{index}",
        group="tokens",
        title=f"{measure.label} {versus}",
        caption=f"{measure.heading} {versus}. Every dot is a trial{lines}; "
        f"the dot to their right is the mean{intervals.words}.{hollow}",
        alt=f"Dot plot of {measure.title} {versus} with {len(points)} trials. Means: {means}.",
        wide=False,
        make=lambda: plot_measure.against_tokens(measure, points, centres, _rests(data)),
    )


def against(data: ReportData) -> str:
    """Say what measures are drawn against: `against training tokens`, or the factor's name where tokens do not vary.

    Args:
        data: The sweep.

    Returns:
        A phrase.
    """
    varied = [name for name, levels in data.spec.design.factors.items() if len(levels) > 1]
    return "against training tokens" if "tokens" in varied or not varied else f"by {' and '.join(varied)}"


def _plain_mean(points: Sequence[Point], key: tuple[int, str]) -> Centre | None:
    values = [point.value for point in points if (point.tokens, point.rest) == key and point.used]
    return Centre(math.fsum(values) / len(values)) if values else None


def _order_figure(data: ReportData, measure: Measure, index: int) -> ReportFigure:
    points, rests = points_of(data, measure.name), _rests(data)
    drift = plot_measure.drift_of(points)
    slope = (
        "No line: fewer than three trials."
        if drift.per_run is None
        else f"Slope of the least-squares line: {plot_measure.signed(drift.per_run)} "
        f"{'%' if drift.relative else measure.unit} per run."
    )
    shapes = " Shapes stand for the other factors, as in the figures of the measures." if len(rests) > 1 else ""
    return ReportFigure(
        slug=f"figure-order-{index}",
        group="order",
        title=f"{measure.label} against run order",
        caption=f"{measure.heading} of each trial as deviation from the mean of its level, in the order in "
        f"which trials were started. Without drift the dots scatter about zero. {slope}{shapes}",
        alt=f"Scatter plot of the deviation of {measure.title} from its level's mean against run order, "
        f"{len(points)} trials. {slope}",
        wide=False,
        make=lambda: plot_measure.against_order(measure, points, rests),
    )


def _budget_figure(data: ReportData) -> ReportFigure:
    budgets = []
    for condition in conditions(data.plan):
        records = [record for record in data.records if record.condition == condition]
        if records:
            label = "\n".join(
                part for part in (f"{format_count(int(condition['tokens']))} tokens", rest_words(condition)) if part
            )
            budgets.append(plot_budget.budget(label, records))
    shares = "; ".join(
        f"{item.label}: training {number(item.seconds['train'], 3)} s of {number(item.total, 3)} s" for item in budgets
    )
    return ReportFigure(
        slug="figure-time",
        group="time",
        title="time budget",
        caption="Where the time of a trial goes: mean seconds per condition. Idle is deliberate (the power baselines "
        "without and with the device's context); eval is before and after training."
        + (" Build holds models trained beforehand, in the trial that needed them first." if _beforehand(data) else ""),
        alt=f"Stacked bars of the mean time of a trial per condition. {shares}.",
        wide=True,
        make=lambda: plot_budget.time_budget(budgets),
    )


def _beforehand(data: ReportData) -> bool:
    models = (trial.spec.model for trial in data.plan.blocks()[0])
    return any(model.pretrain or not isinstance(model.distill_from, str | None) for model in models)


def _power_figures(block: Sequence[plot_power.PowerTrace]) -> list[ReportFigure]:
    if not block:
        return []
    estimated = any(trace.record.energy.estimated for trace in block)
    suffix = " (estimated)" if estimated else ""
    repetition = block[0].record.repetition
    words = ", ".join(condition_words(trace.record.condition) for trace in block)
    return [
        ReportFigure(
            slug="figure-power",
            group="power",
            title="power of one block",
            caption=f"Power{suffix} over the trials of repetition {repetition}, in run order from top to bottom, with "
            f"the phases of each trial shaded. Method: {block[0].record.energy.method}.",
            alt=f"Power traces{suffix} of {len(block)} trials of repetition {repetition}: {words}.",
            wide=True,
            make=lambda: plot_power.power_traces(block, f"power in W{suffix}"),
        )
    ]


def _resample_figures(data: ReportData, block: Sequence[plot_power.PowerTrace]) -> list[ReportFigure]:
    from rayscale.resampling_view import trial_view

    views = [view for trace in block if (view := trial_view(data.ledger, trace.record)) is not None]
    points = plot_resample.period_points(views)
    if len({point.period_s for point in points}) < 2:
        return []
    suffix = " (of estimated power)" if data.energy_estimated else ""
    return [
        ReportFigure(
            slug="figure-sampling",
            group="power",
            title="reported efficiency against sampling period",
            caption=f"What the same trials would have reported{suffix} with power read this seldom, as RMS power, "
            "for every phase shift of the sampler: mean (dot), standard deviation (bar), range (line); the trials of "
            "the figure above. Periods longer than the training phase are not shown.",
            alt=f"Deviation of reported efficiency from that of the full trace. Range {plot_resample.words(points)}.",
            wide=True,
            make=lambda: plot_resample.against_period(points),
        )
    ]


def _block_with_traces(data: ReportData) -> list[plot_power.PowerTrace]:
    """Read the traces of the first block that has the most of them; other blocks' files stay closed."""
    size = len(conditions(data.plan))
    blocks: dict[int, list[Record]] = {}
    for record in data.records:
        blocks.setdefault(record.block, []).append(record)
    best: list[plot_power.PowerTrace] = []
    for records in sorted(blocks.values(), key=lambda block: -len(block)):  # stable: whole blocks first, in run order
        traces = [trace for record in records if (trace := _trace(data.ledger, record)) is not None]
        best = max(best, traces, key=len)
        if len(best) >= min(size, len(records)):
            break
    return best


def _trace(ledger: Ledger, record: Record) -> plot_power.PowerTrace | None:
    """Read one trial's power since it began; None where it has none."""
    from rayscale.energy.trace import read_trace

    try:
        trace = read_trace(ledger.fetched_attempt(record.trial_key, record.attempt))
    except InputError:
        return None
    if not record.phases or not np.isfinite(trace.power_w).any():
        return None
    origin, end = record.phases[0].start, record.phases[-1].end
    backward = trace.meta.hold == "backward"
    t, power = plot_power.clip(trace.t, trace.power_w, origin, end, backward)
    return plot_power.PowerTrace(record, t - origin, power, backward) if t.size > 1 else None
