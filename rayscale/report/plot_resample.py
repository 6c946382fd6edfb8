"""Reported efficiency against sampling period: what the same trials would have reported, had power been read seldom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rayscale.analysis.sampling_period import Spread, spread
from rayscale.quantities import format_count, format_duration
from rayscale.report.plotting import INK, MUTED, WIDE, LevelColours, head, new_figure, tokens_legend
from rayscale.resampling_view import TrialView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERIODS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Sampling periods that are shown, in s; 60 s is the seed study's."""
SEED_PERIOD_S = 60.0
_WIDTH = 0.035
"""Distance between the levels' whiskers. Units: log10 s."""


@dataclass(frozen=True)
class PeriodPoint:
    """What one token level would have reported with one period, as a share of what was measured.

    Attributes:
        tokens: Token level.
        period_s: Sampling period, in s.
        share: Spread over the phase shifts of single trials, averaged over the trials.
        empty: Share of shifts without any sample.
    """

    tokens: int
    period_s: float
    share: Spread
    empty: float


def period_points(views: Sequence[TrialView]) -> list[PeriodPoint]:
    """Resample the trials of a sweep with every period that fits into them.

    Args:
        views: The trials' stored power.

    Returns:
        One point per token level and period, from twice the stored period to the length of the phase.
    """
    members: dict[int, list[TrialView]] = {}
    for view in views:
        tokens = int(view.record.condition["tokens"])
        if view.rms_w:
            members.setdefault(tokens, []).append(view)
    return [
        point
        for tokens in sorted(members)
        for period in PERIODS_S
        if (point := _point(tokens, members[tokens], period)) is not None
    ]


def _point(tokens: int, views: Sequence[TrialView], period_s: float) -> PeriodPoint | None:
    fitting = [
        view
        for view in views
        if len(view.starts) > 1
        and 2 * float(np.median(np.diff(view.starts))) <= period_s * (1 + 1e-6)
        and period_s <= view.window[1] - view.window[0]
    ]
    seen = [(view, view.seen(period_s)) for view in fitting]
    spreads = [found for view, one in seen if (found := spread(one.pee(1.0, view.rms_w or math.nan))) is not None]
    if not spreads:
        return None
    parts = (_mean(one.mean for one in spreads), _mean(one.sd for one in spreads))
    ends = (_mean(one.low for one in spreads), _mean(one.high for one in spreads))
    return PeriodPoint(tokens, period_s, Spread(*parts, *ends), _mean(one.empty_share for _, one in seen))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def against_period(points: Sequence[PeriodPoint]) -> Figure:
    """Draw reported efficiency against sampling period.

    Args:
        points: From `period_points`, at least one.

    Returns:
        Per token level and period the mean (dot), one standard deviation (bar) and the range (line) over phase shifts.
    """
    levels = tuple(sorted({point.tokens for point in points}))
    colours = LevelColours(levels)
    figure = new_figure(WIDE, 3.2)
    axes = figure.add_subplot()
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    for point in points:
        shift = (levels.index(point.tokens) - (len(levels) - 1) / 2) * _WIDTH
        _whisker(axes, 10 ** (math.log10(point.period_s) + shift), point.share, colours[point.tokens])
    axes.set_xscale("log")
    periods = sorted({point.period_s for point in points})
    axes.set_xticks(periods, [_period(period) for period in periods])
    axes.set_xticks([], minor=True)
    axes.set_xlim(periods[0] / 1.35, periods[-1] * 1.35)
    axes.set_xlabel("time between power samples (log scale)")
    head(axes, "reported efficiency", "deviation from the one of the full trace in %, over all phase shifts")
    if SEED_PERIOD_S in periods:
        axes.axvline(SEED_PERIOD_S, color=MUTED, linewidth=0.6, linestyle=":", zorder=0)
        axes.annotate(
            "seed study", (SEED_PERIOD_S, 1), (4, -9), xycoords=("data", "axes fraction"), textcoords="offset points",
            size=8, color=INK,
        )  # fmt: skip
    tokens_legend(figure, colours)
    return figure


def _whisker(axes: Axes, x: float, share: Spread, colour: str) -> None:
    mean, low, high = (100 * (value - 1) for value in (share.mean, share.low, share.high))
    axes.vlines(x, low, high, color=colour, linewidth=1.0)
    axes.vlines(x, mean - 100 * share.sd, mean + 100 * share.sd, color=colour, linewidth=4.0, alpha=0.55)
    axes.plot([x], [mean], marker="o", markersize=3.6, color=colour, linestyle="")


def _period(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else format_duration(seconds).replace(" 00 s", "")


def words(points: Sequence[PeriodPoint]) -> str:
    """Say the spread at each level's longest period.

    Args:
        points: The points.

    Returns:
        One part per level.
    """
    longest = {point.tokens: point for point in points}  # ascending periods: the last one stays
    return "; ".join(
        f"{format_count(tokens)} at {_period(point.period_s)}: {100 * (point.share.low - 1):+.1f} to "
        f"{100 * (point.share.high - 1):+.1f} %"
        for tokens, point in longest.items()
    )
