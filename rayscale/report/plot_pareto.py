"""Mean loss of each condition against what it took, with intervals of both, and the front through the undominated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayscale.quantities import format_count
from rayscale.report.plotting import INK, LEVELS, MUTED, PAPER, head, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 12
"""With more conditions only those on the front are named."""


def pareto_figure(title: str, x_label: str, points: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw a front.

    Args:
        title: The measure.
        x_label: Resource and unit.
        points: Condition -> point of the analysis tree.

    Returns:
        The figure.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    front = [(point["resource"], point["loss"]) for point in points.values() if point["on_front"]]
    axes.plot(*zip(*sorted(front), strict=True), color=MUTED, linewidth=1.0, drawstyle="steps-post", zorder=1)
    for label, point in points.items():
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
        if point["on_front"] or len(points) <= LABELLED:
            place = (point["resource"], point["loss"])
            axes.annotate(_short(label), place, (5, 5), textcoords="offset points", size=8, color=INK)
    axes.margins(x=0.16, y=0.16)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(x_label)
    head(axes, title, "nats per token")
    return figure


def _arms(value: float, interval: list[float]) -> list[list[float]]:
    return [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _short(label: str) -> str:
    """Write a token count as people read it; other labels as they are."""
    return format_count(int(label)) if label.isdigit() else label[:24]
