"""Where the time of a trial goes, per condition: import, build, data, compile, warm-up, train, eval, idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayscale.quantities import format_duration
from rayscale.record import Record
from rayscale.report.plotting import INK, PHASES, WIDE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("import", "build", "data", "compile", "warm-up", "train", "eval", "idle")
"""Parts of a trial's time, in the order of the stack."""


@dataclass(frozen=True)
class Budget:
    """Mean seconds of each part of the trials of one condition.

    Attributes:
        label: The condition in words.
        seconds: Part -> mean seconds.
    """

    label: str
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Sum of the parts. Units: s."""
        return sum(self.seconds.values())


def part_seconds(record: Record) -> dict[str, float]:
    """Split one trial's time.

    Args:
        record: The trial.

    Returns:
        Part -> seconds; both idle baselines are `idle`, both evaluations `eval`.
    """
    training = record.training
    return {
        "import": training.import_s,
        "build": training.build_s,
        "data": training.data_s,
        "compile": training.compile_s,
        "warm-up": training.warmup_s,
        "train": record.phase_seconds("train"),
        "eval": record.phase_seconds("eval") + record.phase_seconds("eval_quantized"),
        "idle": record.phase_seconds("idle") + record.phase_seconds("context_idle"),
    }


def budget(label: str, records: Sequence[Record]) -> Budget:
    """Average the trials of one condition.

    Args:
        label: The condition in words.
        records: Its trials, at least one.

    Returns:
        The mean of each part.
    """
    split = [part_seconds(record) for record in records]
    return Budget(label, {part: sum(parts[part] for parts in split) / len(split) for part in PARTS})


def time_budget(budgets: Sequence[Budget]) -> Figure:
    """Draw stacked bars, one per condition.

    Args:
        budgets: From the smallest condition to the largest.

    Returns:
        The figure; parts wide enough carry their seconds, every bar its total.
    """
    figure = new_figure(WIDE, 1.15 + 0.42 * len(budgets))
    axes = figure.add_subplot()
    longest = max(item.total for item in budgets) or 1.0
    for row, item in enumerate(budgets):
        left = 0.0
        for part in PARTS:
            width = item.seconds[part]
            axes.barh(row, width, left=left, height=0.62, color=PHASES[part], linewidth=0)
            if width / longest > 0.055:
                # dark text on the bars in both themes: the bars keep their colours
                axes.text(
                    left + width / 2, row, format_duration(width), ha="center", va="center", size=8, color="#101317"
                )
            left += width
        axes.text(left + 0.008 * longest, row, format_duration(item.total), va="center", size=8.5, color=INK)
    axes.set_yticks(range(len(budgets)), [item.label for item in budgets])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.09 * longest)
    axes.set_xlabel("mean time of a trial in s")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    _legend(figure, [part for part in PARTS if any(item.seconds[part] > 0 for item in budgets)])
    return figure


def _legend(figure: Figure, parts: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=PHASES[part], linewidth=0, label=part) for part in parts]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(patches), handlelength=1.1, columnspacing=1.2)
