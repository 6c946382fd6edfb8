"""Package and memory energy of Intel and AMD CPUs from the kernel's powercap files (RAPL).

    intel-rapl:0           name package-0    counted
    intel-rapl:0:0         name core         part of the package: not added
    intel-rapl:0:1         name dram         beside the package: counted
    intel-rapl:1           name psys         the whole platform, packages included: not added
    intel-rapl-mmio:0      name package-0    the same package by another register: not added

Each zone has a counter in microjoules that wraps at `max_energy_range_uj`; at 200 W that is about 20 minutes, so one
wrap between two polls is the most that can happen and is undone here, zone by zone. The zones cover the whole machine:
what other processes draw is in the number, and the method says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rayscale.energy.differences import DifferenceQuotient, blind_spot, cpu_name
from rayscale.energy.reader import Reading, Source
from rayscale.errors import EnvironmentUnusableError

POWERCAP = Path("/sys/class/powercap")
_LONGEST = 32
"""More bytes than a counter has digits."""


def package_zones(root: Path = POWERCAP) -> list[Path]:
    """List the package zones (`intel-rapl:N`, also on AMD), not their subzones and not the mmio duplicates.

    Args:
        root: The powercap directory.

    Returns:
        Zone directories, sorted.
    """
    zones = [zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1]
    return sorted(zone for zone in zones if _zone_name(zone).startswith("package"))


def dram_zones(root: Path = POWERCAP) -> list[Path]:
    """List the memory zones (`intel-rapl:N:M` named `dram`) of the packages; servers have them, most others do not.

    Args:
        root: The powercap directory.

    Returns:
        Zone directories, sorted.
    """
    # subzones lie inside their zone, but the class directory links to all of them side by side
    subzones = (zone for package in package_zones(root) for zone in root.glob(f"{package.name}:*"))
    return sorted(zone for zone in subzones if _zone_name(zone) == "dram")


def _zone_name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


def rapl_problem(root: Path = POWERCAP) -> str | None:
    """Say why RAPL cannot be read.

    Args:
        root: The powercap directory.

    Returns:
        One sentence, or None when it can be read.
    """
    zones = package_zones(root)
    if not zones:
        return f"no package zone under {root} (virtual machine, other CPU, or module intel_rapl_common not loaded)"
    for zone in [*zones, *dram_zones(root)]:
        try:
            _microjoules(zone / "energy_uj")
        except PermissionError:
            return (
                f"{zone / 'energy_uj'} is readable by root only (the kernel's guard against power side channels, "
                f"CVE-2020-8694); an administrator can allow it until the next boot: chmod -R a+r {root}/intel-rapl:*"
            )
        except (OSError, ValueError) as error:
            return f"{zone / 'energy_uj'}: {error}"
    return None


def _microjoules(file: Path) -> int:
    return int(file.read_text())


class RaplReader:
    """Reads the sum of all CPU packages and their memory."""

    source: Source = "rapl"
    estimated = False
    counter_resolution_s = 0.001
    """RAPL advances about every millisecond (Intel SDM volume 3, section 16.10)."""

    def __init__(
        self, root: Path = POWERCAP, *, device_uuid: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open all package and memory zones.

        Args:
            root: The powercap directory.
            device_uuid: Label of the CPU.
            clock: CLOCK_MONOTONIC in s.

        Raises:
            EnvironmentUnusableError: If they cannot be read.
        """
        problem = rapl_problem(root)
        if problem:
            raise EnvironmentUnusableError(problem)
        self.device_uuid = device_uuid
        self.device_name = cpu_name()
        self._clock = clock
        packages, memory = package_zones(root), dram_zones(root)
        zones = [*packages, *memory]
        files = [zone / "energy_uj" for zone in zones]
        self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in zones]
        self._open = [os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in files]
        self._last = [int(os.pread(one, _LONGEST, 0)) for one in self._open]
        self._total_uj = sum(self._last)
        self._quotient = DifferenceQuotient()
        dram = f"{len(memory)} dram zone(s)" if memory else "no dram zone: memory is not counted"
        self.method = f"RAPL energy, {len(packages)} package(s), {dram}; whole machine (other processes included)"
        self.method += blind_spot(device_uuid)

    def read(self) -> Reading:
        """Read the counters and undo wraps.

        Returns:
            The reading; without values while a zone cannot be read.
        """
        begin = self._clock()
        try:
            now = [int(os.pread(one, _LONGEST, 0)) for one in self._open]
        except (OSError, ValueError):
            now = None
        end = self._clock()
        energy = self._advance(now) if now is not None else None
        middle = (begin + end) / 2
        power = self._quotient.power(middle, energy)
        return Reading(middle, power, None, energy, None, None, None, self._clock() - begin)

    def _advance(self, now: list[int]) -> float:
        for new, old, limit in zip(now, self._last, self._ranges, strict=True):
            self._total_uj += new - old if new >= old else new - old + limit
        self._last = now
        return self._total_uj / 1e6

    def close(self) -> None:
        """Let the files go."""
        while self._open:
            os.close(self._open.pop())
