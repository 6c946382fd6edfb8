"""Mean loss of each condition against what it took, with intervals of both, and the front through the undominated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayscale.report.plotting import INK, LEVELS, MUTED, PAPER, head, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLED = 12
"""With more conditions only those on the front are named."""
LOG_FROM = 8.0
"""From this ratio of the largest to the smallest resource on the axis is logarithmic."""
LETTERS = 28
"""Longest name of a point."""
LETTER_SIZE = 0.021, 0.052
"""Width and height of a letter as shares of the axes: what a name needs to stand free of others."""


def pareto_figure(title: str, x_label: str, points: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw a front.

    Args:
        title: The measure.
        x_label: Resource and unit.
        points: Condition -> point of the analysis tree.

    Returns:
        The figure.
    """
    from matplotlib.ticker import NullFormatter

    figure = new_figure()
    axes = figure.add_subplot()
    front = [(point["resource"], point["loss"]) for point in points.values() if point["on_front"]]
    axes.plot(*zip(*sorted(front), strict=True), color=MUTED, linewidth=1.0, drawstyle="steps-post", zorder=1)
    for point in points.values():
        face = LEVELS[0] if point["on_front"] else PAPER
        axes.errorbar(
            point["resource"],
            point["loss"],
            xerr=_arms(point["resource"], point["resource_ci"]),
            yerr=_arms(point["loss"], point["loss_ci"]),
            fmt="o",
            markersize=5,
            color=LEVELS[0],
            markerfacecolor=face,
            elinewidth=0.9,
        )
    resources = [point["resource"] for point in points.values()]
    if min(resources) > 0 and max(resources) / min(resources) > LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(resources) / 2.5, max(resources) * 4)  # an interval that reaches 0 has no end on this scale
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.margins(x=0.16, y=0.16)
    shown = {label: point for label, point in points.items() if point["on_front"] or len(points) <= LABELLED}
    _name_points(axes, shown)
    axes.set_xlabel(x_label)
    head(axes, title, "nats per token")
    return figure


def _arms(value: float, interval: list[float]) -> list[list[float]]:
    return [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _name_points(axes: Axes, points: Mapping[str, Mapping[str, Any]]) -> None:
    """Name the points, those on the front first; a name that would cover another one is left to the table."""
    taken: list[tuple[float, float, float]] = []
    for label, point in sorted(points.items(), key=lambda item: not item[1]["on_front"]):
        place, word = (point["resource"], point["loss"]), label[:LETTERS]
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(place))
        width, height = LETTER_SIZE[0] * len(word), LETTER_SIZE[1]
        if x + 0.4 * width > 1:
            x -= width
        if any(abs(y - other) < height and x < end and start < x + width for start, end, other in taken):
            continue
        taken.append((x, x + width, y))
        left = x < axes.transAxes.inverted().transform(axes.transData.transform(place))[0]
        axes.annotate(
            word,
            place,
            (-5 if left else 5, 5),
            textcoords="offset points",
            ha="right" if left else "left",
            size=8,
            color=INK,
        )
