"""Series of an attempt as metric points: power from `power.parquet`, loss and speed from `log.jsonl`.

At most 1000 points each: MLflow's pages read whole histories, and the raw trace lies beside them as an artifact.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rayscale.tracking.content import AttemptClock, Point

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MAX_POINTS = 1000
LOG_SERIES = {"loss": "loss", "tokens_per_s": "speed_tokens_per_s"}
"""Field of a progress line -> metric. The speed has a name of its own, since `tokens_per_s` is the trial's outcome."""


def power_points(parquet: bytes, clock: AttemptClock) -> list[Point]:
    """Thin out a power trace to the metric `power_w`; its step is milliseconds since the attempt's start.

    Args:
        parquet: Content of `power.parquet`: columns t (CLOCK_MONOTONIC, s) and power_w (W), perhaps instant_w.
        clock: Clock of the attempt.

    Returns:
        At most 1000 points; each is the mean of as many samples, so that peaks are damped but the energy is kept.
    """
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(parquet))
    for column in ("power_w", "instant_w"):
        if column in table.column_names:
            t = table["t"].to_numpy().astype(np.float64)
            power = table[column].to_numpy().astype(np.float64)
            known = np.isfinite(t) & np.isfinite(power)
            if known.any():
                t, power = thin(t[known], power[known])
                return [
                    Point("power_w", float(watts), clock.wall_ms(float(at)), clock.offset_ms(float(at)))
                    for at, watts in zip(t, power, strict=True)
                ]
    return []


def thin(t: Floats, values: Floats, most: int = MAX_POINTS) -> tuple[Floats, Floats]:
    """Average neighbouring samples until at most `most` are left.

    Args:
        t: Times.
        values: Values at these times.
        most: Largest number of points.

    Returns:
        Mean time and mean value of each group; groups differ in size by one at most.
    """
    import numpy as np

    if t.size <= most:
        return t, values
    edges = (np.arange(most) * t.size) // most
    sizes = np.diff(np.append(edges, t.size))
    return np.add.reduceat(t, edges) / sizes, np.add.reduceat(values, edges) / sizes


def progress_points(log: bytes, clock: AttemptClock) -> list[Point]:
    """Read the progress lines of an attempt as metrics over the optimiser's steps.

    Args:
        log: Content of `log.jsonl`; a torn last line is left out.
        clock: Clock of the attempt.

    Returns:
        Points of `loss` (nats per token) and `speed_tokens_per_s`, at most 1000 each; the last line is always kept.
    """
    lines = list(_step_lines(log))
    stride = math.ceil(len(lines) / MAX_POINTS) or 1
    kept = lines[::-1][::stride][::-1]
    return [
        Point(metric, float(line[field]), clock.wall_ms(line["t"]), int(line["step"]))
        for field, metric in LOG_SERIES.items()
        for line in kept
        if _is_number(line.get(field))
    ]


def _step_lines(log: bytes) -> Iterator[dict[str, Any]]:
    for text in log.decode("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        is_step = isinstance(line, dict) and line.get("event") == "step"
        if is_step and _is_number(line.get("t")) and _is_number(line.get("step")):
            yield line


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
