"""The analysis of `benchmarks/sampler_cost.py`: a benchmark that decides a goal has to find an effect that is there."""

from __future__ import annotations

import importlib.util
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "sampler_cost.py"
    spec = importlib.util.spec_from_file_location("sampler_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sampler_cost"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def simulated(bench: ModuleType, effect: float, pairs: int, seed: int) -> list[object]:
    """Windows with noise of 0.5 %, a drift of 20 %, and every tenth slowed down by other guests by up to a half."""
    rng = random.Random(seed)
    windows = []
    for index in range(2 * pairs):
        sampled = index % 4 in (0, 3)
        step = 0.012 * (1 + 0.2 * index / (2 * pairs)) * (1 + effect * sampled) * (1 + rng.gauss(0, 0.005))
        if rng.random() < 0.1:
            step *= 1 + rng.random() / 2
        windows.append(bench.Window(sampled, 40, 40 * step))
    return windows


@pytest.mark.parametrize(("effect", "verdict"), [(0.0, "met"), (0.03, "missed")])
def test_the_goal_is_decided_through_drift_and_other_guests(bench: ModuleType, effect: float, verdict: str) -> None:
    decided = []
    for seed in range(40):
        changes = bench.paired_changes(simulated(bench, effect, 120, seed))
        mean, error = bench.trimmed_mean(changes)
        assert mean == pytest.approx(effect, abs=5 * error)
        decided.append(verdict in bench.summary(changes))
    assert statistics.fmean(decided) > 0.8


def test_few_noisy_pairs_leave_the_goal_open(bench: ModuleType) -> None:
    assert "open" in bench.summary([0.3, -0.3, 0.1, -0.2, 0.25, -0.1, 0.4, -0.35, 0.02, 0.2])


def test_the_sampler_stands_still_in_every_other_window(bench: ModuleType) -> None:
    used: list[tuple[bool, int]] = []
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            turns, before = bench.Alternation(process.pid, 0.05, 0.5), cpu_ticks(process.pid)
            while train_step(bench, turns):
                if len(turns.windows) > len(used):
                    now = cpu_ticks(process.pid)
                    used.append((turns.windows[-1].sampled, now - before))
                    before = now
        finally:
            process.kill()
    order = [sampled for sampled, _ in used]
    assert order == [index % 4 in (0, 3) for index in range(len(order))]
    assert len(order) > 6
    assert sum(ticks for sampled, ticks in used if not sampled) <= 2  # clock ticks of 10 ms


def train_step(bench: ModuleType, turns: Callable[[None], None]) -> bool:
    """Stand for a training step; False when the time is over."""
    time.sleep(0.01)
    try:
        turns(None)
    except bench._EnoughError:
        return False
    return True


def cpu_ticks(pid: int) -> int:
    fields = Path("/proc", str(pid), "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
