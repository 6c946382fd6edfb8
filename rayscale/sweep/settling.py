"""Settling: a trial starts when its device is back near the temperature and power of its block's start.

    block's first trial   wait until power has stopped falling; remember temperature and power
    its other trials      wait until both are within the band above what is remembered, or until the timeout

A warm card leaks more and clocks lower, and averaged power shows the trial before for another second; both would make a
trial's energy depend on what ran before it. Waiting is recorded (`Record.settling`), and a timeout makes the trial
suspect. Only sensors are waited for: the CPU estimate follows the trial's own process, which has not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rayscale.energy.reader import Reading
from rayscale.record import Reason, Settling
from rayscale.spec import SettleSpec

LOOK_S = 0.25
"""Time between two looks at the device while waiting."""
STEADY_S = 1.0
"""Power has stopped falling when it is no lower (beyond the band) this much later: longer than NVML's 1-s average."""
FIRST_POWER_S = 0.5
"""How long to wait for a sampler's first power: one that differences a counter has none at its first poll."""


@dataclass(frozen=True)
class DeviceState:
    """What settling looks at. Units: degrees Celsius, W; None = the device does not tell."""

    temperature_c: float | None
    power_w: float | None

    @classmethod
    def of(cls, reading: Reading) -> DeviceState:
        """Take it from a poll."""
        return cls(reading.temperature_c, reading.power_w if reading.power_w is not None else reading.instant_w)


@dataclass(frozen=True)
class Settler:
    """Waits for one device.

    Attributes:
        spec: Bands and timeout.
        last: Returns the newest poll of the device's sensor; None without a sensor.
        announce: Told once, when there is something to wait for.
        clock: CLOCK_MONOTONIC in s.
        sleep: Waits, in s.
    """

    spec: SettleSpec
    last: Callable[[], Reading | None]
    announce: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def begin_block(self) -> Settling | None:
        """Wait until power has stopped falling: what the block's later trials have to come back to.

        Returns:
            The state at the end, which is its own reference; None without a sensor.
        """
        start, state = self.clock(), self._state()
        if state is None:
            return None
        if state.power_w is None:
            return self._settled(start, state, state)
        self.announce()
        while True:
            self.sleep(STEADY_S)
            earlier, state = state, self._state() or state
            steady = _rise(earlier.power_w, state.power_w) <= self.spec.max_rise_w
            if steady or self.clock() - start > self.spec.timeout:
                return self._settled(start, state, state, timed_out=not steady)

    def come_back(self, reference: DeviceState) -> Settling | None:
        """Wait until temperature and power are within the band above the block's start.

        Args:
            reference: The block's start.

        Returns:
            What was waited for; None without a sensor.
        """
        start, state = self.clock(), self._state()
        if state is None:
            return None
        if not self._within(state, reference):
            self.announce()
        while not self._within(state, reference):
            if self.clock() - start > self.spec.timeout:
                return self._settled(start, state, reference, timed_out=True)
            self.sleep(LOOK_S)
            state = self._state() or state
        return self._settled(start, state, reference)

    def _within(self, state: DeviceState, reference: DeviceState) -> bool:
        warmer = _rise(state.temperature_c, reference.temperature_c) > self.spec.max_rise_c
        return not warmer and _rise(state.power_w, reference.power_w) <= self.spec.max_rise_w

    def _state(self) -> DeviceState | None:
        deadline = self.clock() + FIRST_POWER_S
        reading = self.last()
        while reading is not None and DeviceState.of(reading).power_w is None and self.clock() < deadline:
            self.sleep(LOOK_S / 5)
            reading = self.last()
        return DeviceState.of(reading) if reading is not None else None

    def _settled(
        self, start: float, state: DeviceState, reference: DeviceState, *, timed_out: bool = False
    ) -> Settling:
        return Settling(
            waited_s=self.clock() - start,
            timed_out=timed_out,
            start_c=state.temperature_c,
            start_w=state.power_w,
            reference_c=reference.temperature_c,
            reference_w=reference.power_w,
        )


def unsettled(settling: Settling, spec: SettleSpec) -> list[Reason]:
    """Say what had not settled when the trial started all the same.

    Args:
        settling: How the wait ended.
        spec: Bands and timeout.

    Returns:
        One reason per quantity outside its band; none if the wait was not given up.
    """
    if not settling.timed_out:
        return []
    warmer = _rise(settling.start_c, settling.reference_c)
    reasons = []
    if warmer > spec.max_rise_c:
        detail = f"{settling.start_c:.0f} C after {spec.timeout:g} s, {warmer:.0f} C above the block's start"
        reasons.append(Reason(code="temperature_not_settled", detail=detail))
    more = _rise(settling.start_w, settling.reference_w)
    if more > spec.max_rise_w:
        detail = f"{settling.start_w:.0f} W after {spec.timeout:g} s, {more:.0f} W above the block's start"
        reasons.append(Reason(code="power_not_settled", detail=detail))
    if not reasons:  # the block's first trial has only itself to compare with
        detail = f"power was still falling by more than {spec.max_rise_w:g} W per s after {spec.timeout:g} s"
        reasons.append(Reason(code="power_not_settled", detail=detail))
    return reasons


def _rise(now: float | None, reference: float | None) -> float:
    """Return by how much a quantity is above its reference; 0.0 where one of them is unknown."""
    return 0.0 if now is None or reference is None else now - reference
