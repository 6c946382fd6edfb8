"""The measured parts that made a trial's weights, where trials of a block share a trunk (`train.share_prefix`).

    500K   |== trunk ==|- own -|
    1M                 |==== trunk ====|-- own --|
    2M                                 |====== trunk ======|---- own ----|

The weights of the 1M trial were made by the first trunk, the second and its own decay: three measured parts, the first
of them by another trial. Its row in the table holds their sum, as a trial that shares nothing would have spent it, and
beside it what was run here. Sums over rows count a trunk once for every budget that grew from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Segment(BaseModel):
    """A part of the training that made a trial's weights, measured where it ran. Units: J, W, s."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="ignore")

    trial_key: str
    """The trial that ran it."""
    first_token: int
    """Targets trained before it."""
    last_token: int
    """Targets trained when it ended."""
    duration_s: float
    energy_j: float | None
    bound_j: float | None = None
    counter_j: float | None = None
    integral_j: float | None = None
    instant_j: float | None = None
    rms_w: float | None = None
    idle_w: float | None = None
    """The idle power that its trial subtracts."""
    samples: int = 0
    coverage: float = 0.0

    @property
    def tokens(self) -> int:
        """Targets trained in it."""
        return self.last_token - self.first_token


class Sharing(BaseModel):
    """How a trial shared the trunk of its block."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="ignore")

    segments: list[Segment]
    """In the order of training, from the first target to the last."""
    segment_tokens: int
    """Targets trained by this trial itself."""
    note: str | None = None
    """Why it began at step 0, where a smaller budget was before it."""

    @property
    def run_share(self) -> float:
        """Share of the trial's targets that it trained itself."""
        return self.segment_tokens / self.segments[-1].last_token


def run_share(sharing: Sharing | None) -> float:
    """Tell the share of a trial's training that it ran itself: 1.0 where nothing is shared."""
    return sharing.run_share if sharing else 1.0


def with_sharing(row: dict[str, Any], sharing: Sharing | None) -> dict[str, Any]:
    """Put the sums over all parts in a trial's row, and beside them what it ran itself.

    Args:
        row: The row of what was run.
        sharing: The parts; None: the trial ran all of its training.

    Returns:
        The row with `shared_prefix`, `segment_tokens`, `segment_s`, `segment_energy_j`. Power, coverage and speeds are
        those over all parts; times and energies that any part lacks are None.
    """
    run = {
        "shared_prefix": sharing is not None,
        "segment_tokens": row["trained_tokens"] if sharing is None else sharing.segment_tokens,
        "segment_s": row["duration_s"],
        "segment_energy_j": row["energy_j"],
    }
    if sharing is None:
        return row | run
    parts = sharing.segments
    duration = math.fsum(part.duration_s for part in parts)
    whole = {
        "duration_s": duration,
        "tokens_per_s": row["trained_tokens"] / duration if duration > 0 else None,
        # the row counts the FLOPs of all parts, but the time of its own
        "mfu": row["mfu"] * row["duration_s"] / duration if row["mfu"] is not None and duration > 0 else None,
    }
    return row | run | whole | _energy(parts, duration)


def _energy(parts: Sequence[Segment], duration: float) -> dict[str, Any]:
    """Add up what the parts took; bounds add up too, since a card's class is the same in all of them."""
    energy = _sum([part.energy_j for part in parts])
    integral = _sum([part.integral_j for part in parts])
    idle = _sum([None if part.idle_w is None else part.idle_w * part.duration_s for part in parts])
    square = _sum([None if part.rms_w is None else part.rms_w**2 * part.duration_s for part in parts])
    power = integral if integral is not None else _sum([part.counter_j for part in parts])
    return {
        "energy_j": energy,
        "energy_bound_j": _sum([part.bound_j for part in parts]),
        "net_energy_j": None if energy is None or idle is None else energy - idle,
        "energy_counter_j": _sum([part.counter_j for part in parts]),
        "energy_integral_j": integral,
        "energy_instant_j": _sum([part.instant_j for part in parts]),
        "power_mean_w": power / duration if power is not None and duration > 0 else None,
        "power_rms_w": math.sqrt(square / duration) if square is not None and duration > 0 else None,
        "power_samples": sum(part.samples for part in parts),
        "coverage": math.fsum(part.coverage * part.duration_s for part in parts) / duration if duration > 0 else 0.0,
    }


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None
