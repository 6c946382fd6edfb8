"""What the power sampler costs: its own CPU time, how punctual it is, and what it does to a training step.

1. A sampler process at 10 Hz beside nothing, then beside one busy process per CPU: CPU time of the whole process
   (interpreter and writing included) as a share of one core, 99th percentile of how late polls came.
2. A/B in one training on all CPUs (so that the sampler has to take its time from it): the sampler is stopped and let go
   again (SIGSTOP, SIGCONT) in short windows, each pair of them once with and once without, in an order drawn by lot.
   `benchmarks.step_effect` says how the steps are compared. What counts against the sampler: the first poll after
   SIGCONT, which comes late and in addition; so it polls more often in its windows than it would alone.

    python -m benchmarks.sampler_cost [--seconds 60] [--ab 600] [--window 0.25] [--period 100ms] [--pin] [--aa]

With --pin the training has one thread, and one CPU that it shares with the sampler: all that this takes it takes from
the training, while what else the machine does finds another CPU, so the interval is narrower. With --aa what is stopped
and let go is a process that only sleeps: both estimates must then hold 0.
Goals: CPU <= 1 % of a core; p99 lateness <= 2 ms on an idle machine; step time <= +0.5 %.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.step_effect import (
    GOAL_STEP,
    Effect,
    Step,
    coverage_without_effect,
    paired_changes,
    poll_changes,
    trimmed_mean,
    windows_of,
)
from rayscale.energy.estimated import process_cpu_seconds
from rayscale.energy.process import SamplerProcess
from rayscale.energy.reader import gpu_devices
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import read_trace
from rayscale.environment import cache_directory, cpu_name, versions
from rayscale.spec import EnergySpec, SweepSpec
from rayscale.specfile import parse_spec

if TYPE_CHECKING:
    from rayscale.training.session import StepLog

SWEEP = """\
name: sampler-cost
design: {{factors: {{tokens: [{tokens}]}}, repetitions: 1, seed: 1}}
model:
  config: {{model_type: llama, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2,
           intermediate_size: 384}}
data: {{synthetic: {{kind: markov, vocab_size: 2048, tokens: 200_000}}, sequence_length: 128, max_epochs: 100_000}}
train: {{batch_size: 4, warmup_steps: 2, threads: {threads}, log_every: 0s}}
eval: {{tokens: 512}}
energy: {{period: {period}}}
"""
STEP_TOKENS = 4 * 128
MAX_STEPS_PER_S = 500
"""The training's budget is this many steps per second of its time, which it must not reach."""
WARM_WINDOWS = 4
BLOCK_S = 4.0
"""Length of the blocks in which steps near polls are compared with others."""


@dataclass(frozen=True)
class Cost:
    """One run of the sampler. Units: s.

    Attributes:
        cpu_s: CPU time of the sampler's process while it sampled.
        wall_s: How long that was.
        stats: What the sampler says of itself.
    """

    cpu_s: float
    wall_s: float
    stats: SamplerStats


@contextmanager
def sampling(spec: EnergySpec, uuid: str | None) -> Iterator[SamplerProcess]:
    """Sample beside the context, into a directory that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as directory:
        sampler = SamplerProcess(spec, uuid, os.getpid(), Path(directory))
        sampler.start()
        try:
            yield sampler
        finally:
            sampler.stop()


def cost_of(spec: EnergySpec, uuid: str | None, seconds: float) -> Cost:
    """Let a sampler run and look at what it used.

    Args:
        spec: Source and period.
        uuid: The GPU; None: the CPU.
        seconds: How long.

    Returns:
        Its cost, start and end of the process left out.
    """
    with sampling(spec, uuid) as sampler:
        pid = sampler.pid or 0
        time.sleep(1.0)  # imports and first polls are over
        begin, before = time.monotonic(), process_cpu_seconds(pid)
        time.sleep(seconds)
        after, end = process_cpu_seconds(pid), time.monotonic()
        stats = sampler.stop()
    used = math.nan if before is None or after is None else after - before
    return Cost(used, end - begin, stats)


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep some CPUs busy."""
    workers = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


