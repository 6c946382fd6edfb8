"""Hardware that a study can be priced for before it has run on it: peaks, board power, and what is assumed of them.

    rate = peak · MFU      busy power = board power · share      (each assumed low, typical and high, and shown)

Peaks are dense data-sheet rates (`training.peaks`); board powers are the data sheets' maxima. MFU and shares are no
properties of a card: published training runs lie in this range, small models lie below it. An earlier ledger on the
same hardware is always preferred (`pricing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rayscale.training.compiling import MFU_EAGER


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly: corners, not a confidence interval.

    Attributes:
        low: Smallest value reckoned with.
        typical: Value that is shown first.
        high: Largest value reckoned with.
    """

    low: float
    typical: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Range:
        """Make a range of no width."""
        return cls(value, value, value)

    def __add__(self, other: Range) -> Range:
        """Add corner by corner."""
        return Range(self.low + other.low, self.typical + other.typical, self.high + other.high)

    def __mul__(self, other: Range) -> Range:
        """Multiply corner by corner; both positive."""
        return Range(self.low * other.low, self.typical * other.typical, self.high * other.high)

    def times(self, factor: float) -> Range:
        """Scale all corners by a positive number."""
        return Range(self.low * factor, self.typical * factor, self.high * factor)

    def per(self, amount: float) -> Range:
        """Divide an amount by this rate: the highest rate gives the low corner."""
        return Range(amount / self.high, amount / self.typical, amount / self.low)


@dataclass(frozen=True)
class Hardware:
    """A device type.

    Attributes:
        key: Name on the command line.
        device: Name as the driver writes it; peaks are looked up by it.
        board_w: Maximum board power. Units: W.
        source: Where the figures come from.
    """

    key: str
    device: str
    board_w: float
    source: str


_ALL = (
    Hardware("a10g", "NVIDIA A10G", 300.0, "AWS G5 / NVIDIA A10G data sheet"),
    Hardware("a100", "NVIDIA A100-SXM4-80GB", 400.0, "NVIDIA A100 SXM data sheet"),
    Hardware("h100", "NVIDIA H100 80GB HBM3", 700.0, "NVIDIA H100 SXM data sheet"),
    Hardware("h200", "NVIDIA H200", 700.0, "NVIDIA H200 SXM data sheet"),
)

HARDWARE: Mapping[str, Hardware] = MappingProxyType({item.key: item for item in _ALL})
"""Known device types by key."""

ASSUMED_MFU = Range(0.15, MFU_EAGER, 0.50)
"""Model FLOP utilisation of training; an assumption. Published for large models: 0.21 to 0.46 (PaLM, table 3)."""
ASSUMED_BUSY = Range(0.60, 0.80, 1.00)
"""Power while training as a share of the board's maximum; an assumption."""
ASSUMED_IDLE = Range(0.08, 0.12, 0.20)
"""Power while idle with a context as a share of the board's maximum; an assumption."""
ASSUMED_LOAD_S = Range(2.0, 10.0, 60.0)
"""Time to load and build a model; an assumption. Units: s."""
