"""Measures in figures: against tokens (dots, repetitions, mean with interval) and against run order (drift)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rayscale.report.measures import Measure
from rayscale.report.numerals import Scale, number
from rayscale.report.plotting import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    LevelColours,
    head,
    new_figure,
    tokens_axis,
    tokens_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS = 26
"""Letters of all names below an axis up to which they are written level."""
SIDE_BY_SIDE = 16
"""Characters of a label up to which two of them stand side by side above a panel."""


@dataclass(frozen=True)
class Point:
    """One trial's value of one measure.

    Attributes:
        tokens: Token level.
        rest: The other factors' levels in words, empty if tokens are the only factor.
        repetition: Index of the repetition.
        value: The measure.
        rank: Position by start time, from 1.
        used: False when the analysis leaves the trial out.
    """

    tokens: int
    rest: str
    repetition: int
    value: float
    rank: int
    used: bool


@dataclass(frozen=True)
class Centre:
    """Mean of one condition with its interval.

    Attributes:
        mean: The mean.
        low: Lower end, None when there is no interval.
        high: Upper end, None when there is no interval.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Centre:
        """Return it in another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Centre(self.mean * factor, low, high)


@dataclass(frozen=True)
class Places:
    """Where conditions stand on the x axis: tokens on a log2 scale, the other factors side by side.

    Attributes:
        levels: Token counts, ascending.
        rests: Words for the other factors' levels, in design order.
        repetitions: Indices of the repetitions, ascending.
    """

    levels: tuple[int, ...]
    rests: tuple[str, ...]
    repetitions: tuple[int, ...]

    @property
    def gap(self) -> float:
        """Smallest distance of two token levels. Units: log2 tokens."""
        steps = [math.log2(high / low) for low, high in zip(self.levels, self.levels[1:], strict=False)]
        return min(steps, default=1.0)

    def centre(self, tokens: int, rest: str) -> float:
        """Place of a condition's mean."""
        shift = self.rests.index(rest) - (len(self.rests) - 1) / 2
        return math.log2(tokens) + 0.7 * self.gap * shift / len(self.rests)

    def dot(self, point: Point) -> float:
        """Place of a trial's dot: repetitions spread evenly about the mean, in the same order at every level."""
        count = len(self.repetitions)
        share = self.repetitions.index(point.repetition) / (count - 1) - 0.5 if count > 1 else 0.0
        return self.centre(point.tokens, point.rest) + 0.3 * self.gap * share / len(self.rests)


def places_of(points: Sequence[Point], rests: Sequence[str]) -> Places:
    """Lay out the x axis.

    Args:
        points: The trials.
        rests: Words for the other factors' levels, in design order.

    Returns:
        The places of the levels, conditions and repetitions that occur.
    """
    present = {point.rest for point in points}
    return Places(
        tuple(sorted({point.tokens for point in points})),
        tuple(rest for rest in rests if rest in present),
        tuple(sorted({point.repetition for point in points})),
    )


def against_tokens(
    measure: Measure, points: Sequence[Point], centres: Mapping[tuple[int, str], Centre], rests: Sequence[str]
) -> Figure:
    """Draw a measure against tokens.

    Args:
        measure: What is on the y axis.
        points: The trials; those the analysis leaves out are drawn hollow.
        centres: Mean and interval by (tokens, other levels).
        rests: Words for the other factors' levels, in design order.

    Returns:
        Every trial as a dot, the trials of a repetition connected, the means with their intervals in ink.
    """
    scale = Scale.fitting([point.value for point in points], smallest=-1)  # labels stand between the dots
    points = [replace(point, value=point.value / 10.0**scale.power) for point in points]
    centres = {key: centre.scaled(10.0**-scale.power) for key, centre in centres.items()}
    places = places_of(points, rests)
    colours = LevelColours(places.levels)
    figure = new_figure()
    axes = figure.add_subplot()
    for rest in places.rests:
        for repetition in places.repetitions:
            path = sorted((p for p in points if p.rest == rest and p.repetition == repetition), key=lambda p: p.tokens)
            axes.plot(
                [places.dot(p) for p in path],
                [p.value for p in path],
                color=MUTED,
                linewidth=0.6,
                alpha=0.35 if len(places.repetitions) <= 20 else 0.15,
            )
    _dots(axes, points, [(places.dot(point), point.value) for point in points], colours, places.rests)
    _means(axes, centres, places)
    values = [point.value for point in points]
    if min(values) > 0 and max(values) / min(values) > 30:
        axes.set_yscale("log")
    head(axes, measure.heading, scale.unit(measure.unit))
    if is_by_condition(places.levels, places.rests):
        _condition_axis(axes, places)
        return figure
    tokens_axis(axes, places.levels, [math.log2(level) for level in places.levels], places.gap)
    if len(places.rests) > 1:
        _rest_legend(figure, places.rests)
    return figure


def is_by_condition(levels: Sequence[int], rests: Sequence[str]) -> bool:
    """Whether tokens do not vary and other factors do: then these stand on the x axis, by name."""
    return len(levels) == 1 and len(rests) > 1


def _condition_axis(axes: Axes, places: Places) -> None:
    """Name the other factors' levels where they stand; a factor's name that all of them share is the axis label."""
    names = {rest.split(" ", 1)[0] for rest in places.rests}
    alone = len(names) == 1 and not any("," in rest for rest in places.rests)
    words = [rest.split(" ", 1)[-1] if alone else rest for rest in places.rests]
    turned = sum(len(word) for word in words) > MOST_LETTERS
    spots = [places.centre(places.levels[0], rest) for rest in places.rests]
    axes.set_xticks(spots, words, rotation=35 if turned else 0, ha="right" if turned else "center")
    room = spots[1] - spots[0]
    axes.set_xlim(spots[0] - 0.6 * room, spots[-1] + 0.7 * room)
    axes.set_xlabel(names.pop() if alone else "")


