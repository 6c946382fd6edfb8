"""Power of one NVIDIA GPU through NVML (module `pynvml` of nvidia-ml-py), addressed by UUID.

What each number is (research/energy.md section 3):
- the *energy counter* (field 83, mJ since driver load, Volta and later) advances about every 100 ms;
- *averaged power* (field 185, or `nvmlDeviceGetPowerUsage` where that is missing) is a 1-s average on Ampere and later,
  except on GA100 (A100), where the plain call is a 25-ms window every 100 ms;
- *instantaneous power* (field 186) is a 25-ms window every 100 ms on Hopper.
Every entry of a field query has its own return code; an entry that failed is None. The counter and the slow values
(temperature, clock, throttling) are read once per second and at phase edges only: polling the counter at 10 Hz makes
some consumer cards undercount (by 13 % in HotCarbon'26, Dauner et al.), and the process-wide driver lock is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayscale.energy.devices import refuse_mig, start_nvml, text
from rayscale.energy.reader import Reading, Source
from rayscale.errors import EnvironmentUnusableError

_THROTTLE = ("SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
_VALUE_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
COUNTER_RESOLUTION_S = 0.1
"""Update period of the energy counter (zeus documentation; SC'24 artefact measures 99-104 ms on H100 and A100)."""


@dataclass(frozen=True)
class _Slow:
    energy_j: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    throttle: str | None = None


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
        slow_period_s: float = 1.0,
    ) -> None:
        """Open the GPU and find out what it can be asked.

        Args:
            device_uuid: `GPU-...`.
            nvml: The binding; None imports `pynvml`.
            clock: CLOCK_MONOTONIC in s.
            slow_period_s: Shortest time between two reads of the counter and the slow values, in s.

        Raises:
            EnvironmentUnusableError: If there is no such GPU, it is in MIG mode, or it tells neither power nor energy.
        """
        self._nvml: Any = start_nvml(nvml)
        if self._nvml is None:
            raise EnvironmentUnusableError(f"{device_uuid}: no NVIDIA driver on this machine (NVML not found)")
        self.device_uuid: str | None = device_uuid
        self._clock = clock
        self._slow_period_s = slow_period_s
        self._slow_due = -float("inf")
        try:
            self._open(device_uuid)
        except BaseException:
            self.close()
            raise

    def _open(self, uuid: str) -> None:
        nvml = self._nvml
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.device_name: str | None = text(nvml.nvmlDeviceGetName(self._handle))
            driver = text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError as error:
            raise EnvironmentUnusableError(f"{uuid}: cannot be opened by NVML: {error}") from None
        refuse_mig(nvml, self._handle, uuid)
        self._probe(uuid)
        self.method = self._describe(driver)

    # -- what the GPU can be asked ------------------------------------------------------------------------------------

    def _probe(self, uuid: str) -> None:
        """Ask once for everything; poll afterwards only what was answered."""
        nvml = self._nvml
        wanted = [
            nvml.NVML_FI_DEV_POWER_AVERAGE,
            nvml.NVML_FI_DEV_POWER_INSTANT,
            nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
        ]
        answers = self._fields(wanted)
        self._average = answers[0] is not None
        self._instant = answers[1] is not None
        self._counter_field = answers[2] is not None
        self._counter_call = not self._counter_field and self._call("nvmlDeviceGetTotalEnergyConsumption") is not None
        self._usage = not self._average and self._call("nvmlDeviceGetPowerUsage") is not None
        if not (self._average or self._usage or self._instant or self._counter_field or self._counter_call):
            raise EnvironmentUnusableError(f"{uuid} ({self.device_name}) tells neither power nor energy through NVML")

    def _describe(self, driver: str) -> str:
        counter = "field 83" if self._counter_field else "nvmlDeviceGetTotalEnergyConsumption"
        parts = {
            f"energy counter ({counter})": self._counter_field or self._counter_call,
            "averaged power (field 185)": self._average,
            "power by nvmlDeviceGetPowerUsage (window depends on architecture)": self._usage,
            "instantaneous power (field 186)": self._instant,
        }
        return f"NVML {', '.join(name for name, there in parts.items() if there)}; scope GPU; driver {driver}"

    # -- polls --------------------------------------------------------------------------------------------------------

    def read(self) -> Reading:
        """Poll power; once per `slow_period_s` also the counter, temperature, clock and throttling.

        Returns:
            The reading; what failed is None.
        """
        return self._read(slow=self._clock() >= self._slow_due)

    def read_edge(self) -> Reading:
        """Poll everything now, as the edge of a phase needs it.

        Returns:
            The reading; what failed is None.
        """
        return self._read(slow=True)

    def _read(self, *, slow: bool) -> Reading:
        nvml = self._nvml
        fields = [nvml.NVML_FI_DEV_POWER_AVERAGE] * self._average + [nvml.NVML_FI_DEV_POWER_INSTANT] * self._instant
        fields += [nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION] * (slow and self._counter_field)
        begin = self._clock()
        values = dict(zip(fields, self._fields(fields), strict=True))
        average = values.get(nvml.NVML_FI_DEV_POWER_AVERAGE)
        if self._usage:
            average = self._call("nvmlDeviceGetPowerUsage")
        energy = values.get(nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)
        if slow and self._counter_call:
            energy = self._call("nvmlDeviceGetTotalEnergyConsumption")
        middle = (begin + self._clock()) / 2
        rest = self._read_slow(energy) if slow else _Slow()
        if slow:
            self._slow_due = begin + self._slow_period_s
        return Reading(
            t=middle,
            power_w=_milli(average),
            instant_w=_milli(values.get(nvml.NVML_FI_DEV_POWER_INSTANT)),
            energy_j=rest.energy_j,
            temperature_c=rest.temperature_c,
            sm_clock_mhz=rest.sm_clock_mhz,
            throttle=rest.throttle,
            latency_s=self._clock() - begin,
        )

    def _read_slow(self, energy: float | None) -> _Slow:
        nvml = self._nvml
        temperature = self._call("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU)
        if temperature is None:
            temperature = self._call("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        return _Slow(
            _milli(energy), temperature, self._call("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM), self._throttle()
        )

    def _throttle(self) -> str | None:
        mask = self._call("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            mask = self._call("nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is None:
            return None
        # names are resolved from the installed binding: the numbers have moved between its versions
        bits = {name: getattr(self._nvml, f"nvmlClocksEventReason{name}", 0) for name in _THROTTLE}
        return "+".join(name for name, bit in bits.items() if bit and int(mask) & bit)

    def _call(self, name: str, *arguments: Any) -> float | None:
        """Call one NVML function; None where the binding, the driver or the GPU does not have it."""
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return float(function(self._handle, *arguments))
        except self._nvml.NVMLError:
            return None

    def _fields(self, fields: list[int]) -> list[float | None]:
        """Ask for several fields in one call; each has its own return code."""
        if not fields:
            return []
        try:
            answers = self._nvml.nvmlDeviceGetFieldValues(self._handle, fields)
        except self._nvml.NVMLError:
            return [None] * len(fields)
        return [self._value(answer) for answer in answers]

    def _value(self, answer: Any) -> float | None:
        if answer.nvmlReturn != self._nvml.NVML_SUCCESS or not 0 <= answer.valueType < len(_VALUE_FIELDS):
            return None
        return float(getattr(answer.value, _VALUE_FIELDS[answer.valueType]))

    def close(self) -> None:
        """Let NVML go."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None


def _milli(value: float | None) -> float | None:
    """From mW or mJ to W or J. A GPU that answers at all draws power: 0 is a failed read, not a measurement."""
    return value / 1000 if value is not None and value > 0 else None
