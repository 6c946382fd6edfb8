"""A GPU with the physics of its sensors, on a virtual clock; `FakeNvml` serves it, arrays of times work as well.

Load (true power, exact integral) -> gain, window, update period, lag, noise -> published power
                                  -> gain, tick, resets, standstills         -> energy counter
                                  -> thermal mass                            -> temperature, throttling
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from fake_nvml import Clock, FakeNvml, SlowState
from numpy.typing import NDArray

from rayscale.energy.layout import COLUMNS, TEXTS, TraceMeta
from rayscale.energy.sensors import ACCURACY, SensorWindow
from rayscale.energy.trace import Trace

Array = NDArray[np.float64]
_NOISE_TABLE = 4096


class Load:
    """True power: piecewise constant, first and last value for ever; exact integral. Units: s, W, J."""

    def __init__(self, edges: Any, watts: Any) -> None:
        """`watts[i]` from `edges[i]` on, `watts[0]` also before."""
        self.edges, self.watts = np.asarray(edges, dtype=float), np.asarray(watts, dtype=float)
        self._sums = np.concatenate([[0.0], np.cumsum(self.watts[:-1] * np.diff(self.edges))])

    def power(self, t: Any) -> Any:
        return self.watts[np.clip(np.searchsorted(self.edges, t, side="right") - 1, 0, len(self.watts) - 1)]

    def energy(self, t: Any) -> Any:
        """Integral from the first edge (negative before it)."""
        index = np.clip(np.searchsorted(self.edges, t, side="right") - 1, 0, len(self.watts) - 1)
        return self._sums[index] + self.watts[index] * (np.asarray(t) - self.edges[index])

    @classmethod
    def steps(cls, start: float, seconds: float, period: float, low: float, high: float, duty: float = 0.7) -> Load:
        """Idle at 60 W, a training phase whose steps draw `high` for `duty` of the step and `low` for the rest."""
        begins = start + np.arange(round(seconds / period)) * period
        edges = np.column_stack([begins, begins + duty * period]).ravel()
        watts = np.tile([high, low], len(begins))
        return cls(np.concatenate([[start - 1000], edges, [begins[-1] + period]]), np.concatenate([[60], watts, [60]]))


@dataclass(frozen=True)
class Profile:
    """The sensors of one kind of GPU as measured by SC'24 (research/energy.md 3.1); None: not offered."""

    name: str
    architecture: int
    usage: SensorWindow
    average: SensorWindow | None
    instant: SensorWindow | None

    @property
    def primary(self) -> SensorWindow:
        return self.average or self.usage


SECOND, QUARTER = SensorWindow(0.1, 1.0), SensorWindow(0.1, 0.025)
PROFILES = {
    "A100": Profile("NVIDIA A100-SXM4-80GB", 7, QUARTER, None, QUARTER),
    "H100": Profile("NVIDIA H100 PCIe", 9, SECOND, SECOND, QUARTER),
    "Ada": Profile("NVIDIA GeForce RTX 4090", 8, SECOND, SECOND, SensorWindow(0.1, 0.1)),
    "V100": Profile("Tesla V100-SXM2-32GB", 5, SensorWindow(0.02, 0.01), None, None),
}


@dataclass(frozen=True)
class CallFault:
    """A call (or field) answers with an error for a while."""

    name: str | int
    code: int
    start: float = -np.inf
    end: float = np.inf


