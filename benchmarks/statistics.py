"""Speed of the repeated-measures statistics beside statsmodels, pingouin and mne, and what the stop rule saves.

All tools see the same numbers in one process, in turn, so that other load meets all of them. Times are those of the
process on the processor, all threads added, the smallest of several runs: on an idle machine and with one thread the
time by the clock. By the clock, a loaded machine interrupts long calls and spares short ones, which flatters ratios.
New processes are timed by the clock.

- *kernel*: `anova(values)`, subjects x levels in memory: SS, df, F; p and its logarithm uncorrected, p after
  Greenhouse-Geisser, Huynh-Feldt and the lower bound; the epsilons; Mauchly's W with three p, one exact; partial and
  generalized eta squared, partial epsilon squared; Hotelling's test. It is the accurate algorithm, digits kept as
  `tests/analysis/test_analysis_moments.py` demands.
- *from a long table*: the same after `lay_out` has checked the table and put it in cells.
- pingouin's `rm_anova(correction=True, detailed=True)`, from a long table: SS, df, MS, F, p uncorrected and after
  Greenhouse-Geisser, one epsilon, Mauchly's W with one p, generalized eta squared.
- mne's `f_mway_rm`, from an array: F and p.
- statsmodels' `AnovaRM`: F, df, p; left out from 20,000 subjects on, where its dense design matrix takes 80 GB.

pingouin (GPL-3) and mne are no dependencies: they take part where they are importable. A throw-away environment serves:

    python -m venv /tmp/rivals && /tmp/rivals/bin/pip install pingouin==0.7.0 mne==1.13.2
    OMP_NUM_THREADS=1 python -m benchmarks.statistics --rivals /tmp/rivals/lib/python3.11/site-packages [--quick]

Its folder is put last on the path, so numpy, scipy and pandas are the same for all. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import lay_out
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.sequential import SPENDING, boundaries_of
from rayscale.environment import cpu_name

ROOT = Path(__file__).parent.parent
SIZES = ((50, 3), (1_000, 3), (20_000, 5), (1_000_000, 3))
AFTER = (10, 20, 30, 40, 50)
KERNEL, PINGOUIN = "kernel", "pingouin rm_anova"
COLUMNS = (KERNEL, "from a long table", "statsmodels AnovaRM", PINGOUIN, "mne f_mway_rm")
Call = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """A figure with its limit.

    Attributes:
        name: What is measured.
        value: The figure; None if it could not be measured.
        limit: Largest value that meets the target; smallest one if `at_least`.
        unit: Unit of both.
        at_least: Larger is better.
    """

    name: str
    value: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> str:
        """Write a row of a Markdown table."""
        verdict = {True: "met", False: "**missed**", None: "not measured"}[self.met]
        value = "-" if self.value is None else f"{self.value:.3g}{self.unit}"
        return f"| {self.name} | {value} | {'>=' if self.at_least else '<='} {self.limit:g}{self.unit} | {verdict} |"


def shortest(calls: Mapping[str, Call], budget_s: float) -> dict[str, float]:
    """Time calls in turn.

    Args:
        calls: What is timed, by name; each is run once before.
        budget_s: Start no further round after so long; at least three rounds are made. Units: s.

    Returns:
        The smallest duration of each. Units: s on the processor.
    """
    best = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call()
    begin, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begin < budget_s:
        for name, call in calls.items():
            best[name] = min(best[name], *_durations(call))
        rounds += 1
    return best


def _durations(call: Call) -> list[float]:
    """Time a call two times, and on until 20 ms are over. Units: s on the processor."""
    found: list[float] = []
    while len(found) < 2 or sum(found) < 0.02:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found


def long_frame(values: FloatArray) -> Any:
    """Write subjects x levels as a long table."""
    import pandas as pd

    n, k = values.shape
    return pd.DataFrame({"id": np.repeat(np.arange(n), k), "tokens": np.tile(np.arange(k), n), "y": values.ravel()})


def tools(values: FloatArray) -> dict[str, Call]:
    """Name every tool that can serve a table with its call."""
    frame, k = long_frame(values), values.shape[1]
    calls: dict[str, Call] = {
        KERNEL: lambda: anova(values, [k], ["tokens"]),
        "from a long table": lambda: anova(lay_out(frame, "y", ("tokens",), "id").complete, [k], ["tokens"]),
    }
    if len(values) <= 1_000:
        from statsmodels.stats.anova import AnovaRM

        calls["statsmodels AnovaRM"] = lambda: AnovaRM(frame, "y", "id", within=["tokens"]).fit()
    if importlib.util.find_spec("pingouin"):
        rm_anova = importlib.import_module("pingouin").rm_anova
        calls[PINGOUIN] = lambda: rm_anova(
            data=frame, dv="y", within="tokens", subject="id", correction=True, detailed=True
        )
    if importlib.util.find_spec("mne"):
        f_mway_rm = importlib.import_module("mne.stats").f_mway_rm
        calls["mne f_mway_rm"] = lambda: f_mway_rm(values[:, :, None], [k], effects="A", correction=True)
    return calls


def compare(size: tuple[int, int]) -> dict[str, float]:
    """Time all tools at one size.

    Args:
        size: Subjects, levels.

    Returns:
        Seconds by name of the tool.
    """
    values = np.random.default_rng(1).normal(size=size) + np.arange(size[1])
    return shortest(tools(values), 2.0 if size[0] <= 20_000 else 6.0)


def speed_targets(found: Mapping[tuple[int, int], Mapping[str, float]]) -> list[Target]:
    """Hold the kernel's figures against what the issue asks for."""
    targets = []
    for (n, k), times in found.items():
        limit = {50: 0.3, 1_000_000: 20.0}.get(n)
        if limit is not None:
            targets.append(Target(f"kernel at {n:,} x {k}", 1e3 * times[KERNEL], limit, " ms"))
        if n >= 1_000:
            ratio = times[PINGOUIN] / times[KERNEL] if PINGOUIN in times else None
            targets.append(Target(f"pingouin over kernel at {n:,} x {k}", ratio, 30.0, "x", at_least=True))
    return targets


