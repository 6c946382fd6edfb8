"""What the power sampler costs: its own CPU time, how punctual it is, and what it does to a training step.

1. A sampler process at 10 Hz beside nothing, then beside one busy process per CPU: CPU time of the whole process
   (interpreter and writing included) as a share of one core, 99th percentile of how late polls came.
2. A/B in one run: the same short training again and again, with and without a sampler, in pairs whose order alternates
   (so that drift hits both alike), on all CPUs (so that the sampler has to take its time from the training).

    python -m benchmarks.sampler_cost [--seconds 60] [--pairs 20] [--period 100ms]

Goals: CPU <= 1 % of a core; p99 lateness <= 2 ms on an idle machine; step time <= +0.5 %.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
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
    from rayscale.training.data import PreparedData

SWEEP = """\
name: sampler-cost
design: {{factors: {{tokens: [{tokens}]}}, repetitions: 1, seed: 1}}
model:
  config: {{model_type: llama, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2,
           intermediate_size: 384}}
data: {{synthetic: {{kind: markov, vocab_size: 2048, tokens: 200_000}}, sequence_length: 128}}
train: {{batch_size: 4, warmup_steps: 2, threads: {threads}}}
eval: {{tokens: 512}}
energy: {{period: {period}}}
"""
STEP_TOKENS = 4 * 128


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


def train_seconds(spec: SweepSpec, data: PreparedData, device: str) -> float:
    """Train the budget once; build and warm-up are not timed.

    Args:
        spec: The sweep.
        data: Its prepared data.
        device: `cpu` or `cuda`.

    Returns:
        Seconds of the training phase.
    """
    from rayscale.training.session import open_session

    tokens = int(spec.design.factors["tokens"][0])
    session = open_session(spec, data, tokens=tokens, seed=1, repetition=0, device=device)
    session.warmup()
    start = time.monotonic()
    session.train(lambda _: None)
    session.synchronize()
    return time.monotonic() - start


def paired_effect(spec: SweepSpec, uuid: str | None, pairs: int) -> list[float]:
    """Train with and without the sampler, in pairs of alternating order.

    Args:
        spec: The sweep.
        uuid: The GPU; None trains on the CPU.
        pairs: Number of pairs.

    Returns:
        Relative change of the training time by the sampler, one per pair.
    """
    from rayscale.training.data import prepare

    data, device = prepare(spec, cache_directory()), "cuda" if uuid else "cpu"
    train_seconds(spec, data, device)  # the process's first training is not like the others
    changes = []
    for pair in range(pairs):
        seconds: dict[bool, float] = {}
        for sampled in (pair % 2 == 0, pair % 2 == 1):
            if sampled:
                with sampling(spec.energy, uuid):
                    seconds[sampled] = train_seconds(spec, data, device)
            else:
                seconds[sampled] = train_seconds(spec, data, device)
        changes.append(seconds[True] / seconds[False] - 1)
    return changes


def summary(changes: Sequence[float]) -> str:
    """Write median, mean and the standard error of the mean, in percent."""
    error = statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan
    return (
        f"median {100 * statistics.median(changes):+.2f} %, mean {100 * statistics.fmean(changes):+.2f} "
        f"± {100 * error:.2f} % (standard error, {len(changes)} pairs)"
    )


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.2f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each run of the sampler")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of trainings with and without")
    parser.add_argument("--period", default="100ms", help="time between polls")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps per training")
    args = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    gpus = gpu_devices()
    uuid = gpus[0].uuid if gpus else None
    spec = parse_spec(SWEEP.format(tokens=args.steps * STEP_TOKENS, threads=cpus, period=args.period), "benchmark")

    costs = {"idle machine": cost_of(spec.energy, uuid, args.seconds)}
    with busy(cpus):
        costs["all CPUs busy"] = cost_of(spec.energy, uuid, args.seconds)
    changes = paired_effect(spec, uuid, args.pairs)

    device = gpus[0].name if gpus else "CPU (no GPU here)"
    print(f"{date.today()}  {cpu_name()}, {cpus} CPUs; device {device}; torch {versions().get('torch')}")
    print(f"sampler every {args.period}, {args.seconds:g} s each; load before: {os.getloadavg()[2]:.1f} (15 min)")
    print(f"{'':<16}{'CPU, % of a core':>18}{'late p99, ms':>14}{'poll p50, ms':>14}{'poll p99, ms':>14}{'missed':>8}")
    for name, cost in costs.items():
        stats = cost.stats
        times = "".join(
            f"{_milliseconds(one):>14}" for one in (stats.late_p99_s, stats.latency_p50_s, stats.latency_p99_s)
        )
        print(f"{name:<16}{100 * cost.cpu_s / cost.wall_s:>18.2f}{times}{stats.missed:>8}")
    print(f"training time with the sampler against without ({args.steps} steps, {cpus} threads): {summary(changes)}")


if __name__ == "__main__":
    main()