@dataclass(frozen=True, eq=False)
class SimGpu:
    """One GPU. Units: s, W, J, degrees Celsius."""

    load: Load
    profile: Profile = PROFILES["H100"]
    uuid: str = "GPU-sim0"
    gain: float = 1.0
    """True / shown for power; constant of the card."""
    counter_gain: float = 1.0
    noise_w: float = 0.0
    seed: int = 0
    phase_s: float = 0.0
    """When within an update period new values appear."""
    lag_s: float = 0.0
    """Extra delay of the power values."""
    stuck_from: float = np.inf
    broken: tuple[float, float, float] = (np.inf, np.inf, 0.0)
    """From, to, and the power shown then."""
    ring_depth: int = 0
    """How many power samples the driver keeps, one per 0.1 s; 0: it keeps none."""
    frozen: tuple[float, float] = (np.inf, np.inf)
    """From, to: field queries go on to succeed, with the values and time stamps of the beginning."""
    scope: int = 0
    """The scope in which power and energy are told; 1 (module): the calls that know no scopes are not there."""
    counter_tick_s: float = 0.1
    counter_reset_at: float = np.inf
    counter_stale_from: float = np.inf
    counter_jump_j: float = 0.0
    """What the counter falls by (negative: jumps up by) at `counter_reset_at` instead of to zero, if not 0."""
    counter_misread: tuple[float, float] = (np.inf, np.inf)
    """From, to: the counter shows a little less than a second before `from`."""
    faults: tuple[CallFault, ...] = ()
    processes: tuple[tuple[int, float, float], ...] = ()
    """Process id, from, to."""
    limits: tuple[tuple[float, float], ...] = ((-np.inf, 700.0),)
    policies: tuple[tuple[float, float], ...] = ((-np.inf, 1980.0),)
    ecc_at: float = np.inf
    brake: tuple[float, float] = (np.inf, np.inf)
    """From, to: the power brake is pulled."""
    ambient_c: float = 30.0
    c_per_w: float = 0.08
    thermal_s: float = 20.0
    slow_at_c: float = 90.0
    mig: int | None = None
    memory: int = 80 << 30
    driver: str = field(default="575.51")

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def architecture(self) -> int:
        return self.profile.architecture

    # -- power and energy ---------------------------------------------------------------------------------------------

    @cached_property
    def _noise(self) -> Array:
        return np.random.default_rng(self.seed).normal(0.0, self.noise_w, _NOISE_TABLE)

    def shown(self, sensor: SensorWindow, t: Any) -> Any:
        """Power that a sensor shows at a time (or an array of times). Units: W."""
        tick = np.floor((np.minimum(t, self.stuck_from) - self.phase_s) / sensor.update_s + 1e-9)
        end = tick * sensor.update_s + self.phase_s - self.lag_s
        mean = (self.load.energy(end) - self.load.energy(end - sensor.window_s)) / sensor.window_s
        watts = self.gain * mean + self._noise[tick.astype(int) % _NOISE_TABLE]
        start, end, instead = self.broken
        return np.where((np.asarray(t) >= start) & (np.asarray(t) < end), instead, watts)

    def counter(self, t: Any) -> Any:
        """Energy counter at a time (or an array of times). Units: J."""
        t = np.minimum(t, self.counter_stale_from)
        tick = np.floor((t - self.phase_s) / self.counter_tick_s + 1e-9) * self.counter_tick_s + self.phase_s
        misread = (t >= self.counter_misread[0]) & (t < self.counter_misread[1])
        tick = np.where(misread, np.minimum(tick, self.counter_misread[0] - 1.001), tick)
        joules = self.counter_gain * (self.load.energy(tick) - self.load.energy(self.load.edges[0])) + 1.0
        if not np.isfinite(self.counter_reset_at):
            return joules
        before = self.counter_gain * self.load.energy(self.counter_reset_at)
        return joules - np.where(tick >= self.counter_reset_at, self.counter_jump_j or before, 0.0)

    def power_mw(self, t: float) -> int:
        return round(1000 * float(self.shown(self.profile.primary, t)))

    def instant_mw(self, t: float) -> int:
        return round(1000 * float(self.shown(self.profile.instant or self.profile.usage, t)))

    def usage_mw(self, t: float) -> int:
        return round(1000 * float(self.shown(self.profile.usage, t)))

    def energy_mj(self, t: float) -> int:
        return round(1000 * float(self.counter(t)))

    def answered_at(self, t: float) -> float:
        """The time of which a field query speaks."""
        return self.frozen[0] if self.frozen[0] <= t < self.frozen[1] else t

    def utilization(self, t: float) -> list[tuple[int, float, int]]:
        """Process id, time and share of the multiprocessors in %: one sample a second, kept for 20 s."""
        stamps = np.floor(t) - np.arange(20)[::-1]
        return [(pid, float(at), 50) for at in stamps for pid, start, end in self.processes if start <= at < end]

    def ring(self, t: float) -> list[tuple[float, float]]:
        """The driver's own power samples: time and W."""
        last = np.floor((t - self.phase_s) / 0.1 + 1e-9) * 0.1 + self.phase_s
        ends = last - 0.1 * np.arange(self.ring_depth)[::-1]
        watts = self.gain * (self.load.energy(ends) - self.load.energy(ends - 0.1)) / 0.1
        return list(zip(ends.tolist(), watts.tolist(), strict=True))

    # -- everything else ----------------------------------------------------------------------------------------------

    def error(self, name: str | int, t: float) -> int | None:
        absent = (name == 185 and self.profile.average is None) or (name == 186 and self.profile.instant is None)
        absent |= bool(self.scope) and name in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
        hits = (fault.code for fault in self.faults if fault.name in (name, "*") and fault.start <= t < fault.end)
        return 3 if absent else next(hits, None)

    @cached_property
    def _thermal(self) -> tuple[Array, Array, Array]:
        """Times, temperature and time above the limit so far, on a grid: T' = (T_end(P) - T) / tau."""
        begin, end = float(self.load.edges[1]) - 5.0, float(self.load.edges[-1]) + 60.0
        times = np.arange(begin, end, 0.1)
        watts = np.diff(self.load.energy(times)) / 0.1
        temperature = [self.ambient_c + self.c_per_w * float(self.load.power(begin))]
        for power in watts:
            aim = self.ambient_c + self.c_per_w * float(power)
            temperature.append(aim + (temperature[-1] - aim) * float(np.exp(-0.1 / self.thermal_s)))
        hot = np.array(temperature) > self.slow_at_c
        return times, np.array(temperature), np.cumsum(hot) * 0.1

    def slow(self, t: float) -> SlowState:
        times, temperature, hot_s = self._thermal
        now = float(np.interp(t, times, temperature))
        braked = self.brake[0] <= t < self.brake[1]
        hot = now > self.slow_at_c
        return SlowState(
            temperature=round(now),
            sm_clock=1200.0 if hot or braked else 1980.0,
            policy_clock=_current(self.policies, t),
            reasons=0x20 * hot | 0x80 * braked,
            limit_w=_current(self.limits, t),
            power_ns=0,
            heat_ns=round(1e9 * float(np.interp(t, times, hot_s))),
            ecc=int(t >= self.ecc_at),
            pids=tuple(pid for pid, start, end in self.processes if start <= t < end),
        )


