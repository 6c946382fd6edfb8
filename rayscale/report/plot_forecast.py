"""The figure of the relative-loss forecast: R(t) on a logarithmic scale for a family of efficiency growth rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rayscale.analysis.forecast import forecast
from rayscale.errors import InputError
from rayscale.report.plotting import LEVELS, MUTED, WIDE, head, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200


def forecast_figure(
    kappa: float, gammas: Sequence[float], years: float, target: float | None, kappa_ci: Sequence[float] | None = None
) -> Figure:
    """Draw a family of forecasts.

    Args:
        kappa: Exponent of the loss in compute.
        gammas: Efficiency doublings per year, one curve each.
        years: Up to this date. Units: yr.
        target: Wanted relative loss, as a line; None draws none.
        kappa_ci: Interval of kappa, as a band around each curve.

    Returns:
        The figure.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(0.7 * WIDE, 4.0)
    axes = figure.add_subplot()
    times = np.linspace(0, years, POINTS)
    for index, gamma in enumerate(sorted(gammas)):
        colour = LEVELS[index % len(LEVELS)]
        line = "-" if index < len(LEVELS) else "--"
        axes.plot(times, _curve(kappa, gamma, times), color=colour, linestyle=line, label=f"γ = {gamma:g}")
        if kappa_ci is not None:
            low, high = (_curve(end, gamma, times) for end in kappa_ci)
            axes.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
    if target is not None:
        axes.axhline(target, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0, years)
    axes.set_xlabel("years")
    axes.legend(title="doublings per year", loc="lower left")
    head(axes, f"Relative loss R(t), κ = {kappa:.3g}", "of a fleet with a fixed yearly energy")
    return figure


def _curve(kappa: float, gamma: float, times: np.ndarray) -> list[float]:
    return [forecast(kappa, gamma, float(t)).relative_loss for t in times]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure.

    Args:
        figure: The figure, made within `plotting.style`.
        path: Ends with .png or .svg.

    Returns:
        The path.

    Raises:
        InputError: If it ends otherwise, or its directory does not exist.
    """
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise InputError(f"--figure {path}: expected a file that ends with .png or .svg")
    if not path.parent.is_dir():
        raise InputError(f"--figure {path}: no such directory")
    metadata = {"Software": None} if kind == ".png" else {"Date": None, "Creator": None}
    with style():
        figure.savefig(path, format=kind[1:], dpi=160, facecolor="white", metadata=metadata)
    return path
