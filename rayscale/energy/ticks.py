"""The tick of an energy counter: when it grows, to within a few milliseconds.

    energy      ____----____      grows every u (about 100 ms on NVIDIA GPUs); a read is up to u old
    reads        r . .T. . .T     after an edge of the phase: read until it has grown twice
    known                         at each T its age is 0 (to within the step); at r it is that of the tick before T

So the edge of a phase is not one update of power x u uncertain (65 J at 650 W) but a few milliseconds. The quick reads
happen between phases only (see `edges`): reading the counter at 100 Hz makes some consumer cards undercount
(HotCarbon'26, Dauner et al.), which then touches no measured window. The timestamps of NVML's field entries would be
free, but whether they are those of the tick or of the call is not documented; they are not relied on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP_S = 0.002
"""Pause between reads while a tick is awaited."""
LIMIT_S = 0.3
"""Longest wait: a counter that has not grown twice by then has no tick to speak of."""
JITTER = 0.05
"""Relative deviation of the update period: 99 to 104 ms on one card (SC'24)."""
CLOSE = 5
"""Updates of the counter within which a plain read is worth nothing beside a sharp one."""


@dataclass(frozen=True)
class Tick:
    """A growth of the counter that was seen. Units: s, J.

    Attributes:
        t: Middle of the time in which it grew.
        energy_j: What it grew to.
        slack_s: Half of that time.
    """

    t: float
    energy_j: float
    slack_s: float


def follow_ticks(
    read: Callable[[], float | None],
    last: tuple[float, float],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    count: int = 2,
    limit_s: float = LIMIT_S,
) -> list[Tick]:
    """Read a counter until it has grown a few times.

    Args:
        read: The counter in J; None if it fails, which ends the wait.
        last: When it was read before, in s, and what it was, in J.
        clock: CLOCK_MONOTONIC in s.
        sleep: Waits some s.
        count: How many ticks to wait for.
        limit_s: Longest wait, in s.

    Returns:
        The ticks seen, at most `count`.
    """
    ticks: list[Tick] = []
    (before, known), limit = last, clock() + limit_s
    while len(ticks) < count and clock() < limit:
        sleep(STEP_S)
        begin = clock()
        energy = read()
        end = clock()
        if energy is None:
            break
        if energy > known:
            ticks.append(Tick((before + end) / 2, energy, (end - before) / 2))
        before, known = begin, energy
    return ticks


@dataclass(frozen=True, eq=False)
class AlignedReads:
    """Counter reads in time order, those beside a tick moved to when they became true. Units: s, J.

    Attributes:
        times: When each value became true (beside a tick), else when it was read.
        energy_j: The values.
        late: How much earlier it may have become true; 0 beside a tick.
        slack: How far either way beside a tick; else 0.
    """

    times: Array
    energy_j: Array
    late: Array
    slack: Array


def align_reads(times: Array, energy_j: Array, slack: Array, resolution_s: float) -> AlignedReads:
    """Use the ticks that were seen.

    Args:
        times: When the counter was read, strictly ascending, in s.
        energy_j: What it was, in J.
        slack: Half-width of the tick's time, in s; NaN: a plain read, up to `resolution_s` old.
        resolution_s: Update period of the counter, in s.

    Returns:
        All reads but those that a moved one makes redundant.
    """
    ticked = np.isfinite(slack)
    late, slack = np.where(ticked, 0.0, resolution_s), np.where(ticked, slack, 0.0)
    gaps = np.diff(times)
    pairs = ticked[:-1] & ticked[1:] & (gaps < 3 * resolution_s)
    if not pairs.any():
        return AlignedReads(times, energy_j, late, slack)
    update, at, kept = float(np.median(gaps[pairs])), times.copy(), np.ones(len(times), dtype=bool)
    # how regular the ticks are is not taken on trust where more than one period was seen
    jitter = max(JITTER * update, float(np.max(np.abs(gaps[pairs] - update))))
    for index in np.flatnonzero(~ticked[:-1] & ticked[1:] & (gaps < (1 + JITTER) * update)):
        # a plain read right before a tick shows the tick before it, unless that was seen itself
        shown = min(times[index], times[index + 1] - update)
        if np.any(at[:index][ticked[:index] & kept[:index]] > shown - update / 2):
            kept[index] = False
        else:
            at[index] = shown
            late[index], slack[index], ticked[index] = 0.0, slack[index + 1] + jitter, True
        # a plain read is up to one update old: close to a sharp one it only says what that says better
        kept[:index] &= ticked[:index] | (at[:index] < shown - CLOSE * resolution_s)
    return AlignedReads(at[kept], energy_j[kept], late[kept], slack[kept])
