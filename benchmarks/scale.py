"""How far one driver reaches: cost per trial and memory from 100 to 10,000 trials on 100 simulated nodes x 8 GPUs.

The searcher, the scheduler, Tune's loop and Ray's managers are the real ones over a simulated Ray
(`benchmarks.simulated_tune`); real actors on this machine show what that leaves out. Then the ledger with as many
records in a directory and in an object store, and the MLflow mirror. Each part runs in a process of its own; times are
CPU of that process unless they say wall.

    python -m benchmarks.scale [--trials 100,1000,10000] [--nodes 100] [--gpus 8] [--only driver,real,ledger,s3,mirror]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from typing import Any

PARTS = ("driver", "real", "ledger", "s3", "mirror")
S3_TRIALS = 500
REAL_TRIALS, REAL_SLOTS = 201, 3


def measure(part: str, trials: int, nodes: int, gpus: int) -> dict[str, Any]:
    """Measure one part in this process.

    Args:
        part: See `PARTS`; `real_simulated` and `calls` belong to `real`.
        trials: How many trials.
        nodes: Simulated nodes.
        gpus: GPUs of each.

    Returns:
        Plain numbers.
    """
    from benchmarks import scale_driver as driver
    from benchmarks import scale_storage as storage

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "driver": lambda: asdict(driver.simulated(trials, driver.gpu_fleet(nodes, gpus))),
        "real": lambda: asdict(driver.real(REAL_TRIALS, REAL_SLOTS)),
        "real_simulated": lambda: asdict(driver.simulated(REAL_TRIALS, driver.gpu_fleet(1, REAL_SLOTS))),
        "calls": lambda: driver.ray_calls_ms(nodes * gpus),
        "ledger": lambda: storage.local_ledger(trials),
        "s3": lambda: storage.bucket_ledger(trials),
        "mirror": lambda: storage.mirror(trials),
    }
    return parts[part]()


def in_process(part: str, trials: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one part in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", part, "--trials", str(trials)]
    command += ["--nodes", str(args.nodes), "--gpus", str(args.gpus)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def print_driver(args: argparse.Namespace, sizes: list[int]) -> None:
    """Measure and print the driver's cost for each number of trials."""
    print(f"\nDriver, {args.nodes} simulated nodes x {args.gpus} GPUs, trials of 50 to 70 s")
    print(
        f"{'trials':>8}{'plan s':>9}{'once s':>9}{'ms/trial':>10}{'peak MB':>9}{'wall s':>8}{'groups':>8}{'in wait':>9}"
    )
    costs = []
    for size in sizes:
        found = in_process("driver", size, args)
        costs.append(per_trial := found["loop_s"] / found["trials"] * 1e3)
        print(
            f"{found['trials']:>8}{found['plan_s']:>9.2f}{found['fixed_s']:>9.2f}{per_trial:>10.2f}"
            f"{found['rss_mb']:>9.0f}{found['wall_s']:>8.1f}{found['groups']:>8}{found['waited_for']:>9}",
            flush=True,
        )
    print(f"cost per trial at {sizes[-1]} / at {sizes[0]}: {costs[-1] / costs[0]:.2f} (goal: at most 1.2)")


def print_real(args: argparse.Namespace) -> None:
    """Measure and print what the simulation leaves out."""
    real, like = in_process("real", 0, args), in_process("real_simulated", 0, args)
    calls = in_process("calls", 0, args)
    print(f"\nCross-check, {REAL_SLOTS} slots, {real['trials']} empty trials: driver's CPU per trial, ms")
    for name, found in (("real actors on this machine", real), ("simulated", like)):
        print(f"{name:<40}{found['loop_s'] / found['trials'] * 1e3:>8.2f}")
    print(f"{f'one ray.wait on {args.nodes * args.gpus} futures':<40}{calls['wait']:>8.2f}")
    print(f"{'one placement group and its removal':<40}{calls['group']:>8.2f}", flush=True)


def print_numbers(title: str, found: dict[str, Any]) -> None:
    """Print a part's numbers, one per line."""
    print(f"\n{title}")
    for name, value in found.items():
        print(f"{name:<40}{value:>10.2f}" if isinstance(value, float) else f"{name:<40}{value:>10}")
    sys.stdout.flush()


def main() -> None:
    """Measure all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", default="100,1000,10000")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--one", help="measure one part here and print it as JSON")
    args = parser.parse_args()
    sizes = [int(size) for size in args.trials.split(",")]
    if args.one:
        print(json.dumps(measure(args.one, sizes[0], args.nodes, args.gpus)))
        return
    wanted = args.only.split(",")
    print(f"{date.today()}  {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", flush=True)
    if "driver" in wanted:
        print_driver(args, sizes)
    if "real" in wanted:
        print_real(args)
    for part, title, size in (
        ("ledger", f"Ledger in a directory, {sizes[-1]} trials", sizes[-1]),
        ("s3", f"Ledger in an object store (moto), {min(S3_TRIALS, sizes[-1])} trials", min(S3_TRIALS, sizes[-1])),
        ("mirror", f"MLflow mirror in a sqlite file, {sizes[-1]} trials", sizes[-1]),
    ):
        if part in wanted:
            print_numbers(title, in_process(part, size, args))


if __name__ == "__main__":
    main()
