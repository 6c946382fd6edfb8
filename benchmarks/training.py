"""Time per training step, and time around it: rayscale against a hand-written loop and the Trainer of transformers.

On a CPU all ways train the same Llama on one thread, in turns; ratios are medians over rounds of CPU time, which other
work on the machine disturbs less than wall time. Every round is a process of its own, as its users have: rayscale sets
the C library's allocator for its process (`training/allocator.py`), which in one process would serve the others too.
`--together` takes one process for all, so that only the work of a step differs. `end to end` compares a 150-step trial
forked from a warm slot's server with a fresh process that uses the Trainer: all wall time but the training steps.

    python -m benchmarks.training [--rounds 15]             about 5 minutes on one core
    python -m benchmarks.training --device cuda             TinyLlama-1.1B on a GPU, under 10 minutes

The Trainer needs `accelerate`, which rayscale does not install; without it that row is left out:

    pip install --target DIR --no-deps accelerate && PYTHONPATH=DIR python -m benchmarks.training
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks.training_loops import SIZES, TRIAL_STEPS, Bare, HfTrainer, Ours, Size, Span, Way, warm_trial
from rayscale.environment import cpu_name, versions
from rayscale.sweep.forkserver import ForkServer
from rayscale.training.preload import PRELOAD

STEPS = {"base": 12, "small": 60}
"""Steps of a round: about a second of each."""
GOALS = {"base": (1.02, 1.08), "small": (1.02, 1.2)}
"""Ours over the bare loop at most; the Trainer over ours at least."""
TRAINER = ["accelerate", "datasets", "transformers.trainer"]
"""What the Trainer's rounds import."""


class Forked:
    """A way of which every round is a fresh fork of a server that holds what all ways import."""

    def __init__(self, way: Way, forks: ForkServer) -> None:
        self.name, self._way, self._forks = way.name, way, forks

    def round(self, steps: int) -> Span:
        """Train a fresh model for some steps, over there."""
        return self._forks.call(self._way.round, steps)


def interleaved(ways: Sequence[Way], steps: int, rounds: int) -> dict[str, list[Span]]:
    """Time all ways in turns, each round in another order.

    Args:
        ways: The ways.
        steps: Steps of a round.
        rounds: Rounds, after one that is not counted.

    Returns:
        Way -> its rounds.
    """
    found: dict[str, list[Span]] = {way.name: [] for way in ways}
    for index in range(rounds + 1):
        shift = index % len(ways)
        for way in (*ways[shift:], *ways[:shift]):
            span = way.round(steps)
            if index:
                found[way.name].append(span)
    return found


def ratio(numerator: Sequence[Span], denominator: Sequence[Span]) -> tuple[float, float, float]:
    """Compare two ways round by round.

    Returns:
        Median, lower and upper quartile of the ratios of CPU time.
    """
    low, middle, high = statistics.quantiles([a.cpu / b.cpu for a, b in zip(numerator, denominator, strict=True)], n=4)
    return middle, low, high


def measured(size: Size, cache: Path, rounds: int, with_trainer: bool, together: bool) -> dict[str, list[Span]]:
    """Measure all ways of one size."""
    ways: list[Way] = [Ours(size, cache), Bare(size, cache)]
    ways.append(Ours(size, cache, "rayscale, deterministic off", deterministic=False))
    ways += [HfTrainer(size, cache), HfTrainer(size, cache, documented=False)] if with_trainer else []
    if together:
        return interleaved(ways, STEPS[size.name], rounds)
    forks = ForkServer(["benchmarks.training_loops", *PRELOAD, *(TRAINER if with_trainer else [])])
    forks.missing()  # starts the server
    return interleaved([Forked(way, forks) for way in ways], STEPS[size.name], rounds)


