"""From the steps of one training to what the sampler does to them: two estimates, each with its interval and its A/A.

    on/off    ###___ ___### ###___     windows with and without the sampler, in pairs whose order is drawn by lot
    polls     #..#..#..#..             steps that begin shortly before or after a poll against the others beside them

On/off sees everything the sampler does and decides, but its windows also differ by what other guests do meanwhile. The
steps of one window that a poll falls into, or follows on, against those it spares differ less where that is slow; what
the sampler did to all steps alike would be missed. Which step is near a poll is decided by when it begins, not by how
long it takes (a slow step catches more polls); and the same difference in the windows without a sampler, on the times
at which it would have polled, is subtracted.

Both are 20 % trimmed means over pairs or blocks, never over steps: every on-window holds polls, so trimming leaves out
disturbed seconds and no polls.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

GOAL_STEP = 0.005
TRIM = 0.2
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes:
        begin: CLOCK_MONOTONIC, in s.
        seconds: How long it took.
        sampled: Whether the sampler was running.
        window: Number of its window.
    """

    begin: float
    seconds: float
    sampled: bool
    window: int


@dataclass(frozen=True)
class Window:
    """Some consecutive training steps.

    Attributes:
        sampled: Whether the sampler was running.
        steps: How many.
        seconds: How long they took together.
    """

    sampled: bool
    steps: int
    seconds: float

    @property
    def step_s(self) -> float:
        """Mean duration of a step. Units: s."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class Effect:
    """A relative change of the step time.

    Attributes:
        mean: The change; 0.01 is 1 %.
        error: Its standard error.
        n: From how many values.
    """

    mean: float
    error: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return self.mean - NORMAL_95 * self.error, self.mean + NORMAL_95 * self.error

    @property
    def verdict(self) -> str:
        """Whether the goal is met, missed or open."""
        low, high = self.interval
        return "met" if high <= GOAL_STEP else "missed" if low > GOAL_STEP else "open: the interval holds the goal"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.mean:+.2f} % (95 % interval {100 * low:+.2f} to {100 * high:+.2f} %, n = {self.n})"


def windows_of(steps: Sequence[Step]) -> list[Window]:
    """Add steps up to windows, in time order."""
    grouped = (list(part) for _, part in groupby(steps, key=lambda step: step.window))
    return [Window(part[0].sampled, len(part), math.fsum(step.seconds for step in part)) for part in grouped]


def paired_changes(windows: Sequence[Window]) -> list[float]:
    """Compare each window with its partner.

    Args:
        windows: Windows in time order; each pair has one with and one without the sampler.

    Returns:
        Relative change of the mean step time by the sampler, one per pair.
    """
    changes = []
    for pair in zip(windows[::2], windows[1::2], strict=False):
        with_it, without = sorted(pair, key=lambda window: not window.sampled)
        changes.append(with_it.step_s / without.step_s - 1)
    return changes


def trimmed_mean(values: Sequence[float], share: float = TRIM) -> Effect:
    """Take the mean without the extremes, which on a virtual machine are other guests.

    Tukey and McLaughlin (1963), Sankhya A 25, 331-352: the standard error comes from the winsorised deviation.

    Args:
        values: The values, at least 10.
        share: What is left out on either side.

    Returns:
        The trimmed mean and its standard error.
    """
    ordered, n = sorted(values), len(values)
    cut = int(share * n)
    kept = ordered[cut : n - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorised) / ((1 - 2 * cut / n) * math.sqrt(n))
    return Effect(statistics.fmean(kept), error, n)


def coverage_without_effect(changes: Sequence[float], rounds: int = 1000, seed: int = 1) -> float:
    """Find out how often the interval holds 0 where there is nothing: the labels of random pairs exchanged (A/A).

    The order within a pair was drawn by lot, so each change could as well have had the other sign.

    Args:
        changes: Relative change per pair.
        rounds: How many times the labels are drawn.
        seed: Of the draws.

    Returns:
        Share of intervals that hold 0; 0.95 if the interval is honest.
    """
    rng, held = random.Random(seed), 0
    for _ in range(rounds):
        low, high = trimmed_mean([change * rng.choice((-1, 1)) for change in changes]).interval
        held += low <= 0 <= high
    return held / rounds


def _near(step: Step, origin: float, period_s: float, typical_s: float) -> bool:
    """Whether a step of usual length that begins then has a poll in it, or in the one before it."""
    since = (step.begin - origin) % period_s
    return since < typical_s or period_s - since < typical_s


def _added(steps: Sequence[Step], near: Sequence[bool]) -> float | None:
    """What polls add to the mean step: how much longer the steps near them are, times the share of these.

    Regression on being near within windows, so that what slows down a window as a whole does not count.
    """
    above = below = 0.0
    for _, group in groupby(zip(steps, near, strict=True), key=lambda pair: pair[0].window):
        times, hits = zip(*((step.seconds, float(hit)) for step, hit in group), strict=True)
        mean, share = statistics.fmean(times), statistics.fmean(hits)
        above += math.fsum((hit - share) * (time - mean) for time, hit in zip(times, hits, strict=True))
        below += math.fsum((hit - share) ** 2 for hit in hits)
    return above / below * statistics.fmean(near) if below > 0 else None


def poll_changes(
    steps: Sequence[Step], origin: float, period_s: float, block: int, *, sampled: bool | None = None
) -> list[float]:
    """Compare the steps near polls with the others, block by block.

    Args:
        steps: The steps, in time order.
        origin: CLOCK_MONOTONIC of one of the deadlines of the polls, in s.
        period_s: Time between polls, in s.
        block: Windows per block.
        sampled: True: only where the sampler ran; False: only where it did not (A/A); None: the one minus the other.

    Returns:
        Relative change of the mean step time, one per block; none if no step is far enough from all polls.
    """
    typical = statistics.median(step.seconds for step in steps)
    changes = []
    for _, group in groupby(steps, key=lambda step: step.window // block):
        part = list(group)
        found = []
        for state in (True, False) if sampled is None else (sampled,):
            some = [step for step in part if step.sampled is state]
            found.append(_added(some, [_near(step, origin, period_s, typical) for step in some]))
        known = [value for value in found if value is not None]
        if len(known) == len(found):
            change = known[0] - (known[1] if sampled is None else 0.0)
            changes.append(change / statistics.fmean(step.seconds for step in part))
    return changes
