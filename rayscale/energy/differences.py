"""What the two counter-only sources (RAPL, estimate) share: power as difference quotient, and the CPU's name."""

from __future__ import annotations

from pathlib import Path


class DifferenceQuotient:
    """Mean power since the previous successful poll of a cumulative counter."""

    def __init__(self) -> None:
        """Start without a previous poll."""
        self._previous: tuple[float, float] | None = None

    def power(self, t: float, energy_j: float | None) -> float | None:
        """Divide the counter's growth by the time it took.

        Args:
            t: Time of the poll, in s.
            energy_j: The counter, in J; None if the poll failed.

        Returns:
            W over the interval *before* `t`; None at the first poll, after a failure of this one, or if the counter
            fell.
        """
        if energy_j is None:
            return None
        previous, self._previous = self._previous, (t, energy_j)
        if previous is None or t <= previous[0] or energy_j < previous[1]:
            return None
        return (energy_j - previous[1]) / (t - previous[0])


def blind_spot(device_uuid: str | None) -> str:
    """Name what a CPU source leaves out when the trial runs on a GPU.

    Args:
        device_uuid: The device that trains.

    Returns:
        Words to append to the method; empty for a CPU.
    """
    on_gpu = device_uuid is not None and device_uuid.startswith("GPU-")
    return f"; CPU side only, {device_uuid} is not measured" if on_gpu else ""


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Read the CPU's model name.

    Args:
        cpuinfo: The kernel's description of the CPUs.

    Returns:
        The name, None where the kernel does not tell.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, None)