def process_targets() -> list[Target]:
    """Time what starts with a new process, and the full battery."""
    bare = run_process("-c", "pass")
    modules = ("rayscale.analysis", "rayscale.analysis.run")
    return [
        Target("full battery at 50 x 3", 1e3 * full_battery_s(), 50.0, " ms"),
        *(run_process("-c", f"import {name}").target(f"import {name}", 0.5, bare) for name in modules),
        cold_analyze().target("rayscale analyze, 150 trials, cold", 3.0),
    ]


def full_battery_s() -> float:
    """Time the whole analysis of a 50 x 3 table. Units: s."""
    from rayscale.analysis.run import AnalysisRequest, analyze_frame

    frame = long_frame(np.random.default_rng(2).normal(10.0, 1.0, size=(50, 3)) + np.arange(3))
    request = AnalysisRequest(dv=("y",), within=("tokens",), subject="id")
    return shortest({"battery": lambda: analyze_frame(frame, request)}, 1.0)["battery"]


@dataclass(frozen=True)
class Process:
    """What a new Python process took, start of the interpreter included; the shortest of three.

    Attributes:
        wall: Time by the clock. Units: s.
        cpu: Time on a processor, which tells how much of the former is other programs'. Units: s.
    """

    wall: float
    cpu: float

    def target(self, name: str, limit: float, bare: Process | None = None) -> Target:
        """Hold it against a limit, less what a bare interpreter takes."""
        wall, cpu = (self.wall - bare.wall, self.cpu - bare.cpu) if bare else (self.wall, self.cpu)
        return Target(f"{name} (on the processor {cpu:.2f} s)", wall, limit, " s")


def run_process(*arguments: str) -> Process:
    """Time a new Python process."""
    found = []
    for _ in range(3):
        start, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        found.append(Process(wall, cpu))
    return min(found, key=lambda process: process.wall)


def cold_analyze() -> Process:
    """Time `rayscale analyze` of a made-up ledger of 150 trials."""
    sys.path.insert(0, str(ROOT / "tests"))
    ledgers = importlib.import_module("ledgers")
    with tempfile.TemporaryDirectory() as directory:
        ledger = ledgers.make_ledger(Path(directory), repetitions=50)
        return run_process("-m", "rayscale.cli", "analyze", str(ledger.root))


# -- what the stop rule saves ------------------------------------------------------------------------------------------


def stop_shares(F: float, spending: str, sweeps: int = 2_000) -> tuple[float, float]:  # noqa: N803
    """Simulate sweeps with the effect of a published F(2, 98) under a stop rule.

    Args:
        F: Published F of 50 repetitions x 3 levels; the effect is freed of what noise adds, (F - 1) df1 / n per block.
        spending: The spending function.
        sweeps: Simulated sweeps.

    Returns:
        Mean repetitions run, and the share of sweeps that found the effect.
    """
    rng = np.random.default_rng(2601)
    means = np.array([-1.0, 0.0, 1.0]) * math.sqrt((F - 1) * 2 / 50 / 2)
    y = rng.normal(size=(sweeps, 50, 3)) + means
    nominal = [boundary.nominal for boundary in boundaries_of([n / 50 for n in AFTER], 0.05, spending, 2)]
    used, found = [], 0
    for sweep in y:
        stop = next((n for n, limit in zip(AFTER, nominal, strict=True) if _p(sweep[:n]) <= limit), None)
        used.append(stop or AFTER[-1])
        found += stop is not None
    return float(np.mean(used)), found / sweeps


def _p(values: FloatArray) -> float:
    return anova(values, [3], ["tokens"]).effects[0].p_GG


def print_speed(sizes: tuple[tuple[int, int], ...]) -> bool:
    """Print the comparison and the targets as Markdown; return whether no target is missed."""
    print(f"\n| subjects x levels [ms] | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    found = {}
    for n, k in sizes:
        times = found[n, k] = compare((n, k))
        cells = (f"{1e3 * times[name]:.3g}" if name in times else "-" for name in COLUMNS)
        print(f"| {n:,} x {k} | {' | '.join(cells)} |", flush=True)
    targets = [*speed_targets(found), *process_targets()]
    print("\n| | measured | target | |\n|---|---|---|---|")
    print("\n".join(target.row() for target in targets), flush=True)
    return all(target.met is not False for target in targets)


def print_stop_rule(sweeps: int) -> None:
    """Print what the stop rule saves at published effects."""
    for published, spending in itertools.product((24268.23, 77.3166, 8.0, 4.0), SPENDING):
        used, found = stop_shares(published, spending, sweeps)
        print(
            f"stop rule, F(2,98) = {published}, {spending}: {used:.1f} of 50 repetitions, effect found in {found:.1%}"
        )


def main() -> int:
    """Print everything as Markdown; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the small sizes, fewer simulated sweeps")
    parser.add_argument("--rivals", type=Path, help="site-packages folder that has pingouin and mne")
    options = parser.parse_args()
    if options.rivals:
        sys.path.append(str(options.rivals))
    warnings.simplefilter("ignore")  # the rivals' own, about their dependencies
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{date.today()}, {cpu_name()}, Python {sys.version.split()[0]}, numpy {np.__version__}, load {load}")
    met = print_speed(SIZES[:2] if options.quick else SIZES)
    print_stop_rule(200 if options.quick else 2_000)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
