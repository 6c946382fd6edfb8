"""The look of all figures: palette, type sizes, axes without junk. Object API only; no pyplot, no global state.

Colours are Okabe & Ito's (colour-blind safe), one per token level in every figure. They are drawn as plain hex values;
`svg` turns them into CSS variables, so that the page can recolour them in dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.quantities import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1b1f24", "#667085", "#dfe3e8", "#fffffe"
LEVELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b4db1")
"""One colour per token level, in ascending order."""
PHASES = {
    "import": "#b8a9d9",
    "build": "#d8b4c8",
    "data": "#f0c987",
    "load": "#c9bfe0",
    "compile": "#c79f6b",
    "warm-up": "#f2b5a7",
    "train": "#5aa98c",
    "eval": "#86b6dd",
    "idle": "#d5d9df",
    "idle with context": "#bcc3cc",
}
"""One colour per phase or part of a trial's time."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

PANEL = (3.5, 3.1)
"""Size of a figure that shares its line with others. Units: inch."""
MAX_TITLE = 34
"""Characters that fit above a panel."""
WIDE = 9.4
"""Width of a figure that has the line to itself. Units: inch."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # names come from the sweep file: a `$` in one is no formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's own font
    "svg.hashsalt": "rayscale",  # the same data gives the same bytes
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look to every figure made and saved inside; nothing outside changes."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float = PANEL[0], height: float = PANEL[1]) -> Figure:
    """Make an empty figure.

    Args:
        width: Units: inch.
        height: Units: inch.

    Returns:
        A figure with constrained layout and no canvas of a window system.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@dataclass(frozen=True)
class LevelColours:
    """Colour of each token level.

    Attributes:
        levels: Token counts, ascending.
    """

    levels: tuple[int, ...]

    def __getitem__(self, tokens: int) -> str:
        """Return a level's colour; beyond seven levels a perceptually ordered scale takes over."""
        index = self.levels.index(tokens)
        if len(self.levels) <= len(LEVELS):
            return LEVELS[index]
        import matplotlib as mpl
        from matplotlib.colors import to_hex

        return str(to_hex(mpl.colormaps["viridis"](0.9 * index / (len(self.levels) - 1))))


def tokens_axis(axes: Axes, levels: Sequence[int], positions: Sequence[float], gap: float) -> None:
    """Label the x axis with the token levels at their places on a log2 scale.

    Args:
        axes: Where.
        levels: Token counts.
        positions: Their places.
        gap: Smallest distance of two places.
    """
    axes.set_xticks(list(positions), [format_count(level) for level in levels])
    axes.set_xlim(min(positions) - 0.5 * gap, max(positions) + 0.62 * gap)
    axes.set_xlabel("training tokens (log₂ scale)")


def shorten(title: str) -> str:
    """Cut a title to what fits above a panel; a closing ` (estimated)` always stays.

    Args:
        title: The title.

    Returns:
        At most `MAX_TITLE` characters.
    """
    mark = " (estimated)" if title.endswith(" (estimated)") else ""
    room = MAX_TITLE - len(mark)
    words = title.removesuffix(mark)
    return (words if len(words) <= room else f"{words[: room - 1]}…") + mark


def head(axes: Axes, title: str, subtitle: str) -> None:
    """Name what the y axis shows above it, where it is read without turning the head.

    Args:
        axes: Where.
        title: The measure; cut when it is too long for a panel.
        subtitle: Its unit, or what is done with it.
    """
    axes.set_title(shorten(title), pad=17 if subtitle else 6)
    axes.annotate(subtitle, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=8.5)


def tokens_legend(figure: Figure, colours: LevelColours) -> None:
    """Name the colours of the token levels above the axes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=colours[level], label=format_count(level))
        for level in colours.levels
    ]
    handles[-1].set_label(f"{format_count(colours.levels[-1])} tokens")
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(len(handles), 4),
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0,
    )
