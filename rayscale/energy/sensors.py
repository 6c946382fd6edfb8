"""What the power numbers of an NVIDIA GPU are: how often they change, over which window, how far they trail.

    P(t)      ____████████________        true power
    window        |<- w ->|               a value is the mean of the last `window_s` ...
    value         .....VVVVV.....         ... published every `update_s`: read at t it speaks of t - (u + w)/2

Measured for 12 generations by Yang, Adamek and Armour, "Accurate and Convenient Energy Measurements for GPUs" (SC'24,
doi 10.1109/SC41406.2024.00028; their artefact's Overall_Results). A window shorter than the update period looks only
part of the time: a load in step with it is seen wrongly, however long one measures (see `resonance`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

ACCURACY = 0.05
"""Steady error against physical meters in SC'24: -6.4 % to -0.3 % for most cards, constant per card."""

_PASCAL, _VOLTA, _AMPERE, _ADA = 4, 5, 7, 8
_NAMES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper"}
_NAMES |= {10: "Blackwell"}


@dataclass(frozen=True)
class SensorWindow:
    """One power quantity. Units: s.

    Attributes:
        update_s: Time between two new values.
        window_s: Time over which a value averages.
    """

    update_s: float
    window_s: float

    @property
    def lag_s(self) -> float:
        """Mean time from the middle of the window to a read at a random time. Units: s."""
        return (self.update_s + self.window_s) / 2

    @property
    def part_time(self) -> bool:
        """Whether some of the time is in no window at all."""
        return self.window_s < self.update_s

    def __str__(self) -> str:
        return f"{1000 * self.window_s:g} ms window every {1000 * self.update_s:g} ms"


@dataclass(frozen=True)
class Sensors:
    """What a reader says of its sensors, for the trace.

    Attributes:
        power: The primary power.
        instant: The instantaneous power.
        lag_s: How far the primary power trails, in s, where somebody stated it.
        accuracy: Relative accuracy class; None = unknown.
    """

    power: SensorWindow | None = None
    instant: SensorWindow | None = None
    lag_s: float | None = None
    accuracy: float | None = None

    def meta(self) -> dict[str, Any]:
        """Give the fields of a `TraceMeta`."""
        return {"power": self.power, "instant": self.instant, "lag_s": self.lag_s, "accuracy": self.accuracy}


NO_SENSORS = Sensors()
"""For readers whose values are what they say."""

_SECOND = SensorWindow(0.1, 1.0)
_FULL = SensorWindow(0.1, 0.1)
_QUARTER = SensorWindow(0.1, 0.025)
_OLD = SensorWindow(0.02, 0.01)


def architecture_name(architecture: int | None) -> str:
    """Name an NVML architecture number."""
    return _NAMES.get(architecture or 0, "unknown architecture")


def average_window() -> SensorWindow:
    """Describe field 185: a 1-s average wherever it exists (NVML documentation)."""
    return _SECOND


def instant_window(architecture: int | None, name: str) -> SensorWindow:
    """Describe field 186.

    Args:
        architecture: NVML's number; None = unknown.
        name: Product name.

    Returns:
        The window; newer and unknown architectures are taken to be like Hopper.
    """
    if architecture is None or architecture > _ADA or is_ga100(architecture, name):
        return _QUARTER
    return _OLD if architecture in (_PASCAL, _VOLTA) else _FULL


def usage_window(architecture: int | None, name: str) -> SensorWindow:
    """Describe `nvmlDeviceGetPowerUsage`: a 1-s average on Ampere (except GA100) and newer, else instantaneous.

    Args:
        architecture: NVML's number; None = unknown.
        name: Product name.

    Returns:
        The window.
    """
    new = architecture is None or architecture >= _AMPERE
    return _SECOND if new and not is_ga100(architecture, name) else instant_window(architecture, name)


def is_ga100(architecture: int | None, name: str) -> bool:
    """Tell whether a GPU is built on GA100 (A100, A800, A30), whose sensor differs from the rest of Ampere."""
    return architecture == _AMPERE and re.search(r"\bA(100|800|30)(?!\d)", name) is not None
