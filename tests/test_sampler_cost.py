"""The analysis of `benchmarks/sampler_cost.py`: a benchmark that decides a goal has to find an effect that is there."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.sampler_cost import Alternation, _EnoughError
from benchmarks.step_effect import (
    Step,
    coverage_without_effect,
    paired_changes,
    poll_changes,
    trimmed_mean,
    windows_of,
)

PERIOD_S = 0.1


def simulated(effect: float, windows: int, seed: int, *, step_s: float = 0.034, uneven: float = 0.0) -> list[Step]:
    """A training in windows of 0.25 s, order by lot: noise of 1 % per step, a drift of 20 %, every tenth window slowed
    down by other guests by up to a half, all windows `uneven`. Each poll takes `effect` x its period from its step."""
    rng = random.Random(seed)
    steps: list[Step] = []
    now, sampled = 1000.0, True
    for window in range(windows):
        sampled = not sampled if window % 2 else rng.random() < 0.5
        slow = 1 + 0.2 * window / windows + (rng.random() / 2 if rng.random() < 0.1 else 0.0)
        slow += rng.gauss(0.0, uneven)
        until = now + 0.25
        while now < until:
            seconds = step_s * slow * (1 + rng.gauss(0, 0.01))
            polls = (now + seconds) // PERIOD_S - now // PERIOD_S if sampled else 0.0
            seconds += effect * PERIOD_S * polls
            steps.append(Step(now, seconds, sampled, window))
            now += seconds
    return steps


@pytest.mark.parametrize(("effect", "verdict"), [(0.0, "met"), (0.03, "missed")])
def test_the_goal_is_decided_through_drift_and_other_guests(effect: float, verdict: str) -> None:
    decided = []
    for seed in range(20):
        found = trimmed_mean(paired_changes(windows_of(simulated(effect, 480, seed))))
        assert found.mean == pytest.approx(effect, abs=5 * found.error)
        decided.append(found.verdict == verdict)
    assert statistics.fmean(decided) > 0.8


@pytest.mark.parametrize("effect", [0.0, 0.004, 0.02])
def test_where_windows_are_uneven_the_steps_near_polls_tell_the_effect_more_sharply(effect: float) -> None:
    """Unbiased although slow steps catch more polls, and the interval is honest."""
    found, held, sharper = [], 0, []
    for seed in range(20):
        steps = simulated(effect, 320, seed, uneven=0.05)
        near = trimmed_mean(poll_changes(steps, 1000.0, PERIOD_S, 16))
        low, high = near.interval
        held += low <= effect <= high or abs(near.mean - effect) <= 0.15 * effect  # slowed steps blur which are near
        found.append(near.mean)
        sharper.append(near.error < trimmed_mean(paired_changes(windows_of(steps))).error)
        placebo = trimmed_mean(poll_changes(steps, 1000.0, PERIOD_S, 16, sampled=False))
        assert placebo.mean == pytest.approx(0.0, abs=5 * placebo.error)
    assert statistics.fmean(found) == pytest.approx(effect, abs=0.0005 + 0.1 * effect)
    assert held >= 16
    assert statistics.fmean(sharper) > 0.9


def test_long_steps_are_all_near_a_poll_and_tell_nothing() -> None:
    assert poll_changes(simulated(0.0, 40, 1, step_s=0.09), 1000.0, PERIOD_S, 16) == []


def test_exchanged_labels_give_intervals_that_hold_nothing_at_the_nominal_rate() -> None:
    changes = paired_changes(windows_of(simulated(0.03, 200, 5)))
    assert coverage_without_effect(changes, rounds=400) == pytest.approx(0.95, abs=0.04)


def test_few_noisy_pairs_leave_the_goal_open() -> None:
    assert "open" in trimmed_mean([0.3, -0.3, 0.1, -0.2, 0.25, -0.1, 0.4, -0.35, 0.02, 0.2]).verdict


def test_the_sampler_stands_still_in_one_window_of_each_pair() -> None:
    used: list[tuple[bool, int]] = []
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            turns, before = Alternation(process.pid, 0.05, 0.5), cpu_ticks(process.pid)
            while train_step(turns):
                if turns.window > len(used):
                    now = cpu_ticks(process.pid)
                    used.append((turns.steps[-1].sampled, now - before))
                    before = now
        finally:
            process.kill()
    order = [sampled for sampled, _ in used]
    assert order == [window.sampled for window in windows_of(turns.steps)][: len(order)]
    assert all(one != other for one, other in zip(order[::2], order[1::2], strict=False))
    assert len(order) > 6
    assert sum(ticks for sampled, ticks in used if not sampled) <= 2  # clock ticks of 10 ms


def train_step(turns: Callable[[None], None]) -> bool:
    """Stand for a training step; False when the time is over."""
    time.sleep(0.01)
    try:
        turns(None)
    except _EnoughError:
        return False
    return True


def cpu_ticks(pid: int) -> int:
    fields = Path("/proc", str(pid), "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
