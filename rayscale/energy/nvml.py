"""Power of one NVIDIA GPU through NVML (module `pynvml` of nvidia-ml-py), addressed by UUID.

    every poll           averaged power (field 185, else nvmlDeviceGetPowerUsage), instantaneous power (field 186)
    once per second      energy counter (83), time throttled by power (74) and heat (75), temperature, clocks,
    and at edges         event reasons, power limit, clock policy
    every 5 s, at edges  compute processes (with those since the last look), memory errors
    at edges of `train`  the counter's tick (see `ticks`)

Every entry of a field query has its own return code and time stamp; an entry that failed, or is 5 s old, is None and
named in `Reading.fault`. Power and energy are those of the GPU; only where that scope tells none of them, those of the
whole module (Grace Hopper: with its CPU). What the numbers mean on which architecture is in `sensors`. The counter is
read slowly because polling it at 10 Hz makes some consumer cards undercount (by 13 % in HotCarbon'26, Dauner et al.);
the process list is read still more slowly because it holds the driver's lock for milliseconds (MangoHud PR 2104).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rayscale.energy.backfill import DriverSample
from rayscale.energy.devices import refuse_mig, text
from rayscale.energy.nvml_calls import FieldId, NvmlCalls, open_calls
from rayscale.energy.reader import Reading, Source, missing_reading
from rayscale.energy.sensors import (
    ACCURACY,
    Sensors,
    architecture_name,
    average_window,
    instant_window,
    usage_window,
)
from rayscale.energy.tenants import Tenants
from rayscale.energy.ticks import follow_ticks
from rayscale.errors import EnvironmentUnusableError

COUNTER_RESOLUTION_S = 0.1
"""Update period of the energy counter (zeus documentation; SC'24 artefact measures 99-104 ms on H100 and A100)."""
RARE_PERIOD_S = 5.0
"""Shortest time between two reads of the process list: 0.2 Hz."""
REOPEN_PERIOD_S = 1.0
MAX_CLOCK_STEP_S = 0.02
"""Largest change of the wall clock against CLOCK_MONOTONIC at which the driver's stamps are still believed."""
IMPLAUSIBLE_LIMITS = 3.0
"""A power of more than this many power limits is a broken read, not a load."""

_FAST = ("averaged power", "instantaneous power")
_AVERAGE, _INSTANT = _FAST
_ENERGY, _POWER_TIME, _HEAT_TIME = "cumulative energy", "power violation time", "thermal violation time"
_USAGE = "power usage"
_DRAWN = {_AVERAGE, _INSTANT, _ENERGY}
_NOT_READ = dict.fromkeys(("energy_j", "temperature_c", "sm_clock_mhz", "throttle"))
_GPU, _MODULE = "scope GPU", "scope MODULE (the GPU is not told apart from the CPU and memory beside it)"


class NvmlReader:
    """Reads one GPU."""

    source: Source = "nvml"
    estimated = False
    counter_resolution_s = COUNTER_RESOLUTION_S

    def __init__(
        self,
        device_uuid: str,
        *,
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
        slow_period_s: float = 1.0,
        pid: int | None = None,
        departed: bool = True,
        lag_s: float | None = None,
        accuracy: float = ACCURACY,
    ) -> None:
        """Open the GPU and find out what it can be asked.

        Args:
            device_uuid: `GPU-...`.
            nvml: The binding; None imports `pynvml`.
            clock: CLOCK_MONOTONIC in s.
            sleep: Waits some s.
            wall: Wall clock in s since 1970, with which the driver stamps its own samples.
            slow_period_s: Shortest time between two reads of the counter and the slow values, in s.
            pid: The trial's process; without it nobody can tell foreign processes from it.
            departed: Whether an unknown process that computed and has ended counts as foreign.
            lag_s: How far averaged power trails, in s; None takes the documented window.
            accuracy: Relative accuracy class of the power sensor.

        Raises:
            EnvironmentUnusableError: If there is no such GPU, it is in MIG mode, or it tells neither power nor energy.
        """
        self.device_uuid: str | None = device_uuid
        self._clock, self._sleep, self._wall = clock, sleep, wall
        self._tenants = Tenants(pid, departed=departed)
        self._recent_us = int(1e6 * wall())
        self._offsets: tuple[float | None, float | None] = (None, None)
        self._slow_period_s = slow_period_s
        self._slow_due = self._rare_due = self._reopen_due = -float("inf")
        self._limit_w: float | None = None
        self._open = self._opened(nvml, device_uuid, wall)
        try:
            self._learn(device_uuid, lag_s, accuracy)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _opened(nvml: Any, uuid: str, wall: Callable[[], float]) -> NvmlCalls:
        try:
            calls = open_calls(nvml, uuid, wall)
        except EnvironmentUnusableError:
            raise
        except Exception as error:  # the binding's error class is only known once it is loaded
            raise EnvironmentUnusableError(f"{uuid}: cannot be opened by NVML: {error}") from None
        if calls is None:
            raise EnvironmentUnusableError(f"{uuid}: no NVIDIA driver on this machine (NVML not found)")
        return calls

    def _learn(self, uuid: str, lag_s: float | None, accuracy: float) -> None:
        calls = self._open
        nvml = calls.nvml
        refuse_mig(nvml, calls.handle, uuid)
        try:
            self.device_name: str | None = text(nvml.nvmlDeviceGetName(calls.handle))
            driver = text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError as error:
            raise EnvironmentUnusableError(f"{uuid}: cannot be opened by NVML: {error}") from None
        self._probe(uuid)
        architecture = calls.call("architecture", "nvmlDeviceGetArchitecture")
        name = self.device_name or ""
        primary = average_window() if _AVERAGE in self._fields else usage_window(architecture, name)
        instant = instant_window(architecture, name)
        has_power = _AVERAGE in self._fields or self._can(_USAGE)
        self.sensors = Sensors(primary if has_power else instant, instant, lag_s, accuracy)
        self.method = self._describe(driver, architecture)
        calls.take_faults()

    # -- what the GPU can be asked ------------------------------------------------------------------------------------

    def _probe(self, uuid: str) -> None:
        """Ask once for everything; poll afterwards only what was answered."""
        nvml, calls = self._open.nvml, self._open
        wanted = {
            _AVERAGE: nvml.NVML_FI_DEV_POWER_AVERAGE,
            _INSTANT: nvml.NVML_FI_DEV_POWER_INSTANT,
            _ENERGY: nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
            _POWER_TIME: nvml.NVML_FI_DEV_PERF_POLICY_POWER,
            _HEAT_TIME: nvml.NVML_FI_DEV_PERF_POLICY_THERMAL,
        }
        self._fields: dict[str, FieldId] = self._answered(wanted)
        self._calls = {what: call for what, call in self._candidates().items() if self._ask(what, call) is not None}
        self._whole_module = not self._tells_energy() and self._take_module(wanted)
        calls.expect_fresh((_AVERAGE, _INSTANT, _ENERGY))
        self._quick = {what: field for what, field in self._fields.items() if what in _FAST}
        missing = calls.take_faults()
        fallbacks = {_USAGE: _AVERAGE, _ENERGY: _ENERGY, "temperature (old call)": "temperature"}
        for spare, better in fallbacks.items():
            if better in self._fields or (better != spare and better in self._calls):
                self._calls.pop(spare, None)
        self._missing = self._missed(missing)
        if not self._tells_energy():
            raise EnvironmentUnusableError(f"{uuid} ({self.device_name}) tells neither power nor energy through NVML")

    def _answered(self, wanted: Mapping[str, FieldId]) -> dict[str, FieldId]:
        answers = self._open.fields(wanted)
        return {what: field for what, field in wanted.items() if answers[what] is not None}

    def _tells_energy(self) -> bool:
        return bool(_DRAWN & self._fields.keys() or {_USAGE, _ENERGY} & self._calls.keys())

    def _take_module(self, wanted: Mapping[str, int]) -> bool:
        """Ask for the whole module instead of the GPU: all or nothing, since two scopes cannot check each other.

        Returns:
            Whether it tells power or energy.
        """
        scope = getattr(self._open.nvml, "NVML_POWER_SCOPE_MODULE", None)
        if scope is not None:
            self._fields |= self._answered({what: (wanted[what], scope) for what in wanted if what in _DRAWN})
        return self._tells_energy()

    def _missed(self, faults: str | None) -> list[str]:
        """Keep what nothing else replaced: quantities that this GPU, driver or binding does not offer, with the error.

        Args:
            faults: What failed in the probe.
        """
        there = {what.removesuffix(" (old call)") for what in (*self._fields, *self._calls)}
        there |= {_AVERAGE} if _USAGE in there else {_USAGE}
        found = dict(fault.split(": ", 1) for fault in (faults or "").split("; ") if fault)
        return [f"{what} ({why})" for what, why in found.items() if what.removesuffix(" (old call)") not in there]

    def _candidates(self) -> dict[str, tuple[Any, ...]]:
        nvml = self._open.nvml
        return {
            _USAGE: ("nvmlDeviceGetPowerUsage",),
            _ENERGY: ("nvmlDeviceGetTotalEnergyConsumption",),
            "temperature": ("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU),
            "temperature (old call)": ("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "SM clock": ("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "memory clock": ("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            "clock policy": ("nvmlDeviceGetApplicationsClock", nvml.NVML_CLOCK_SM),
            "power limit": ("nvmlDeviceGetEnforcedPowerLimit",),
            "event reasons": ("nvmlDeviceGetCurrentClocksEventReasons",),
            "memory errors": (
                "nvmlDeviceGetTotalEccErrors",
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
            "processes": ("nvmlDeviceGetComputeRunningProcesses",),
        }

    def _ask(self, what: str, call: tuple[Any, ...]) -> Any | None:
        return self._open.call(what, *call)

    def _can(self, what: str) -> bool:
        return what in self._calls

    def _get(self, what: str) -> Any | None:
        return self._ask(what, self._calls[what]) if what in self._calls else None

    def _describe(self, driver: str, architecture: int | None) -> str:
        counter = "field 83" if _ENERGY in self._fields else "nvmlDeviceGetTotalEnergyConsumption"
        parts = {
            f"energy counter ({counter})": _ENERGY in self._fields or self._can(_ENERGY),
            f"averaged power (field 185, {self.sensors.power})": _AVERAGE in self._fields,
            f"power by nvmlDeviceGetPowerUsage ({self.sensors.power})": self._can(_USAGE),
            f"instantaneous power (field 186, {self.sensors.instant})": _INSTANT in self._fields,
        }
        lag = self.sensors.lag_s if self.sensors.lag_s is not None else self.sensors.power and self.sensors.power.lag_s
        scope = _MODULE if self._whole_module else _GPU
        facts = [f"lag {lag:g} s corrected", scope, architecture_name(architecture), f"driver {driver}"]
        if driver.startswith("530."):
            facts.append("on driver 530 power has another meaning (SC'24)")
        if self._open.recent_processes(self._recent_us) is None:
            facts.append("co-tenants of under 5 s are not seen")
        mode = self._open.call("persistence", "nvmlDeviceGetPersistenceMode")
        facts += [] if mode is None else [f"persistence mode {'on' if mode else 'off'}"]
        facts += [f"not offered: {', '.join(self._missing)}"] if self._missing else []
        return f"NVML {', '.join(name for name, there in parts.items() if there)}; {'; '.join(facts)}"

    # -- polls --------------------------------------------------------------------------------------------------------

    def read(self) -> Reading:
        """Poll power; once per `slow_period_s` also what changes slowly.

        Returns:
            The reading; what failed is None and named in `fault`.
        """
        now = self._clock()
        return self._read(slow=now >= self._slow_due, rare=now >= self._rare_due)

    def read_edge(self) -> Reading:
        """Poll everything now, as the edge of a phase needs it.

        Returns:
            The reading; what failed is None and named in `fault`.
        """
        return self._read(slow=True, rare=True)

    def read_ticks(self, edge: Reading) -> list[Reading]:
        """Wait until the energy counter has grown twice.

        Args:
            edge: What `read_edge` just gave.

        Returns:
            One reading per tick, with the counter only; none where there is no counter, or it does not grow.
        """
        if edge.energy_j is None:
            return []
        ticks = follow_ticks(self._counter_j, (edge.t, edge.energy_j), clock=self._clock, sleep=self._sleep)
        self._open.take_faults()  # a failed read ends the wait; the regular polls tell of errors
        return [
            replace(missing_reading(tick.t, 2 * tick.slack_s), energy_j=tick.energy_j, counter_slack_s=tick.slack_s)
            for tick in ticks
        ]

    def driver_samples(self, since: float) -> list[DriverSample]:
        """Give the driver's own power samples, on this process's clock.

        Args:
            since: CLOCK_MONOTONIC in s.

        Returns:
            The samples after it; none where the driver keeps none, power is not polled, or the wall clock was set.
        """
        if self._whole_module or (_AVERAGE not in self._fields and not self._can(_USAGE)):
            return []  # they are the GPU's power
        before, offset = self._offsets[0], self._offset()
        if before is not None and abs(offset - before) > MAX_CLOCK_STEP_S:
            self._open.faults.append("driver samples: wall clock was set")
            return []
        found = self._open.power_samples(int(1e6 * (since + offset)))
        samples = [(us / 1e6 - offset, self._power("driver samples", milliwatts)) for us, milliwatts in found]
        return [DriverSample(t, watts) for t, watts in samples if watts is not None and t > since]

    def _offset(self) -> float:
        """How far the wall clock is ahead of CLOCK_MONOTONIC. Units: s."""
        begin = self._clock()
        return self._wall() - (begin + self._clock()) / 2

    def _counter_j(self) -> float | None:
        fields = self._open.fields({_ENERGY: self._fields[_ENERGY]} if _ENERGY in self._fields else {})
        return self._positive(_ENERGY, self._get(_ENERGY) if self._can(_ENERGY) else fields.get(_ENERGY))

    def _read(self, *, slow: bool, rare: bool) -> Reading:
        begin = self._clock()
        fields = self._open.fields(self._fields if slow else self._quick)
        average = self._get(_USAGE) if self._can(_USAGE) else fields.get(_AVERAGE)
        energy = fields.get(_ENERGY)
        if slow and self._can(_ENERGY):
            energy = self._get(_ENERGY)
        middle = (begin + self._clock()) / 2
        self._offsets = self._offsets[1], self._offset()
        values: dict[str, Any] = self._read_slow(fields, energy, begin) if slow else _NOT_READ
        values = values | self._read_rare(begin) if rare else values
        power, instant = self._power(_AVERAGE, average), self._power(_INSTANT, fields.get(_INSTANT))
        if self._open.handle_lost and begin >= self._reopen_due:
            self._reopen_due = begin + REOPEN_PERIOD_S
            self._open.reopen()
        return Reading(
            t=middle,
            power_w=power,
            instant_w=instant,
            latency_s=self._clock() - begin,
            fault=self._open.take_faults(),
            **values,
        )

    def _read_slow(self, fields: dict[str, float | None], energy: float | None, begin: float) -> dict[str, Any]:
        self._slow_due = begin + self._slow_period_s
        temperature = self._get("temperature") if self._can("temperature") else self._get("temperature (old call)")
        self._limit_w = _milli(self._get("power limit"))
        return {
            "energy_j": self._positive(_ENERGY, energy),
            "temperature_c": _number(temperature),
            "sm_clock_mhz": _number(self._get("SM clock")),
            "mem_clock_mhz": _number(self._get("memory clock")),
            "clock_policy_mhz": _number(self._get("clock policy")),
            "power_limit_w": self._limit_w,
            "power_violation_s": _nano(fields.get(_POWER_TIME)),
            "thermal_violation_s": _nano(fields.get(_HEAT_TIME)),
            "throttle": self._open.throttle() if self._can("event reasons") else None,
        }

    def _read_rare(self, begin: float) -> dict[str, Any]:
        self._rare_due = begin + RARE_PERIOD_S
        processes = self._get("processes")
        others = None
        if processes is not None:
            recent, self._recent_us = self._open.recent_processes(self._recent_us) or ((), self._recent_us)
            others = self._tenants.foreign([int(one.pid) for one in processes], recent)
        return {"others": others, "ecc_errors": _number(self._get("memory errors"))}

    def _positive(self, what: str, value: float | None) -> float | None:
        """From mW or mJ to W or J. A GPU that answers at all draws power: 0 is a failed read, not a measurement."""
        if value is not None and value <= 0:
            self._open.faults.append(f"{what}: value {value:g}")
            return None
        return _milli(value)

    def _power(self, what: str, value: float | None) -> float | None:
        watts = self._positive(what, value)
        if watts is not None and self._limit_w is not None and watts > IMPLAUSIBLE_LIMITS * self._limit_w:
            self._open.faults.append(f"{what}: implausible {watts:.4g} W")
            return None
        return watts

    def close(self) -> None:
        """Let NVML go."""
        nvml, self._open.nvml = self._open.nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):  # a driver that went away has nothing left to close
                nvml.nvmlShutdown()


def _number(value: Any | None) -> float | None:
    return None if value is None else float(value)


def _milli(value: Any | None) -> float | None:
    return None if value is None else value / 1000


def _nano(value: float | None) -> float | None:
    return None if value is None else value / 1e9