class _EnoughError(Exception):
    """Ends the training when its time is over."""


class Alternation:
    """Hears of every training step; stops the sampler and lets it go on, window by window."""

    def __init__(self, pid: int, window_s: float, total_s: float, seed: int = 1) -> None:
        """Begin with the sampler running.

        Args:
            pid: The sampler's process.
            window_s: Least length of a window, in s.
            total_s: When to end, in s.
            seed: Of the order within each pair of windows.
        """
        self._pid, self._window_s, self._lot = pid, window_s, random.Random(seed)
        self.steps: list[Step] = []
        self.sampled, self.window = True, 0
        self._begin = self._step_begin = time.monotonic()
        self._end = self._begin + total_s

    def __call__(self, _: StepLog) -> None:
        """Take note of a step; end the window if it is long enough.

        Raises:
            _EnoughError: When the time is over.
        """
        now = time.monotonic()
        self.steps.append(Step(self._step_begin, now - self._step_begin, self.sampled, self.window))
        if now - self._begin >= self._window_s:
            if now > self._end:
                raise _EnoughError
            self._turn()
        self._step_begin = time.monotonic()

    def _turn(self) -> None:
        self.window += 1
        self.sampled = not self.sampled if self.window % 2 else self._lot.random() < 0.5
        os.kill(self._pid, signal.SIGCONT if self.sampled else signal.SIGSTOP)
        self._begin = time.monotonic()


@dataclass(frozen=True)
class Trained:
    """A training with the sampler on and off by turns.

    Attributes:
        steps: Its steps in time order, the first windows (which warm up) left out.
        origin: CLOCK_MONOTONIC of a deadline of the sampler's polls, in s.
        polls_per_s: How often it polled while it was on; 0 in an A/A.
    """

    steps: list[Step]
    origin: float
    polls_per_s: float


def alternate(spec: SweepSpec, uuid: str | None, window_s: float, total_s: float, *, aa: bool = False) -> Trained:
    """Train once, with the sampler on and off by turns.

    Args:
        spec: The sweep; logs after every step.
        uuid: The GPU; None trains on the CPU.
        window_s: Length of a window.
        total_s: Length of the training.
        aa: Whether another process, which only sleeps, is stopped and let go instead.

    Returns:
        The steps.
    """
    from rayscale.training.data import prepare
    from rayscale.training.session import open_session

    data, device = prepare(spec, cache_directory()), "cuda" if uuid else "cpu"
    tokens = int(spec.design.factors["tokens"][0])
    session = open_session(spec, data, tokens=tokens, seed=1, repetition=0, device=device)
    session.warmup()
    with _sleeping() if aa else sampling(spec.energy, uuid) as toggled:
        turns = Alternation(toggled.pid or 0, window_s, total_s)
        try:
            session.train(turns)
        except _EnoughError:
            pass
        else:
            raise SystemExit("the training ended before its time; raise MAX_STEPS_PER_S")
        finally:
            os.kill(toggled.pid or 0, signal.SIGCONT)
        times = _polls(toggled) if isinstance(toggled, SamplerProcess) else []
    steps = [step for step in turns.steps if step.window >= WARM_WINDOWS]
    if not times:
        return Trained(steps, steps[0].begin, 0.0)
    seconds = math.fsum(step.seconds for step in steps if step.sampled)
    polls = sum(steps[0].begin <= t <= steps[-1].begin for t in times)
    return Trained(steps, _deadline(times, spec.energy.period), polls / seconds)