def _current(changes: tuple[tuple[float, float], ...], t: float) -> float:
    return [value for start, value in changes if start <= t][-1]


def nvml_of(gpu: SimGpu, clock: Clock) -> FakeNvml:
    return FakeNvml(gpu, clock=clock)


def quick_trace(
    gpu: SimGpu, times: Array, period: float = 0.1, nominal: Profile | None = None, edges: tuple[float, ...] = ()
) -> Trace:
    """What `NvmlReader` would have sampled at these times, computed as arrays; counter each second and at the ends.

    `nominal` is what the trace says of the sensors, if that is not what they are. At each of `edges` the counter is
    read, and its next two ticks awaited, as `read_edge` and `read_ticks` do.
    """
    extra = [row for edge in edges for row in _ticks_after(gpu, edge)]
    every = np.concatenate([times, [t for t, _, _ in extra]])
    order = np.argsort(every, kind="stable")
    polled = np.arange(len(every))[order] < len(times)
    columns: dict[str, Any] = {
        name: np.full(len(every), None, dtype=object) if name in TEXTS else np.full(len(every), np.nan)
        for name in COLUMNS
    }
    columns["t"] = every[order]
    columns["power_w"] = np.where(polled, np.round(gpu.shown(gpu.profile.primary, every[order]), 3), np.nan)
    if gpu.profile.instant is not None:
        columns["instant_w"] = np.where(polled, np.round(gpu.shown(gpu.profile.instant, every[order]), 3), np.nan)
    read = np.zeros(len(times), dtype=bool)
    read[:: round(1.0 / period)] = read[-1] = True
    energy = np.where(read, np.round(gpu.counter(times), 3), np.nan)
    columns["energy_j"] = np.concatenate([energy, [energy for _, energy, _ in extra]])[order]
    columns["counter_slack_s"] = np.concatenate([np.full(len(times), np.nan), [slack for _, _, slack in extra]])[order]
    columns["latency_s"] = np.full(len(every), 1e-4)
    meta = TraceMeta("nvml", gpu.name, False, period, 0.1, gpu.uuid, gpu.name)
    said = nominal or gpu.profile
    return Trace(**columns, meta=replace(meta, power=said.primary, instant=said.instant, accuracy=ACCURACY))


def _ticks_after(gpu: SimGpu, edge: float) -> list[tuple[float, float, float]]:
    """Time, energy and slack of a plain read at an edge and of the two ticks after it, seen by reads every 2 ms."""
    times = edge + np.arange(151) * 0.002
    energy = np.round(gpu.counter(times), 3)
    grown = np.flatnonzero(np.diff(energy) > 0)[:2]
    ticks = [(float(times[i] + times[i + 1]) / 2, float(energy[i + 1]), 0.001) for i in grown]
    return [(edge, float(energy[0]), np.nan), *ticks]
