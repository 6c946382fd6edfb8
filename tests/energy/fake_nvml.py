"""A stand-in for the module `pynvml` on a virtual clock. Its GPUs: `FakeGpu` here, `SimGpu` with physics in simgpu."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class Clock:
    """A clock that moves only when told to; each look at it may cost a little."""

    now: float = 1000.0
    cost: float = 0.0

    def __call__(self) -> float:
        self.now += self.cost
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


SCOPED = frozenset({83, 185, 186})
"""The fields that exist in more than one scope."""


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass(frozen=True)
class SlowState:
    """What changes slowly."""

    temperature: float = 40.0
    sm_clock: float = 1980.0
    mem_clock: float = 2619.0
    policy_clock: float = 1980.0
    reasons: int = 0
    limit_w: float = 700.0
    power_ns: int = 0
    heat_ns: int = 0
    ecc: int = 0
    pids: tuple[int, ...] = ()


@dataclass
class FakeGpu:
    """One GPU. `signal` is W as a function of time; sensor and counter advance every `update_s`."""

    uuid: str
    signal: Callable[[float], float] = lambda t: 100.0
    name: str = "Fake H100"
    memory: int = 80 << 30
    mig: int | None = None
    update_s: float = 0.1
    average_s: float = 1.0
    architecture: int = 9
    temperature: float = 40.0
    sm_clock: float = 1980.0
    reasons: int = 0
    limit_w: float = 700.0
    pids: list[int] = field(default_factory=list)
    failing: set[str | int] = field(default_factory=set)
    """Names of functions and numbers of fields that answer with an error."""
    code: int = 3
    """The error's number."""
    scope: int = 0
    """The scope in which the fields of power and energy are told."""
    counter_offset_j: float = 0.0
    counter_frozen_at: float | None = None

    def error(self, name: str | int, t: float) -> int | None:
        return self.code if name in self.failing else None

    def slow(self, t: float) -> SlowState:
        return SlowState(
            temperature=self.temperature,
            sm_clock=self.sm_clock,
            reasons=self.reasons,
            limit_w=self.limit_w,
            pids=tuple(self.pids),
        )

    def usage_mw(self, t: float) -> int:
        return self.power_mw(t)

    def answered_at(self, t: float) -> float:
        """The time of which a field query speaks."""
        return t

    def utilization(self, t: float) -> list[tuple[int, float, int]]:
        """Process id, time and share of the multiprocessors in %, as the driver keeps it; empty here."""
        return []

    def ring(self, t: float) -> list[tuple[float, float]]:
        """The driver's own power samples: time and W; none here."""
        return []

    def tick(self, t: float) -> float:
        return math.floor(t / self.update_s + 1e-9) * self.update_s

    def mean(self, start: float, end: float) -> float:
        steps = max(1, round((end - start) / 0.01))
        return sum(self.signal(start + (i + 0.5) * (end - start) / steps) for i in range(steps)) / steps

    def power_mw(self, t: float) -> int:
        at = self.tick(t)
        return round(1000 * self.mean(at - self.average_s, at))

    def instant_mw(self, t: float) -> int:
        return round(1000 * self.signal(self.tick(t) - 1e-6))

    def energy_mj(self, t: float) -> int:
        at = self.tick(min(t, self.counter_frozen_at or t))
        return round(1000 * (self.counter_offset_j + at * self.mean(0.0, at) if at else 0))