def report_size(size: Size, cache: Path, rounds: int, with_trainer: bool, together: bool) -> None:
    """Measure one size and print its rows."""
    found = measured(size, cache, rounds, with_trainer, together)
    bare, ours = found["bare loop"], found["rayscale"]
    print(f"\n{size.name}: {size.config['hidden_size']} wide, {size.config['num_hidden_layers']} layers, "
          f"{size.batch_size} x {size.sequence_length} tokens a step")  # fmt: skip
    print(f"{'ms per step':<30}{'CPU median':>12}{'CPU min':>10}{'wall median':>13}{'of bare loop (quartiles)':>28}")
    for name, spans in found.items():
        middle, low, high = ratio(spans, bare)
        cpu, wall = [1e3 * span.cpu for span in spans], [1e3 * span.wall for span in spans]
        print(f"{name:<30}{statistics.median(cpu):12.2f}{min(cpu):10.2f}{statistics.median(wall):13.2f}"
              f"{middle:12.3f} ({low:.3f} to {high:.3f})")  # fmt: skip
    limit, least = GOALS[size.name]
    print(f"rayscale / bare loop: {ratio(ours, bare)[0]:.3f} (goal: at most {limit})")
    if with_trainer:
        print(f"HF Trainer / rayscale: {ratio(found['HF Trainer'], ours)[0]:.3f} (goal: at least {least}); "
              f"its rows as tensors: {ratio(found['HF Trainer, rows as tensors'], ours)[0]:.3f}")  # fmt: skip


# -- end to end -------------------------------------------------------------------------------------------------------


def outside_warm(cache: Path, trials: int) -> list[float]:
    """Time trials forked from one warm server: wall time without the training phase. Units: s."""
    forks = ForkServer(["benchmarks.training_loops", *PRELOAD])
    forks.missing()  # starts the server, as a slot's set-up does
    found = []
    for _ in range(trials):
        start = time.monotonic()
        trained = forks.call(warm_trial, str(cache))
        found.append(time.monotonic() - start - trained)
    return found


def outside_fresh(cache: Path, trials: int) -> list[float]:
    """Time fresh processes that use the Trainer: wall time without the training steps. Units: s."""
    code = f"from benchmarks.training_loops import fresh_trainer; print(fresh_trainer({str(cache)!r}))"
    found = []
    for _ in range(trials):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found.append(time.monotonic() - start - float(done.stdout.splitlines()[-1]))
    return found


def report_start(cache: Path, with_trainer: bool) -> None:
    """Measure both starts and print the comparison."""
    warm = outside_warm(cache, 7)
    print(f"\nend to end, {TRIAL_STEPS} steps (small): wall time outside the training steps, s")
    print(f"{'rayscale, warm slot':<30}median {statistics.median(warm):.3f}  min {min(warm):.3f}  max {max(warm):.3f}")
    if with_trainer:
        fresh = outside_fresh(cache, 3)
        print(f"{'HF Trainer, fresh process':<30}median {statistics.median(fresh):.3f}  min {min(fresh):.3f}")
        print(f"ratio: {statistics.median(fresh) / statistics.median(warm):.1f} (goal: at least 10)")


def main() -> int:
    """Measure and print the tables.

    Returns:
        Exit code: 0, or 3 without a usable GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=[size.name for size in SIZES], help="only this size, and no end-to-end part")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per size (CPU); 0: the end-to-end part only")
    parser.add_argument("--together", action="store_true", help="all ways in one process (CPU)")
    args = parser.parse_args()
    if args.device == "cuda":
        from benchmarks.training_cuda import run_on_gpu

        return run_on_gpu()
    with_trainer = importlib.util.find_spec("accelerate") is not None
    machine = f"{cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    software = f"torch {versions()['torch']}, transformers {versions()['transformers']}"
    print(f"{date.today()}  {machine}; {software}; {args.rounds} rounds, 1 thread, "
          f"{'all ways in one process' if args.together else 'a process per round'}")  # fmt: skip
    if not with_trainer:
        print("HF Trainer: left out, `accelerate` is not importable (see the head of benchmarks/training.py)")
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as cache:
        for size in SIZES:
            if args.rounds and args.size in (None, size.name):
                report_size(size, Path(cache), args.rounds, with_trainer, args.together)
        if args.size is None:
            report_start(Path(cache), with_trainer)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
