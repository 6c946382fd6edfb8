"""Settling against simulated devices on a virtual clock: cooling cards, trailing averages, sensors that keep silent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.energy.reader import Reading
from rayscale.record import Settling
from rayscale.spec import SettleSpec
from rayscale.sweep.settling import LOOK_S, STEADY_S, DeviceState, Settler, unsettled


@dataclass
class SimulatedDevice:
    """A device whose temperature and power fall exponentially; its clock moves when somebody waits."""

    temperature_c: Callable[[float], float | None]
    power_w: Callable[[float], float | None]
    now: float = 0.0
    announced: list[float] = field(default_factory=list)

    def last(self) -> Reading | None:
        return Reading(self.now, self.power_w(self.now), None, None, self.temperature_c(self.now), None, None, 0.0)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def settler(self, spec: SettleSpec) -> Settler:
        return Settler(spec, self.last, lambda: self.announced.append(self.now), lambda: self.now, self.sleep)


def falling(start: float, end: float, tau_s: float) -> Callable[[float], float]:
    return lambda t: end + (start - end) * math.exp(-t / tau_s)


def constant(value: float | None) -> Callable[[float], float | None]:
    return lambda _: value


START = DeviceState(40.0, 60.0)


@settings(max_examples=200, deadline=None)
@given(
    hot=st.floats(30, 90),
    watts=st.floats(50, 700),
    tau_c=st.floats(5, 60),
    tau_w=st.floats(0.2, 5),
)
def test_the_trial_starts_as_soon_as_both_are_within_the_band(
    hot: float, watts: float, tau_c: float, tau_w: float
) -> None:
    spec = SettleSpec(max_rise_c=5, max_rise_w=10, timeout=600)
    device = SimulatedDevice(falling(hot, 38.0, tau_c), falling(watts, 60.0, tau_w))
    settled = device.settler(spec).come_back(START)
    assert settled is not None
    assert not settled.timed_out
    assert settled.start_c is not None
    assert settled.start_w is not None
    assert settled.start_c <= 45
    assert settled.start_w <= 70
    assert unsettled(settled, spec) == []
    needed = max(tau_c * math.log(max((hot - 38) / 7, 1)), tau_w * math.log(max((watts - 60) / 10, 1)))
    assert needed - 1e-9 <= settled.waited_s <= needed + LOOK_S + 1e-9
    assert bool(device.announced) == (needed > 0)


def test_a_device_that_is_settled_is_not_waited_for_and_nothing_is_announced() -> None:
    device = SimulatedDevice(constant(44.9), constant(69.9))
    settled = device.settler(SettleSpec()).come_back(START)
    assert settled == Settling(
        waited_s=0.0, timed_out=False, start_c=44.9, start_w=69.9, reference_c=40.0, reference_w=60.0
    )
    assert device.announced == []


@pytest.mark.parametrize(
    ("temperature", "power", "codes"),
    [
        (60.0, 60.0, ["temperature_not_settled"]),
        (40.0, 200.0, ["power_not_settled"]),
        (60.0, 200.0, ["temperature_not_settled", "power_not_settled"]),
        (None, 200.0, ["power_not_settled"]),
    ],
)
def test_the_timeout_is_recorded_and_names_what_has_not_settled(
    temperature: float | None, power: float, codes: list[str]
) -> None:
    spec = SettleSpec(timeout=30)
    device = SimulatedDevice(constant(temperature), constant(power))
    settled = device.settler(spec).come_back(START)
    assert settled is not None
    assert settled.timed_out
    assert 30 < settled.waited_s < 31
    reasons = unsettled(settled, spec)
    assert [reason.code for reason in reasons] == codes
    assert all("30 s" in reason.detail and reason.verdict == "suspect" for reason in reasons)


def test_the_blocks_first_trial_waits_until_power_has_stopped_falling() -> None:
    """NVML's averaged power still shows the block before; as a reference it would let everything pass."""
    device = SimulatedDevice(constant(50.0), falling(400.0, 60.0, 1.0))
    settled = device.settler(SettleSpec()).begin_block()
    assert settled is not None
    assert settled.start_w == settled.reference_w == pytest.approx(60, abs=10)
    assert settled.waited_s > 3
    assert device.announced == [0.0]


def test_a_steady_device_costs_the_blocks_first_trial_one_second() -> None:
    settled = SimulatedDevice(constant(35.0), constant(58.0)).settler(SettleSpec()).begin_block()
    assert settled is not None
    assert settled.waited_s == STEADY_S
    assert (settled.reference_c, settled.reference_w) == (35.0, 58.0)


def test_a_power_that_never_stops_falling_is_told() -> None:
    spec = SettleSpec(timeout=20)
    settled = SimulatedDevice(constant(35.0), lambda t: 4000.0 - 20 * t).settler(spec).begin_block()
    assert settled is not None
    assert settled.timed_out
    assert [reason.code for reason in unsettled(settled, spec)] == ["power_not_settled"]


def test_a_counter_that_has_no_power_at_its_first_poll_is_asked_again() -> None:
    device = SimulatedDevice(constant(None), lambda t: 200.0 if t > 0.1 else None)
    settled = device.settler(SettleSpec(timeout=5)).come_back(START)
    assert settled is not None
    assert settled.timed_out


def test_without_a_sensor_there_is_nothing_to_settle() -> None:
    settler = Settler(SettleSpec(), lambda: None, lambda: pytest.fail("announced"))
    assert settler.begin_block() is None
    assert settler.come_back(START) is None


def test_a_sensor_that_falls_silent_while_waiting_ends_in_the_timeout() -> None:
    device = SimulatedDevice(constant(60.0), constant(60.0))
    spec = SettleSpec(timeout=3)
    settler = Settler(
        spec, lambda: device.last() if device.now < 1 else None, lambda: None, lambda: device.now, device.sleep
    )
    settled = settler.come_back(START)
    assert settled is not None
    assert settled.timed_out
    assert settled.start_c == 60.0
