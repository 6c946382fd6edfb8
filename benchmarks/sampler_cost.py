"""What the power sampler costs: its own CPU time, how punctual it is, and what it does to a training step.

1. A sampler process at 10 Hz beside nothing, then beside one busy process per CPU: CPU time of the whole process
   (interpreter and writing included) as a share of one core, 99th percentile of how late polls came.
2. A/B in one training: the sampler is stopped and let go again (SIGSTOP, SIGCONT) in short windows, each pair of them
   once with and once without, the order turned from pair to pair, on all CPUs (so that the sampler has to take its time
   from the training). A step's time is compared with its neighbours' of the same second: drift and other people's load
   hit both alike. The first poll after SIGCONT, which comes late and all at once, counts against the sampler.

    python -m benchmarks.sampler_cost [--seconds 60] [--ab 120] [--window 0.5] [--period 100ms]

Goals: CPU <= 1 % of a core; p99 lateness <= 2 ms on an idle machine; step time <= +0.5 %.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.energy.estimated import process_cpu_seconds
from rayscale.energy.process import SamplerProcess
from rayscale.energy.reader import gpu_devices
from rayscale.energy.sampler import SamplerStats
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
GOAL_STEP = 0.005


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


class _EnoughError(Exception):
    """Ends the training when its time is over."""


class Alternation:
    """Hears of every training step; stops the sampler and lets it go on, window by window."""

    def __init__(self, pid: int, window_s: float, total_s: float) -> None:
        """Begin with the sampler running.

        Args:
            pid: The sampler's process.
            window_s: Least length of a window, in s.
            total_s: When to end, in s.
        """
        self._pid, self._window_s = pid, window_s
        self.windows: list[Window] = []
        self._sampled, self._steps = True, 0
        self._begin = time.monotonic()
        self._end = self._begin + total_s

    def __call__(self, _: StepLog) -> None:
        """Count a step; end the window if it is long enough.

        Raises:
            _EnoughError: When the time is over.
        """
        now = time.monotonic()
        self._steps += 1
        if now - self._begin < self._window_s:
            return
        self.windows.append(Window(self._sampled, self._steps, now - self._begin))
        if now > self._end:
            raise _EnoughError
        # with, without | without, with | with, without | ...
        self._sampled = len(self.windows) % 4 in (0, 3)
        os.kill(self._pid, signal.SIGCONT if self._sampled else signal.SIGSTOP)
        self._steps, self._begin = 0, time.monotonic()


def alternate(spec: SweepSpec, uuid: str | None, window_s: float, total_s: float) -> list[Window]:
    """Train once, with the sampler on and off by turns.

    Args:
        spec: The sweep; logs after every step.
        uuid: The GPU; None trains on the CPU.
        window_s: Length of a window.
        total_s: Length of the training.

    Returns:
        The windows in time order, the first (which warms up) left out with its partner.
    """
    from rayscale.training.data import prepare
    from rayscale.training.session import open_session

    data, device = prepare(spec, cache_directory()), "cuda" if uuid else "cpu"
    tokens = int(spec.design.factors["tokens"][0])
    session = open_session(spec, data, tokens=tokens, seed=1, repetition=0, device=device)
    session.warmup()
    with sampling(spec.energy, uuid) as sampler:
        turns = Alternation(sampler.pid or 0, window_s, total_s)
        try:
            session.train(turns)
        except _EnoughError:
            pass
        else:
            raise SystemExit("the training ended before its time; raise MAX_STEPS_PER_S")
        finally:
            os.kill(sampler.pid or 0, signal.SIGCONT)
    return turns.windows[2:]


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


def trimmed_mean(values: Sequence[float], share: float = 0.2) -> tuple[float, float]:
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
    return statistics.fmean(kept), error


def summary(changes: Sequence[float]) -> str:
    """Write the change with its 95 % interval, in percent, and whether the goal is met, missed or open."""
    mean, error = trimmed_mean(changes)
    low, high = mean - 1.96 * error, mean + 1.96 * error
    verdict = "met" if high <= GOAL_STEP else "missed" if low > GOAL_STEP else "open: the interval holds the goal"
    return (
        f"{100 * mean:+.2f} % (95 % interval {100 * low:+.2f} to {100 * high:+.2f} %, 20 % trimmed mean of "
        f"{len(changes)} pairs, median {100 * statistics.median(changes):+.2f} %); goal <= +{100 * GOAL_STEP:g} %: "
        + verdict
    )


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.2f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each run of the sampler")
    parser.add_argument("--ab", type=float, default=120.0, help="length of the training with and without, in s")
    parser.add_argument("--window", type=float, default=0.5, help="length of its windows, in s")
    parser.add_argument("--period", default="100ms", help="time between polls")
    parser.add_argument("--threads", type=int, help="threads of the training (default: all CPUs)")
    args = parser.parse_args()
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    gpus = gpu_devices()
    uuid = gpus[0].uuid if gpus else None
    threads = args.threads or cpus
    tokens = int(args.ab * MAX_STEPS_PER_S) * STEP_TOKENS
    spec = parse_spec(SWEEP.format(tokens=tokens, threads=threads, period=args.period), "benchmark")

    costs = {"idle machine": cost_of(spec.energy, uuid, args.seconds)}
    with busy(cpus):
        costs["all CPUs busy"] = cost_of(spec.energy, uuid, args.seconds / 3)
    windows = alternate(spec, uuid, args.window, args.ab)

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
    step = statistics.fmean(window.step_s for window in windows)
    print(f"step time ({1000 * step:.1f} ms, {threads} threads) by the sampler: {summary(paired_changes(windows))}")


if __name__ == "__main__":
    main()