def _dots(
    axes: Axes,
    points: Sequence[Point],
    places: Sequence[tuple[float, float]],
    colours: LevelColours,
    rests: Sequence[str],
) -> None:
    """Draw trials at their places: colour by tokens, marker by the other factors, hollow when left out."""
    groups: dict[tuple[int, str, bool], list[tuple[float, float]]] = {}
    for point, place in zip(points, places, strict=True):
        groups.setdefault((point.tokens, point.rest, point.used), []).append(place)
    for (tokens, rest, used), group in groups.items():
        axes.plot(
            *zip(*group, strict=True),
            linestyle="",
            marker=MARKERS[list(rests).index(rest) % len(MARKERS)],
            markersize=4.2 if len(points) <= 60 else 3.0,
            color=colours[tokens] if used else "none",
            markeredgecolor=colours[tokens],
            markeredgewidth=0.8,
            alpha=0.75,
        )


def _means(axes: Axes, centres: Mapping[tuple[int, str], Centre], places: Places) -> None:
    """Draw means beside their dots, so that a narrow interval stays visible; one label each."""
    shift = 0.2 * places.gap / len(places.rests)
    for (tokens, rest), centre in centres.items():
        if tokens not in places.levels or rest not in places.rests:
            continue
        x = places.centre(tokens, rest) + shift
        if centre.low is not None and centre.high is not None:
            ends = [[centre.mean - centre.low], [centre.high - centre.mean]]
            axes.errorbar([x], [centre.mean], yerr=ends, color=INK, elinewidth=1.3, capsize=3, capthick=1.3)
        axes.plot([x], [centre.mean], "o", color=INK, markersize=5.2, markeredgecolor=PAPER, markeredgewidth=0.9)
        if len(places.rests) == 1 and len(places.levels) <= 6:
            axes.annotate(number(centre.mean), (x, centre.mean), (6, 0), textcoords="offset points", va="center")


def _rest_legend(figure: Figure, rests: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker=MARKERS[index % len(MARKERS)], linestyle="", markersize=5, color=MUTED, label=rest)
        for index, rest in enumerate(rests)
    ]
    longest = max(len(rest) for rest in rests)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2 if longest <= SIDE_BY_SIDE else 1, handletextpad=0.1
    )


@dataclass(frozen=True)
class Drift:
    """How a measure moved over the sweep.

    Attributes:
        ranks: Position by start time.
        deviations: Deviation from the condition's mean, in percent of it if `relative`, else in the measure's unit.
        relative: Whether deviations are percentages.
        per_run: Least-squares slope per run, None with fewer than 3 trials.
        intercept: The line's value at rank 0, None with the slope.
    """

    ranks: list[int]
    deviations: list[float]
    relative: bool
    per_run: float | None
    intercept: float | None


def drift_of(points: Sequence[Point]) -> Drift:
    """Take the conditions' means out, so that what is left shows drift.

    Args:
        points: The trials.

    Returns:
        Deviations by rank and their least-squares line: a description, not a test.
    """
    groups: dict[tuple[int, str], list[float]] = {}
    for point in points:
        groups.setdefault((point.tokens, point.rest), []).append(point.value)
    means = {key: math.fsum(values) / len(values) for key, values in groups.items()}
    relative = all(mean > 0 for mean in means.values())
    scale = {key: 100 / mean if relative else 1.0 for key, mean in means.items()}
    ranks = [point.rank for point in points]
    keys = [(point.tokens, point.rest) for point in points]
    deviations = [(p.value - means[key]) * scale[key] for p, key in zip(points, keys, strict=True)]
    slope, intercept = _line(ranks, deviations)
    return Drift(ranks, deviations, relative, slope, intercept)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float | None, float | None]:
    if len(set(x)) < 3:
        return None, None
    centre_x, centre_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    spread = math.fsum((value - centre_x) ** 2 for value in x)
    slope = math.fsum((a - centre_x) * (b - centre_y) for a, b in zip(x, y, strict=True)) / spread
    return slope, centre_y - slope * centre_x


def against_order(measure: Measure, points: Sequence[Point], rests: Sequence[str]) -> Figure:
    """Draw a measure's deviation from its condition's mean against run order, coloured by tokens.

    Args:
        measure: The measure.
        points: The trials.
        rests: Words for the other factors' levels, in design order.

    Returns:
        The figure; a slope of the dashed line is drift.
    """
    drift, colours = drift_of(points), LevelColours(tuple(sorted({point.tokens for point in points})))
    figure = new_figure()
    axes = figure.add_subplot()
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _dots(axes, points, list(zip(drift.ranks, drift.deviations, strict=True)), colours, rests)
    unit = "%" if drift.relative else measure.unit
    if drift.per_run is not None and drift.intercept is not None:
        ends = [min(drift.ranks), max(drift.ranks)]
        axes.plot(ends, [drift.intercept + drift.per_run * end for end in ends], "--", color=INK, linewidth=1)
        slope = f"{signed(drift.per_run)} {unit}".rstrip() + " per run"
        axes.text(0.99, 0.98, slope, transform=axes.transAxes, ha="right", va="top", size=8.5, color=MUTED)
    axes.margins(y=0.14)
    axes.set_xlabel("run order (rank by start time)")
    head(axes, measure.heading, f"deviation from the level's mean{f', {unit}' if unit else ''}")
    if is_by_condition(colours.levels, rests):
        _rest_legend(figure, rests)
    else:
        tokens_legend(figure, colours)
    return figure


def signed(value: float) -> str:
    """Write a number with its sign and two significant digits."""
    return f"{'+' if value > 0 else ''}{number(value, 2)}"
