"""The figure of a fitted scaling law: held-out loss of every trial against tokens, and a curve per model size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rayscale.quantities import format_count
from rayscale.report.plotting import WIDE, LevelColours, head, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 100
MARGIN = 1.5
"""Curves go on beyond the trials by this factor."""


def scaling_figure(
    fit: Mapping[str, Any], params: Sequence[int], tokens: Sequence[float], loss: Sequence[float]
) -> Figure:
    """Draw trials and law.

    Args:
        fit: The document of `analysis.fitted.fit_frame`.
        params: N of each trial.
        tokens: D of each trial.
        loss: Held-out loss of each trial. Units: nats per token.

    Returns:
        The figure.
    """
    figure = new_figure(0.7 * WIDE, 3.6)
    axes = figure.add_subplot()
    sizes, budgets, losses = np.asarray(params), np.asarray(tokens, dtype=float), np.asarray(loss, dtype=float)
    colours = LevelColours(tuple(int(size) for size in np.unique(sizes)))
    grid = np.geomspace(budgets.min() / MARGIN, budgets.max() * MARGIN, POINTS)
    for size in colours.levels:
        own = sizes == size
        label = f"{format_count(size)} parameters"
        axes.plot(budgets[own], losses[own], "o", markersize=4.5, color=colours[size], alpha=0.75, label=label)
        axes.plot(grid, law_of(fit, float(size), grid), color=colours[size], linewidth=1.1)
    axes.set_xscale("log")
    levels = np.unique(budgets)
    axes.set_xticks(levels, [format_count(round(level)) for level in levels])
    axes.minorticks_off()
    axes.set_xlabel("training tokens (log scale)")
    axes.legend(loc="upper right")
    head(axes, "Held-out loss and fitted law", "nats per token")
    return figure


def law_of(fit: Mapping[str, Any], params: float, tokens: np.ndarray) -> np.ndarray:
    """Evaluate a fitted law.

    Args:
        fit: The document.
        params: N.
        tokens: D. Shape (n,).

    Returns:
        Losses; a term that was not fitted is part of the floor. Shape (n,).
    """
    found = np.full(tokens.shape, float(fit["E"]))
    if fit["alpha"] is not None:
        found += fit["A"] / params ** fit["alpha"]
    if fit["beta"] is not None:
        found += fit["B"] / tokens ** fit["beta"]
    return found
