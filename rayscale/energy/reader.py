"""One small protocol for everything that can say how much power a device draws, and the choice among them.

A reader never turns an error into a zero: what it cannot read is None, and a source that is not there is refused when
it is opened, with the reason. Devices are addressed by UUID, because NVML ignores CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from rayscale.energy.devices import GpuDevice, gpu_devices
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec

__all__ = ["GpuDevice", "PowerReader", "Reading", "Source", "gpu_devices", "missing_reading", "open_reader"]

Source = Literal["nvml", "rapl", "estimated"]


@dataclass(slots=True)  # not frozen: that makes it take ten times as long to make, at every poll
class Reading:
    """One poll of a device. Units: s, W, J, degrees Celsius, MHz; None = not available in this poll.

    What comes after `latency_s` only NVML tells, most of it once per second or less.

    Attributes:
        t: CLOCK_MONOTONIC at the middle of the call that read power and energy.
        power_w: The primary power (averaged by the device, or the mean since the previous poll).
        instant_w: Instantaneous power, where the device has it.
        energy_j: Cumulative energy counter; only differences mean anything.
        temperature_c: Device temperature.
        sm_clock_mhz: Clock of the streaming multiprocessors.
        throttle: Names of what holds the clocks down, joined by `+`; empty: nothing does.
        latency_s: How long the whole poll took.
        mem_clock_mhz: Clock of the memory.
        power_limit_w: Enforced power limit.
        clock_policy_mhz: Application clock of the multiprocessors: what was asked for, not what runs.
        power_violation_s: Cumulative time below the wanted clocks because of the power limit.
        thermal_violation_s: The same because of heat.
        ecc_errors: Uncorrected memory errors since the driver was loaded.
        others: Foreign compute processes on the device, joined by `+`; empty: none.
        fault: What failed in this poll and with which error, joined by `; `.
        counter_slack_s: Where the counter was seen to grow: how far from `t` that may have been; else None.
        origin: `driver`: not polled, but from the driver's own buffer (see `backfill`); else None.
    """

    t: float
    power_w: float | None
    instant_w: float | None
    energy_j: float | None
    temperature_c: float | None
    sm_clock_mhz: float | None
    throttle: str | None
    latency_s: float
    mem_clock_mhz: float | None = None
    power_limit_w: float | None = None
    clock_policy_mhz: float | None = None
    power_violation_s: float | None = None
    thermal_violation_s: float | None = None
    ecc_errors: float | None = None
    others: str | None = None
    fault: str | None = None
    counter_slack_s: float | None = None
    origin: str | None = None

    @property
    def empty(self) -> bool:
        """Whether the poll brought neither power nor energy."""
        return self.power_w is None and self.instant_w is None and self.energy_j is None


def missing_reading(t: float, latency_s: float) -> Reading:
    """Describe a poll that failed.

    Args:
        t: CLOCK_MONOTONIC of the poll, in s.
        latency_s: How long it took to fail, in s.

    Returns:
        A reading without values.
    """
    return Reading(t, None, None, None, None, None, None, latency_s)


class PowerReader(Protocol):
    """What the sampler needs.

    A reader may also have `read_edge()`: a poll that reads everything, however slow; and `read_ticks(edge)`: further
    polls, after an edge was read, that wait for the tick of its counter; and `driver_samples(since)`: see `backfill`.
    """

    @property
    def source(self) -> Source:
        """Kind of the source."""

    @property
    def method(self) -> str:
        """In words: which quantity is read, on which device, with which constants."""

    @property
    def estimated(self) -> bool:
        """True when the numbers come from a model, not from a sensor."""

    @property
    def counter_resolution_s(self) -> float:
        """How stale the counter may be when it is read. Units: s."""

    @property
    def device_uuid(self) -> str | None:
        """The device, as it was asked for."""

    @property
    def device_name(self) -> str | None:
        """Name of the device's product."""

    def read(self) -> Reading:
        """Poll the device once."""

    def close(self) -> None:
        """Let the device go; a second call does nothing."""


def open_reader(spec: EnergySpec, *, device_uuid: str | None, pid: int | None, departed: bool = True) -> PowerReader:
    """Open the best reader that the settings allow.

    Args:
        spec: `source` and the constants of the estimate.
        device_uuid: `GPU-...`: the GPU, by NVML. Anything else only labels the CPU.
        pid: The trial's process, for the estimate.
        departed: Whether an unknown process that computed on the GPU and has ended counts as foreign.

    Returns:
        An open reader; whoever opened it closes it.

    Raises:
        EnvironmentUnusableError: If a source asked for by name is not there, or a GPU cannot be read.
        ValueError: If the estimate is to be used without a process.
    """
    on_gpu = device_uuid is not None and device_uuid.startswith("GPU-")
    if spec.source == "nvml" and not on_gpu:
        raise EnvironmentUnusableError(f"energy.source: nvml needs an NVIDIA GPU, but the trial runs on {device_uuid}")
    if device_uuid is not None and on_gpu and spec.source in ("auto", "nvml"):
        from rayscale.energy.nvml import NvmlReader

        return NvmlReader(device_uuid, pid=pid, departed=departed, lag_s=spec.lag, accuracy=spec.accuracy)
    if spec.source in ("auto", "rapl"):
        from rayscale.energy.rapl import RaplReader, rapl_problem

        problem = rapl_problem()
        if problem is None:
            return RaplReader(device_uuid=device_uuid)
        if spec.source == "rapl":
            raise EnvironmentUnusableError(f"energy.source: rapl cannot be read here: {problem}")
    return _open_estimate(spec, device_uuid, pid)


def _open_estimate(spec: EnergySpec, device_uuid: str | None, pid: int | None) -> PowerReader:
    from rayscale.energy.estimated import EstimatedReader

    if pid is None:
        raise ValueError("the CPU estimate needs the process whose time it counts (pid)")
    return EstimatedReader(pid, idle_w=spec.estimate.idle_w, w_per_cpu=spec.estimate.w_per_cpu, device_uuid=device_uuid)
