"""A stand-in for the module `pynvml`: GPUs with power signal, update period and energy counter on a virtual clock."""

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


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeGpu:
    """One GPU. `signal` is W as a function of time; sensor and counter advance every `update_s`."""

    uuid: str
    signal: Callable[[float], float] = lambda t: 100.0
    name: str = "Fake H100"
    memory: int = 80 << 30
    mig: int | None = None
    update_s: float = 0.1
    average_s: float = 0.1
    temperature: float = 40.0
    sm_clock: float = 1980.0
    reasons: int = 0
    failing: set[str | int] = field(default_factory=set)
    """Names of functions and numbers of fields that answer with an error."""
    counter_offset_j: float = 0.0
    counter_frozen_at: float | None = None

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
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND = 3, 6
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_GPU_IS_LOST = 9, 12, 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = 83, 185, 186
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1
    nvmlClocksEventReasonSwPowerCap = 0x4  # noqa: N815
    nvmlClocksEventReasonHwSlowdown = 0x8  # noqa: N815
    nvmlClocksEventReasonSwThermalSlowdown = 0x20  # noqa: N815

    def __init__(self, *gpus: FakeGpu, clock: Clock | None = None, init_error: int | None = None) -> None:
        self.gpus, self.clock, self.init_error = gpus, clock or Clock(), init_error
        self.open = 0
        self.calls: list[str] = []

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

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if "lost" in self.gpus[index].failing:
            raise NVMLError(self.NVML_ERROR_GPU_IS_LOST)
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError(self.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(total=gpu.memory)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> tuple[int, int]:
        if gpu.mig is None:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return gpu.mig, gpu.mig

    def _answer(self, gpu: FakeGpu, name: str, value: Callable[[], float]) -> Any:
        self.calls.append(name)
        if name in gpu.failing:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return value()

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        return self._answer(gpu, "nvmlDeviceGetPowerUsage", lambda: gpu.power_mw(self.clock.now))

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:
        return self._answer(gpu, "nvmlDeviceGetTotalEnergyConsumption", lambda: gpu.energy_mj(self.clock.now))

    def nvmlDeviceGetTemperatureV(self, gpu: FakeGpu, sensor: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetTemperatureV", lambda: gpu.temperature)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetTemperature", lambda: gpu.temperature)

    def nvmlDeviceGetClockInfo(self, gpu: FakeGpu, kind: int) -> int:
        return self._answer(gpu, "nvmlDeviceGetClockInfo", lambda: gpu.sm_clock)

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: FakeGpu) -> int:
        return self._answer(gpu, "nvmlDeviceGetCurrentClocksEventReasons", lambda: gpu.reasons)

    def nvmlDeviceGetFieldValues(self, gpu: FakeGpu, fields: list[int]) -> list[Any]:
        self.calls.append("nvmlDeviceGetFieldValues")
        if "nvmlDeviceGetFieldValues" in gpu.failing:
            raise NVMLError(self.NVML_ERROR_GPU_IS_LOST)
        now = self.clock.now
        kinds = {
            83: (3, "ullVal", lambda: gpu.energy_mj(now)),
            185: (1, "uiVal", lambda: gpu.power_mw(now)),
            186: (1, "uiVal", lambda: gpu.instant_mw(now)),
        }
        answers = []
        for number in fields:
            kind, member, value = kinds[number]
            status = self.NVML_ERROR_NOT_SUPPORTED if number in gpu.failing else self.NVML_SUCCESS
            union = SimpleNamespace(**{member: value() if status == 0 else 0})
            answers.append(SimpleNamespace(nvmlReturn=status, valueType=kind, value=union))
        return answers