class FakeNvml:
    """What rayscale uses of `pynvml`, same names."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_ERROR_UNINITIALIZED, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NO_PERMISSION, NVML_ERROR_NOT_FOUND = 1, 3, 4, 6
    NVML_ERROR_TIMEOUT, NVML_ERROR_IRQ_ISSUE, NVML_ERROR_FUNCTION_NOT_FOUND = 10, 11, 13
    NVML_ERROR_RESET_REQUIRED, NVML_ERROR_OPERATING_SYSTEM, NVML_ERROR_NO_DATA, NVML_ERROR_UNKNOWN = 16, 17, 21, 999
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_GPU_IS_LOST = 9, 12, 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = 83, 185, 186
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 269
    NVML_FI_DEV_PERF_POLICY_POWER, NVML_FI_DEV_PERF_POLICY_THERMAL = 74, 75
    NVML_TOTAL_POWER_SAMPLES = 0
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    nvmlClocksEventReasonSwPowerCap = 0x4  # noqa: N815
    nvmlClocksEventReasonHwSlowdown = 0x8  # noqa: N815
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80  # noqa: N815
    nvmlClocksEventReasonSwThermalSlowdown = 0x20  # noqa: N815

    def __init__(self, *gpus: Any, clock: Clock | None = None, init_error: int | None = None) -> None:
        self.gpus, self.clock, self.init_error = gpus, clock or Clock(), init_error
        self.open = 0
        self.calls: list[str] = []
        self.wall_ahead = 1.7e9
        """How far the wall clock is ahead of `clock`, in s."""

    def wall(self) -> float:
        return self.clock.now + self.wall_ahead

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise NVMLError(self.init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "575.51"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        self._raise_if(self.gpus[index], "nvmlDeviceGetHandleByIndex")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                self._raise_if(gpu, "nvmlDeviceGetHandleByUUID")
                return gpu
        raise NVMLError(self.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: Any) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Any) -> str:
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: Any) -> Any:
        return SimpleNamespace(total=gpu.memory)

    def nvmlDeviceGetMigMode(self, gpu: Any) -> tuple[int, int]:
        self._raise_if(gpu, "nvmlDeviceGetMigMode")
        if gpu.mig is None:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return gpu.mig, gpu.mig

    def _answer(self, gpu: Any, name: str, value: Callable[[float], Any]) -> Any:
        self.calls.append(name)
        self._raise_if(gpu, name)
        return value(self.clock.now)

    def _raise_if(self, gpu: Any, name: str) -> None:
        code = gpu.error(name, self.clock.now)
        if code is not None:
            raise NVMLError(code)

    def nvmlDeviceGetPowerUsage(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetPowerUsage", gpu.usage_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetTotalEnergyConsumption", gpu.energy_mj)

    def nvmlDeviceGetTemperatureV(self, gpu: Any, sensor: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetTemperatureV", lambda t: gpu.slow(t).temperature)

    def nvmlDeviceGetTemperature(self, gpu: Any, sensor: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetTemperature", lambda t: gpu.slow(t).temperature)

    def nvmlDeviceGetClockInfo(self, gpu: Any, kind: int) -> int:
        clocks = {1: "sm_clock", 2: "mem_clock"}
        return self._answer(gpu, "nvmlDeviceGetClockInfo", lambda t: getattr(gpu.slow(t), clocks[kind]))

    def nvmlDeviceGetApplicationsClock(self, gpu: Any, kind: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetApplicationsClock", lambda t: gpu.slow(t).policy_clock)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetEnforcedPowerLimit", lambda t: round(1000 * gpu.slow(t).limit_w))

    def nvmlDeviceGetTotalEccErrors(self, gpu: Any, kind: int, counter: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetTotalEccErrors", lambda t: gpu.slow(t).ecc)

    def nvmlDeviceGetPersistenceMode(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetPersistenceMode", lambda t: 1)

    def nvmlDeviceGetArchitecture(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetArchitecture", lambda t: gpu.architecture)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Any) -> list[Any]:
        listed = self._answer(gpu, "nvmlDeviceGetComputeRunningProcesses", lambda t: gpu.slow(t).pids)
        return [SimpleNamespace(pid=pid, usedGpuMemory=1 << 20) for pid in listed]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: Any) -> int:
        return self._answer(gpu, "nvmlDeviceGetCurrentClocksEventReasons", lambda t: gpu.slow(t).reasons)

    def nvmlDeviceGetProcessUtilization(self, gpu: Any, since_us: int) -> list[Any]:
        seen = self._answer(gpu, "nvmlDeviceGetProcessUtilization", gpu.utilization)
        stamped = [(pid, round(1e6 * (t + self.wall_ahead)), share) for pid, t, share in seen]
        new = [
            SimpleNamespace(pid=pid, timeStamp=us, smUtil=share, memUtil=0)
            for pid, us, share in stamped
            if us > since_us
        ]
        if not new:
            raise NVMLError(self.NVML_ERROR_NOT_FOUND)
        return new

    def nvmlDeviceGetSamples(self, gpu: Any, kind: int, since_us: int) -> tuple[int, list[Any]]:
        kept = self._answer(gpu, "nvmlDeviceGetSamples", gpu.ring)
        stamped = [(round(1e6 * (t + self.wall_ahead)), round(1000 * watts)) for t, watts in kept]
        new = [(us, mw) for us, mw in stamped if us > since_us]
        if not new:
            raise NVMLError(self.NVML_ERROR_NOT_FOUND if kept else self.NVML_ERROR_NOT_SUPPORTED)
        return 1, [SimpleNamespace(timeStamp=us, sampleValue=SimpleNamespace(uiVal=mw)) for us, mw in new]

    def nvmlDeviceGetFieldValues(self, gpu: Any, fields: list[Any]) -> list[Any]:
        self.calls.append("nvmlDeviceGetFieldValues")
        self._raise_if(gpu, "nvmlDeviceGetFieldValues")
        now = gpu.answered_at(self.clock.now)
        kinds: dict[int, tuple[int, str, Callable[[], int]]] = {
            74: (3, "ullVal", lambda: gpu.slow(now).power_ns),
            75: (3, "ullVal", lambda: gpu.slow(now).heat_ns),
            83: (3, "ullVal", lambda: gpu.energy_mj(now)),
            185: (1, "uiVal", lambda: gpu.power_mw(now)),
            186: (1, "uiVal", lambda: gpu.instant_mw(now)),
        }
        answers = []
        for asked in fields:
            number, scope = asked if isinstance(asked, tuple) else (asked, 0)
            kind, member, value = kinds.get(number, (1, "uiVal", int))
            there = number in kinds and scope == (gpu.scope if number in SCOPED else 0)
            status = gpu.error(number, now) or (self.NVML_SUCCESS if there else 3)
            union = SimpleNamespace(**{member: value() if status == 0 else 0})
            stamp = round(1e6 * (now + self.wall_ahead))
            answers.append(SimpleNamespace(nvmlReturn=status, valueType=kind, value=union, timestamp=stamp))
        return answers
