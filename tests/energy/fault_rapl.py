"""Faults of the CPU's own counters: the real reader on made-up powercap files and a virtual clock."""

from __future__ import annotations

from pathlib import Path

from fake_nvml import Clock
from fault_bench import Outcome

from rayscale.energy.measure import energy_result
from rayscale.energy.quality import judge
from rayscale.energy.rapl import RaplReader
from rayscale.energy.trace import Trace, TraceMeta
from rayscale.errors import EnvironmentUnusableError
from rayscale.record import Phase
from rayscale.spec import EnergySpec

WATTS = {"intel-rapl:0": 100.0, "intel-rapl:0:0": 20.0}
NAMES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"}
RANGE_UJ = 700_000_000
TRAIN = (5.0, 25.0)


def rapl(directory: Path, *, offset_uj: int = 0, broken: tuple[float, float] = (0.0, 0.0)) -> Outcome:
    """Measure 20 s at 120 W.

    Args:
        directory: For the powercap files.
        offset_uj: Where the counters begin.
        broken: From, to: the memory's counter cannot be read.
    """
    clock = Clock(0.0)
    _write(directory, 0.0, offset_uj, broken)
    try:
        reader = RaplReader(directory, clock=clock)
    except EnvironmentUnusableError as error:
        return Outcome(refused=str(error))
    readings = []
    for index in range(300):
        clock.now = 0.1 * index
        _write(directory, clock.now, offset_uj, broken)
        readings.append(reader.read())
    trace = Trace.from_readings(readings, TraceMeta.of(reader, 0.1))
    spec, phases = EnergySpec(source="rapl"), [Phase(name="train", start=TRAIN[0], end=TRAIN[1])]
    result = energy_result(trace, phases, spec)
    truth = sum(WATTS.values()) * (TRAIN[1] - TRAIN[0])
    return Outcome(result, judge(trace, phases, result, spec, None), truth)


def _write(root: Path, now: float, offset_uj: int, broken: tuple[float, float]) -> None:
    for name, watts in WATTS.items():
        zone = root / name
        if not zone.exists():
            zone.mkdir()
            (zone / "name").write_text(NAMES[name])
            (zone / "max_energy_range_uj").write_text(str(RANGE_UJ))
        counted = (offset_uj + round(1e6 * watts * now)) % RANGE_UJ
        unreadable = name.count(":") == 2 and broken[0] <= now < broken[1]
        (zone / "energy_uj").write_text("" if unreadable else str(counted))
