"""Power traces of one block: one strip per trial, phases shaded and named, time since the trial began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rayscale.quantities import format_count
from rayscale.record import PhaseName, Record
from rayscale.report.numerals import number
from rayscale.report.plotting import INK, MUTED, PHASES, WIDE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASE_WORDS: dict[PhaseName, str] = {
    "idle": "idle",
    "load": "load",
    "context_idle": "idle with context",
    "warmup": "warm-up",
    "train": "train",
    "eval": "eval",
    "eval_quantized": "eval",
}
MAX_POINTS = 1200
"""More points per trace than this cannot be told apart on the page."""


@dataclass(frozen=True)
class PowerTrace:
    """One trial's power.

    Attributes:
        record: The trial.
        t: Seconds since the trial began.
        power_w: Power; NaN where a reading is missing. Units: W.
        backward: True when a sample describes the time before it instead of after it.
    """

    record: Record
    t: NDArray[np.float64]
    power_w: NDArray[np.float64]
    backward: bool


def thin(
    t: NDArray[np.float64], power: NDArray[np.float64], points: int = MAX_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thin out a trace, keeping the lowest and highest reading of each stretch, so that no peak is lost.

    Args:
        t: Times, ascending.
        power: Readings of the same length.
        points: Most points to keep.

    Returns:
        The thinned times and readings, in order.
    """
    if t.size <= points:
        return t, power
    keep: list[int] = []
    for stretch in np.array_split(np.arange(t.size), points // 2):
        values = power[stretch]
        if np.isnan(values).all():
            keep.append(int(stretch[0]))
            continue
        keep.extend(sorted({int(stretch[np.nanargmin(values)]), int(stretch[np.nanargmax(values)])}))
    return t[keep], power[keep]


def clip(
    t: NDArray[np.float64], power: NDArray[np.float64], start: float, end: float, backward: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cut a trace to a window, so that what is drawn fills it and nothing beyond shows.

    Args:
        t: Times, ascending.
        power: Readings of the same length.
        start: Start of the window, on the clock of `t`.
        end: End of the window.
        backward: True when a sample describes the time before it instead of after it.

    Returns:
        Times from `start` to `end` and the readings that hold there; empty if no sample speaks of the window.
    """
    first = int(np.searchsorted(t, start, side="right")) - (0 if backward else 1)
    last = int(np.searchsorted(t, end, side="left")) + (1 if backward else 0)
    cut, values = np.clip(t[max(first, 0) : last], start, end), power[max(first, 0) : last]
    if not cut.size:
        return cut, values
    if backward:
        return np.insert(cut, 0, start), np.insert(values, 0, values[0])
    return np.append(cut, end), np.append(values, values[-1])


def power_traces(traces: Sequence[PowerTrace], label: str) -> Figure:
    """Draw the traces of one block.

    Args:
        traces: In run order.
        label: Axis label with unit.

    Returns:
        One strip per trial on common axes.
    """
    figure = new_figure(WIDE, 0.9 + max(0.8, min(1.35, 10 / len(traces))) * len(traces))
    strips = figure.subplots(len(traces), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    longest = max(max(phase.end for phase in _shifted(trace.record)) for trace in traces)
    top = max(float(np.nanmax(trace.power_w)) for trace in traces)
    for axes, trace in zip(strips, traces, strict=True):
        _strip(axes, trace, longest)
        axes.set_ylim(0, 1.32 * top)
    strips[-1].set_xlim(0, longest)
    strips[-1].set_xlabel("time since the trial began in s")
    figure.supylabel(label, fontsize=9)
    _phase_legend(figure, traces)
    return figure


@dataclass(frozen=True)
class _Window:
    name: PhaseName
    start: float
    end: float


def _shifted(record: Record) -> list[_Window]:
    """Return the phases in seconds since the trial began."""
    origin = min((phase.start for phase in record.phases), default=0.0)
    return [_Window(phase.name, phase.start - origin, phase.end - origin) for phase in record.phases]


def _strip(axes: Axes, trace: PowerTrace, longest: float) -> None:
    windows = _shifted(trace.record)
    for window in windows:
        axes.axvspan(window.start, window.end, color=PHASES[PHASE_WORDS[window.name]], alpha=0.45, linewidth=0)
        words = PHASE_WORDS[window.name].removesuffix(" with context")
        if (window.end - window.start) / longest > 0.012 * (len(words) + 1):
            middle = (window.start + window.end) / 2
            # blended coordinates: x in seconds, y in shares of the strip
            axes.text(middle, 0.9, words, transform=axes.get_xaxis_transform(), ha="center", va="center", size=8)
    t, power = thin(trace.t, trace.power_w)
    axes.plot(t, power, color=INK, linewidth=0.9, drawstyle="steps-pre" if trace.backward else "steps-post")
    axes.set_title(_strip_title(trace.record), fontsize=8.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", colors=MUTED)
    axes.locator_params(axis="y", nbins=4)


def _strip_title(record: Record) -> str:
    rest = [f"{name} {level}" for name, level in record.condition.items() if name != "tokens"]
    tokens = f"{format_count(int(record.condition['tokens']))} tokens"
    train = record.energy.phases.get("train")
    words = [", ".join([tokens, *rest]), f"run {record.run_order + 1}"]
    if train is not None and train.mean_w is not None and math.isfinite(train.mean_w):
        words.append(f"mean {number(train.mean_w, 3)} W in training")
    return "  ·  ".join(words)


def _phase_legend(figure: Figure, traces: Sequence[PowerTrace]) -> None:
    from matplotlib.patches import Patch

    names = dict.fromkeys(PHASE_WORDS[phase.name] for trace in traces for phase in trace.record.phases)
    patches = [Patch(color=PHASES[name], alpha=0.6, linewidth=0, label=name) for name in names]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(patches), handlelength=1.1, columnspacing=1.2)
