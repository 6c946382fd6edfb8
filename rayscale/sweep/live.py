"""Live views of a running sweep on stderr: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rayscale.quantities import format_count, format_duration
from rayscale.sweep.events import AttemptEnd
from rayscale.sweep.progress import Progress

REFRESH_S = 1.0


class View(Protocol):
    """A listener that shows what it hears."""

    def started(self, trial_key: str, device: str) -> None:
        """An attempt starts."""

    def ended(self, end: AttemptEnd) -> None:
        """An attempt ended."""

    def say(self, message: str) -> None:
        """Show one line."""

    def close(self) -> None:
        """Stop showing."""


def open_view(progress: Progress, console: Console) -> View:
    """Choose the view that fits where stderr goes.

    Args:
        progress: State to show and to keep up to date.
        console: Console on stderr.

    Returns:
        A table on a terminal, else plain lines.
    """
    return TableView(progress, console) if console.is_terminal else LineView(progress, console)


class LineView:
    """One line per ended attempt."""

    def __init__(self, progress: Progress, console: Console) -> None:
        """Show `progress` on `console`."""
        self._progress, self._console = progress, console

    def started(self, trial_key: str, device: str) -> None:
        """Take note."""
        self._progress.started_attempt(trial_key, device)

    def ended(self, end: AttemptEnd) -> None:
        """Say how the attempt ended."""
        self._progress.ended_attempt(end)
        self.say(describe_end(self._progress, end))

    def say(self, message: str) -> None:
        """Show one line."""
        self._console.print(Text(message), soft_wrap=True)

    def close(self) -> None:
        """Nothing to stop."""


class TableView(LineView):
    """A table of what runs now, below the lines of what ended."""

    def __init__(self, progress: Progress, console: Console) -> None:
        """Start refreshing `console`."""
        super().__init__(progress, console)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="live-view", daemon=True)
        self._thread.start()

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._progress.refresh()
            self._live.update(render(self._progress), refresh=True)

    def close(self) -> None:
        """Take the table away; the lines stay."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._live.stop()


def describe_end(progress: Progress, end: AttemptEnd) -> str:
    """Write an attempt's end as one line.

    Args:
        progress: The state after it.
        end: The end.

    Returns:
        E.g. `[ 4/15] tokens=25000 rep 1  perplexity 123.4  3.2 s  41 J estimated  suspect`.
    """
    total = len(progress.plan.trials)
    head = f"[{len(progress.done):>{len(str(total))}}/{total}] {progress.label(progress.trial(end.trial_key))}"
    if not end.completed:
        return f"{head}  failed: {end.reason}: {end.detail}"
    parts = [head, f"perplexity {end.perplexity:.4g}", f"{end.train_s:.2f} s"]
    if end.energy_j is None:
        parts.append("energy n/a")
    else:
        parts.append(f"{end.energy_j:.4g} J{' estimated' if end.energy_estimated else ''}")
    return "  ".join([*parts, end.verdict or ""])


def render(progress: Progress) -> Group:
    """Draw the state.

    Args:
        progress: The state.

    Returns:
        A rich renderable.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("slot", "trial", "phase", "tokens", "tokens/s", "loss", "W"):
        table.add_column(title, justify="left" if title in ("slot", "trial", "phase") else "right")
    shown = progress.shown()
    for running in shown:
        table.add_row(
            running.device,
            progress.label(running.trial),
            running.phase,
            f"{format_count(running.tokens)} / {format_count(running.trial.tokens)}",
            _number(running.tokens_per_s, ".0f"),
            _number(running.loss, ".3f"),
            _number(running.power_w, ".1f"),
        )
    if len(progress.running) > len(shown):
        table.add_row(f"and {len(progress.running) - len(shown)} more")
    total, done = len(progress.plan.trials), len(progress.done)
    remaining = progress.remaining_s()
    summary = (
        f"{done} of {total} done, {len(progress.running)} running, {len(progress.failed)} failed; "
        f"elapsed {format_duration(time.monotonic() - progress.started)}"
        + (f", about {format_duration(remaining)} left" if remaining is not None else "")
        + f"; energy so far {progress.energy_j / 3600:.3g} Wh{' (estimated)' if progress.estimated else ''}"
    )
    bar = Table.grid()  # a bar of its own has no line end
    bar.add_row(ProgressBar(total=total, completed=done, width=60))
    return Group(table, bar, Text(summary))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
