"""Speed of the repeated-measures statistics beside statsmodels, pingouin and mne, and what the stop rule saves.

All tools see the same numbers in one process; each figure is the smallest of several runs, since other programs only
ever add time. The kernel is the accurate one (differences first, centred twice) with Greenhouse-Geisser, Huynh-Feldt,
Mauchly and Hotelling; mne's f_mway_rm gives F and p only. pingouin (GPL-3) and mne are no dependencies: they take part
where they are importable, e.g. from a throw-away environment. statsmodels' AnovaRM builds a dense design matrix, so it
is left out from 20,000 subjects on (80 GB).

    python -m benchmarks.statistics [--quick]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from rayscale.analysis.anova import anova
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.sequential import SPENDING, boundaries_of
from rayscale.environment import cpu_name

ROOT = Path(__file__).parent.parent
SIZES = ((50, 3), (1_000, 3), (20_000, 5), (1_000_000, 3))
AFTER = (10, 20, 30, 40, 50)


def best_of(work: Callable[[], object], budget_s: float = 2.0) -> float:
    """Return the smallest duration of a few runs.

    Args:
        work: What is timed; run once before.
        budget_s: Stop repeating after this long. Units: s.

    Returns:
        Seconds.
    """
    work()
    durations: list[float] = []
    begin = time.perf_counter()
    while len(durations) < 3 or (time.perf_counter() - begin < budget_s and len(durations) < 2000):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations)


def long_frame(values: FloatArray) -> Any:
    """Write subjects x levels as a long table."""
    import pandas as pd

    n, k = values.shape
    return pd.DataFrame({"id": np.repeat(np.arange(n), k), "tokens": np.tile(np.arange(k), n), "y": values.ravel()})


def rivals(values: FloatArray) -> dict[str, Callable[[], object] | None]:
    """Name the other tools with their call on the same data; None where a tool cannot serve the size."""
    frame = long_frame(values)
    calls: dict[str, Callable[[], object] | None] = {"statsmodels AnovaRM": None}
    if len(values) <= 1_000:
        from statsmodels.stats.anova import AnovaRM

        calls["statsmodels AnovaRM"] = lambda: AnovaRM(frame, "y", "id", within=["tokens"]).fit()
    if importlib.util.find_spec("pingouin"):
        rm_anova = importlib.import_module("pingouin").rm_anova
        calls["pingouin rm_anova"] = lambda: rm_anova(
            data=frame, dv="y", within="tokens", subject="id", correction=True, detailed=True
        )
    if importlib.util.find_spec("mne"):
        f_mway_rm = importlib.import_module("mne.stats").f_mway_rm
        calls["mne f_mway_rm"] = lambda: f_mway_rm(values[:, :, None], [values.shape[1]], effects="A", correction=True)
    return calls


def compare(sizes: tuple[tuple[int, int], ...]) -> list[str]:
    """Time all tools at all sizes.

    Args:
        sizes: Subjects x levels.

    Returns:
        Rows of a Markdown table. Units: ms.
    """
    rows = []
    for n, k in sizes:
        values = np.random.default_rng(1).normal(size=(n, k)) + np.arange(k)
        budget = 1.0 if n < 10_000 else 4.0
        cells = [f"{1e3 * best_of(lambda v=values, k=k: anova(v, [k], ['tokens']), budget):.3f}"]  # type: ignore[misc]
        for work in rivals(values).values():
            cells.append(f"{1e3 * best_of(work, 0.0 if n > 10_000 else 1.0):.2f}" if work else "-")
        rows.append(f"| {n:,} x {k} | " + " | ".join(cells) + " |")
    return rows


def full_battery_s() -> float:
    """Time the whole analysis of a 50 x 3 table. Units: s."""
    from rayscale.analysis.run import AnalysisRequest, analyze_frame

    frame = long_frame(np.random.default_rng(2).normal(10.0, 1.0, size=(50, 3)) + np.arange(3))
    request = AnalysisRequest(dv=("y",), within=("tokens",), subject="id")
    return best_of(lambda: analyze_frame(frame, request))


def process_s(*arguments: str, runs: int = 3) -> float:
    """Time a new Python process, start of the interpreter included. Units: s."""

    def call() -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)

    return min(best_of(call, 0.0) for _ in range(max(1, runs // 3)))


def cold_analyze_s() -> float:
    """Time `rayscale analyze` of a made-up ledger of 150 trials. Units: s."""
    sys.path.insert(0, str(ROOT / "tests"))
    ledgers = importlib.import_module("ledgers")
    with tempfile.TemporaryDirectory() as directory:
        ledger = ledgers.make_ledger(Path(directory), repetitions=50)
        return process_s("-m", "rayscale.cli", "analyze", str(ledger.root))


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


def main() -> None:
    """Print everything as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the small sizes, fewer simulated sweeps")
    quick = parser.parse_args().quick
    print(f"{date.today()}, {cpu_name()}, Python {sys.version.split()[0]}, numpy {np.__version__}")
    print("\n| subjects x levels [ms] | rayscale | " + " | ".join(rivals(np.zeros((2, 2)))) + " |")
    print("|" + "---|" * (2 + len(rivals(np.zeros((2, 2))))))
    print("\n".join(compare(SIZES[:2] if quick else SIZES)))
    print(f"\nfull battery at 50 x 3: {1e3 * full_battery_s():.1f} ms")
    bare = process_s("-c", "pass")
    for module in ("rayscale.analysis", "rayscale.analysis.run"):
        print(f"import {module}: {process_s('-c', f'import {module}') - bare:.3f} s")
    print(f"rayscale analyze, 150 trials, cold: {cold_analyze_s():.2f} s")
    for published, spending in itertools.product((24268.23, 77.3166, 8.0, 4.0), SPENDING):
        used, found = stop_shares(published, spending, 200 if quick else 2_000)
        print(
            f"stop rule, F(2,98) = {published}, {spending}: {used:.1f} of 50 repetitions, effect found in {found:.1%}"
        )


if __name__ == "__main__":
    main()
