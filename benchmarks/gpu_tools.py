"""What `benchmarks.gpu_energy` is made of: a load on the GPU, NVML reads, and one measurement under the sampler."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from rayscale.energy.devices import GpuDevice
from rayscale.energy.integrate import phase_energy
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.sampler import Sampler
from rayscale.energy.trace import read_trace
from rayscale.record import PhaseEnergy

MATRIX = 4096


class Load:
    """Matrix products on the GPU until told to stop; each pulse lasts `on_s`, then the GPU rests for `off_s`."""

    def __init__(self, index: int = 0) -> None:
        import torch

        self._torch = torch
        torch.cuda.set_device(index)
        self._a = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
        self._out = torch.empty_like(self._a)
        self._product()
        torch.cuda.synchronize()

    def _product(self) -> None:
        self._torch.mm(self._a, self._a, out=self._out)

    def step(self, products: int = 20) -> float:
        """Run one step of products. Units of the result: s."""
        begin = time.monotonic()
        for _ in range(products):
            self._product()
        self._torch.cuda.synchronize()
        return time.monotonic() - begin

    def run(self, seconds: float, *, period_s: float | None = None, duty: float = 1.0) -> None:
        """Load the GPU.

        Args:
            seconds: How long.
            period_s: Length of a cycle of load and rest; None: no rest.
            duty: Share of each cycle under load.
        """
        begin = time.monotonic()
        cycle = 0
        while (now := time.monotonic()) < begin + seconds:
            if period_s is None:
                self.step()
                continue
            start = begin + cycle * period_s  # absolute: the cycle does not drift
            while time.monotonic() < start + duty * period_s:
                self.step(1)
            time.sleep(max(0.0, start + period_s - time.monotonic()))
            cycle = max(cycle + 1, int((now - begin) / period_s))


class Works(Protocol):
    """What loads the GPU: `Load`, or a simulation of it."""

    def step(self, products: int = 20) -> float:
        """Run one step. Units of the result: s."""

    def run(self, seconds: float, *, period_s: float | None = None, duty: float = 1.0) -> None:
        """Load the GPU for some s, in cycles of `period_s` if given."""


class Gpu:
    """One GPU, by NVML and by torch."""

    def __init__(self, nvml: Any, device: GpuDevice, scale: float, make_load: Callable[[], Works] = Load) -> None:
        self.nvml, self.device, self.scale = nvml, device, scale
        self.handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        self._make_load = make_load
        self._load: Works | None = None

    @property
    def load(self) -> Works:
        """The load; its CUDA context begins with the first use."""
        if self._load is None:
            self._load = self._make_load()
        return self._load

    def seconds(self, value: float) -> float:
        """Scale a duration. Units: s."""
        return value * self.scale

    def field(self, name: str, scope: int | None = None) -> tuple[float | None, int]:
        """Read one field; its value (None if it failed) and return code."""
        number = getattr(self.nvml, name)
        answer = self.nvml.nvmlDeviceGetFieldValues(self.handle, [number if scope is None else (number, scope)])[0]
        if answer.nvmlReturn != self.nvml.NVML_SUCCESS:
            return None, int(answer.nvmlReturn)
        kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        return float(getattr(answer.value, kinds[answer.valueType])), 0

    def temperature_c(self) -> float:
        """Read the temperature, by the old call where there is no new one."""
        sensor = self.nvml.NVML_TEMPERATURE_GPU
        try:
            return float(self.nvml.nvmlDeviceGetTemperatureV(self.handle, sensor))
        except (AttributeError, self.nvml.NVMLError):
            return float(self.nvml.nvmlDeviceGetTemperature(self.handle, sensor))

    def readers(self) -> dict[str, Callable[[], float | None]]:
        """The three powers, in W."""
        return {
            "average (185)": lambda: milli(self.field("NVML_FI_DEV_POWER_AVERAGE")[0]),
            "instant (186)": lambda: milli(self.field("NVML_FI_DEV_POWER_INSTANT")[0]),
            "GetPowerUsage": lambda: milli(self._usage()),
        }

    def _usage(self) -> float | None:
        try:
            return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle))
        except self.nvml.NVMLError:
            return None


def milli(value: float | None) -> float | None:
    """From mW to W."""
    return None if value is None else value / 1000


def series(read: Callable[[], float | None], seconds: float, step_s: float) -> list[tuple[float, float]]:
    """Read a value again and again.

    Args:
        read: The value, None when it fails.
        seconds: How long.
        step_s: Pause between reads.

    Returns:
        Time and value of the reads that answered.
    """
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        value = read()
        if value is not None:
            found.append(((begin + time.monotonic()) / 2, value))
        time.sleep(max(0.0, min(step_s, end - time.monotonic())))
    return found


def changes_of(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep the first read of each new value: time and step size."""
    return [(later[0], later[1] - earlier[1]) for earlier, later in pairwise(samples) if later[1] != earlier[1]]


@contextmanager
def loaded(gpu: Gpu) -> Iterator[None]:
    """Load the GPU from another thread while the context lasts."""
    halt, load = threading.Event(), gpu.load

    def work() -> None:
        while not halt.is_set():
            load.run(0.2)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        halt.set()
        thread.join()


def measured(gpu: Gpu, work: Callable[[], None], period_s: float = 0.1, slow_s: float = 1.0) -> PhaseEnergy:
    """Run something under the sampler.

    Args:
        gpu: The GPU.
        work: What to run.
        period_s: Time between power polls, in s.
        slow_s: Time between reads of the counter, in s.

    Returns:
        All estimates of its energy.
    """
    reader = NvmlReader(gpu.device.uuid, nvml=gpu.nvml, pid=os.getpid(), slow_period_s=slow_s)
    try:
        with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as directory:
            sampler = Sampler(reader, Path(directory), period_s)
            sampler.start()
            time.sleep(gpu.seconds(1.5))  # the averaged power knows nothing of what came before
            sampler.mark(tick=True)
            start = time.monotonic()
            work()
            end = time.monotonic()
            sampler.mark(tick=True)
            time.sleep(gpu.seconds(1.5))  # it trails by half a second
            sampler.stop()
            return phase_energy(read_trace(Path(directory)), [(start, end)])
    finally:
        reader.close()