@contextmanager
def _sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """Have a process that does nothing."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            yield process
        finally:
            process.kill()


def _polls(sampler: SamplerProcess) -> list[float]:
    """End the sampler and read when it polled."""
    sampler.stop()
    times: list[float] = read_trace(sampler.directory).t.tolist()
    return times


def _deadline(times: list[float], period_s: float) -> float:
    """Find one of the sampler's deadlines: most polls come right after theirs, those after a stop at any time."""
    phases = [(t - times[0] + period_s / 2) % period_s for t in times]
    return times[0] - period_s / 2 + statistics.median(phases)


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.2f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each run of the sampler")
    parser.add_argument("--ab", type=float, default=600.0, help="length of the training with and without, in s")
    parser.add_argument("--window", type=float, default=0.25, help="length of its windows, in s")
    parser.add_argument("--pin", action="store_true", help="train with one thread, on one CPU with the sampler")
    parser.add_argument("--aa", action="store_true", help="stop and let go a process that only sleeps instead")
    parser.add_argument("--period", default="100ms", help="time between polls")
    parser.add_argument("--threads", type=int, help="threads of the training (default: all CPUs)")
    args = parser.parse_args()
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    gpus = gpu_devices()
    uuid = gpus[0].uuid if gpus else None
    threads = 1 if args.pin else args.threads or cpus
    tokens = int(args.ab * MAX_STEPS_PER_S) * STEP_TOKENS
    spec = parse_spec(SWEEP.format(tokens=tokens, threads=threads, period=args.period), "benchmark")

    costs = {"idle machine": cost_of(spec.energy, uuid, args.seconds)}
    with busy(cpus):
        costs["all CPUs busy"] = cost_of(spec.energy, uuid, args.seconds / 3)
    if args.pin:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # which the sampler inherits
    trained = alternate(spec, uuid, args.window, args.ab, aa=args.aa)

    device = gpus[0].name if gpus else "CPU (no GPU here)"
    print(f"{date.today()}  {cpu_name()}, {cpus} CPUs; device {device}; torch {versions().get('torch')}")
    print(f"sampler every {args.period}, {args.seconds:g} s each; load before: {load:.2f} (1 min)")
    print(f"{'':<16}{'CPU, % of a core':>18}{'late p99, ms':>14}{'poll p50, ms':>14}{'poll p99, ms':>14}{'missed':>8}")
    for name, cost in costs.items():
        stats = cost.stats
        times = "".join(
            f"{_milliseconds(one):>14}" for one in (stats.late_p99_s, stats.latency_p50_s, stats.latency_p99_s)
        )
        print(f"{name:<16}{100 * cost.cpu_s / cost.wall_s:>18.2f}{times}{stats.missed:>8}")
    for line in effect_lines(trained, args.window, spec.energy.period):
        print(line)


def effect_lines(trained: Trained, window_s: float, period_s: float) -> list[str]:
    """Write what the sampler did to the steps.

    Args:
        trained: The training.
        window_s: Length of its windows.
        period_s: Time between polls.

    Returns:
        Lines.
    """
    steps, block = trained.steps, max(2, 2 * round(BLOCK_S / window_s / 2))
    typical = statistics.median(step.seconds for step in steps)
    changes = paired_changes(windows_of(steps))
    lines = [
        f"step time ({1000 * typical:.1f} ms, {len(steps)} steps; {trained.polls_per_s:.1f} polls/s while on, of "
        f"{1 / period_s:g}/s alone), goal <= +{100 * GOAL_STEP:g} %:",
        _line("sampler on/off", trimmed_mean(changes))
        + f"; A/A (labels exchanged): {100 * coverage_without_effect(changes):.1f} % of the intervals hold 0",
    ]
    found = poll_changes(steps, trained.origin, period_s, block)
    if len(found) < 10:
        return [*lines, f"steps near polls: n/a (a step takes more than half the {1000 * period_s:g} ms between polls)"]
    placebo = poll_changes(steps, trained.origin, period_s, block, sampled=False)
    return [
        *lines,
        _line("steps near polls", trimmed_mean(found)) + f"; A/A (same times, no sampler): {trimmed_mean(placebo)}",
    ]


def _line(name: str, effect: Effect) -> str:
    return f"{name:<18}{effect}: {effect.verdict}"


if __name__ == "__main__":
    main()
