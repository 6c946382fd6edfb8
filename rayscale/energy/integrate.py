"""From a power trace and a window to energy: counter, averaged power and instantaneous power, each with its bound.

The three estimates stay apart until `phase_energy` names one of them `energy_j`. Which one: the counter for RAPL and
the estimate (power is derived from it there); for NVML the counter if it ran through the window without reset or
standstill and lies near the integral (`energy.max_counter_deviation`), else the integral.

    energy ± bound,  bound = edges + gaps + sampling + sensor class        each part by name in `PhaseEnergy`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayscale.energy.agreement import NOT_COMPARED, Compared, compare
from rayscale.energy.counter import Counter, counter_of
from rayscale.energy.layout import MAX_HOLD_PERIODS
from rayscale.energy.signals import Blur, Steps, backward_steps, forward_steps
from rayscale.energy.slow import grown_share, inside
from rayscale.energy.trace import Trace
from rayscale.record import PhaseEnergy
from rayscale.spec import EnergySpec

MIN_USABLE_COVERAGE = 0.5
"""Below this share of covered time an integral of held samples is guesswork and not given."""
NORMAL_99 = 2.576
"""Two-sided 99 % point of the normal distribution."""
STANDSTILL_UPDATES, LEAST_STANDSTILL_S = 9, 0.9
"""Default of `energy.max_standstill`: updates of the counter, and at least so long."""

Estimate = Literal["counter", "integral"]


@dataclass(frozen=True)
class WindowEnergy:
    """One window's energy by every estimate. Units: s, J, W² s; None = unavailable.

    Attributes:
        duration_s: Length of the window.
        counter_j: Growth of the device's cumulative counter.
        integral_j: Integral of the primary power.
        instant_j: Integral of instantaneous power.
        counter_bound_j: Half-width of what the counter's edges leave open.
        integral_bound_j: Half-width of what edges, gaps and part-time sampling leave open in `integral_j`.
        gap_bound_j: The part of it that gaps make.
        sampling_bound_j: The part of it that part-time sampling makes.
        square_w2s: Integral of the squared primary power.
        covered_s: Time that power polls vouch for.
        samples: Power polls inside the window.
        backfilled: Power samples from the driver's own buffer inside the window.
        resets: Resets of the counter that touch the window.
        standstill_s: Longest time in which the counter did not grow.
        compared: The estimates over the part of the window that all of them have seen.
    """

    duration_s: float
    counter_j: float | None
    integral_j: float | None
    instant_j: float | None
    counter_bound_j: float | None
    integral_bound_j: float | None
    square_w2s: float | None
    covered_s: float
    samples: int
    resets: int
    standstill_s: float
    gap_bound_j: float | None = None
    sampling_bound_j: float | None = None
    backfilled: int = 0
    compared: Compared = NOT_COMPARED


def power_steps(trace: Trace) -> Steps | None:
    """Read the primary power of a trace as a step function.

    Args:
        trace: The trace; without primary power its instantaneous power is taken.

    Returns:
        The step function, None without any sample.
    """
    hold = max_hold(trace)
    if trace.meta.hold == "backward":
        return backward_steps(trace.t, trace.power_w, np.isfinite(trace.energy_j), hold)
    blur, shift = Blur.of(trace.meta.power, trace.period_s), trace.meta.power_shift_s
    primary = forward_steps(trace.t, trace.power_w, hold, shift_s=shift, blur=blur)
    return primary or instant_steps(trace)


def instant_steps(trace: Trace) -> Steps | None:
    """Read the instantaneous power of a trace as a step function.

    Args:
        trace: The trace.

    Returns:
        The step function, None without any sample.
    """
    blur, shift = Blur.of(trace.meta.instant, trace.period_s), trace.meta.instant_shift_s
    return forward_steps(trace.t, trace.instant_w, max_hold(trace), shift_s=shift, blur=blur)


def max_hold(trace: Trace) -> float:
    """Say how long one poll vouches for its value. Units: s."""
    return MAX_HOLD_PERIODS * trace.meta.period_s


def integrate_window(trace: Trace, start: float, end: float) -> WindowEnergy:
    """Integrate one window.

    Args:
        trace: The trace.
        start: CLOCK_MONOTONIC in s.
        end: The same, not before `start`.

    Returns:
        All estimates.

    Raises:
        ValueError: If the window ends before it starts.
    """
    return integrate_windows(trace, [(start, end)])[0]


def integrate_windows(trace: Trace, windows: Sequence[tuple[float, float]]) -> list[WindowEnergy]:
    """Integrate several windows of one trace.

    Args:
        trace: The trace.
        windows: Start and end, CLOCK_MONOTONIC in s.

    Returns:
        One result per window.

    Raises:
        ValueError: If a window ends before it starts.
    """
    power = power_steps(trace)
    instant = instant_steps(trace)
    # instantaneous power does not trail as the 1-s average does; counter-only sources have no shape of their own
    shape = (instant or power) if trace.meta.hold == "forward" else None
    slack, resolution = trace.counter_slack_s, trace.meta.counter_resolution_s
    counter = counter_of(trace.t, trace.energy_j, power, shape, slack_s=slack, resolution_s=resolution)
    signals = _Signals(power, instant, counter)
    return [_window(trace, signals, *window) for window in windows]


@dataclass(frozen=True, eq=False)
class _Signals:
    power: Steps | None
    instant: Steps | None
    counter: Counter | None


def _window(trace: Trace, signals: _Signals, start: float, end: float) -> WindowEnergy:
    if not end >= start:
        raise ValueError(f"expected a window that ends after it starts, got {start} .. {end}")
    power, instant, counter = signals.power, signals.instant, signals.counter
    usable = _usable(power, start, end)
    counter_j, counter_bound = _by_counter(trace, counter, start, end)
    instant_usable = _usable(instant, start, end)
    gap = usable.gap_bound(start, end) if usable else None
    sampling = _sampling_bound(trace, usable, start, end)
    within = (trace.t >= start) & (trace.t <= end)
    polled = ~(np.isnan(trace.power_w) & np.isnan(trace.instant_w)) & ~trace.backfilled
    return WindowEnergy(
        duration_s=end - start,
        counter_j=counter_j,
        integral_j=usable.energy(start, end) if usable else None,
        instant_j=instant_usable.energy(start, end) if instant_usable else None,
        counter_bound_j=counter_bound,
        integral_bound_j=total([usable.edge_bound(start, end), gap, sampling]) if usable else None,
        square_w2s=usable.square(start, end) if usable else None,
        covered_s=power.covered(start, end) if power else 0.0,
        samples=int(np.sum(within & polled)),
        resets=counter.resets_in(start, end) if counter else 0,
        standstill_s=counter.longest_standstill(start, end) if counter else 0.0,
        gap_bound_j=gap,
        sampling_bound_j=sampling,
        backfilled=int(np.sum(within & trace.backfilled & np.isfinite(trace.power_w))),
        compared=compare(usable, instant_usable, counter if counter_j is not None else None, start, end),
    )


def _sampling_bound(trace: Trace, steps: Steps | None, start: float, end: float) -> float | None:
    """Bound what a part-time sensor may miss of a load that is not in step with it: 2.58 standard errors of a mean.

    n windows of length w, one every `every` seconds, see the share w / every of the time; the finite-population factor
    sqrt(1 - w / every) makes the error vanish for a sensor that sees all of it.
    """
    sensor = trace.meta.power
    if steps is None:
        return None
    every = max(sensor.update_s, trace.period_s) if sensor is not None else 0.0
    if sensor is None or sensor.window_s >= every or end <= start:
        return 0.0
    inside = steps.values[(steps.stops > start) & (steps.starts < end)]
    sd = float(np.std(inside, ddof=1)) if len(inside) > 1 else 0.0
    n = max(1.0, (end - start) / every)
    return NORMAL_99 * sd / math.sqrt(n) * math.sqrt(1 - sensor.window_s / every) * (end - start)


def _usable(steps: Steps | None, start: float, end: float) -> Steps | None:
    enough = steps is not None and steps.covered(start, end) >= MIN_USABLE_COVERAGE * (end - start)
    return steps if enough else None


def _by_counter(trace: Trace, counter: Counter | None, start: float, end: float) -> tuple[float | None, float | None]:
    """Take the counter's growth; it must have been read (almost) up to both edges."""
    slack = max_hold(trace)
    if counter is None or start < counter.first - slack or end > counter.last + slack:
        return None, None
    return counter.steps.energy(start, end), counter.bound(start, end)


def choose_estimate(trace: Trace, windows: Sequence[WindowEnergy], spec: EnergySpec | None = None) -> Estimate:
    """Decide which estimate `energy_j` is.

    Args:
        trace: The trace.
        windows: The windows that decide, usually those of the `train` phase.
        spec: Thresholds; None takes the defaults.

    Returns:
        `counter` or `integral`.
    """
    if trace.source != "nvml":
        return "counter"
    spec, seen = spec or EnergySpec(), compared_in(windows)
    if seen.counter_j is None or seen.integral_j is None:
        return "integral" if seen.counter_j is None else "counter"
    faulty = any(w.resets or w.standstill_s >= standstill_limit(trace, spec) for w in windows)
    apart = max(0.0, abs(seen.counter_j - seen.integral_j) - seen.slack_j)
    return "counter" if apart <= spec.max_counter_deviation * seen.integral_j and not faulty else "integral"


def compared_in(windows: Sequence[WindowEnergy]) -> Compared:
    """Add up what of some windows all estimates have seen."""
    parts = [window.compared for window in windows]
    return Compared(
        counter_j=total([part.counter_j for part in parts]),
        integral_j=total([part.integral_j for part in parts]),
        instant_j=total([part.instant_j for part in parts]),
        slack_j=math.fsum(part.slack_j for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
    )


def standstill_limit(trace: Trace, spec: EnergySpec) -> float:
    """Say how long a healthy counter of a device that draws power may stand still. Units: s."""
    if trace.estimated:
        return math.inf
    if spec.max_standstill is not None:
        return spec.max_standstill
    # strictly longer than one 1-s counter read, whose times jitter by a few ms
    return max(LEAST_STANDSTILL_S, STANDSTILL_UPDATES * trace.meta.counter_resolution_s)


def phase_energy(trace: Trace, windows: Sequence[tuple[float, float]], estimate: Estimate | None = None) -> PhaseEnergy:
    """Add up the windows of one phase.

    Args:
        trace: The trace.
        windows: Start and end of each, CLOCK_MONOTONIC in s.
        estimate: Which estimate is `energy_j`; None decides by these windows. Where it is unavailable the other is
            taken.

    Returns:
        The phase's energy; None where any of its windows has none.
    """
    parts = integrate_windows(trace, windows)
    estimate = estimate or choose_estimate(trace, parts)
    duration = math.fsum(part.duration_s for part in parts)
    counter, integral = total([p.counter_j for p in parts]), total([p.integral_j for p in parts])
    counter_bound, integral_bound = (
        total([p.counter_bound_j for p in parts]),
        total([p.integral_bound_j for p in parts]),
    )
    by_counter = counter is not None and (estimate == "counter" or integral is None)
    energy = counter if by_counter else integral
    if by_counter:
        bounds = _Bounds.of(counter_bound, 0.0, 0.0, energy, trace.meta.accuracy)
    else:
        gaps, sampling = total([p.gap_bound_j for p in parts]), total([p.sampling_bound_j for p in parts])
        bounds = _Bounds.of(integral_bound, gaps, sampling, energy, trace.meta.accuracy)
    square = total([p.square_w2s for p in parts])
    return PhaseEnergy(
        duration_s=duration,
        energy_j=energy,
        counter_j=counter,
        integral_j=integral,
        instant_j=total([p.instant_j for p in parts]),
        bound_j=bounds.total_j,
        edge_bound_j=bounds.edge_j,
        gap_bound_j=bounds.gap_j,
        sampling_bound_j=bounds.sampling_j,
        sensor_bound_j=bounds.sensor_j,
        mean_w=_over(integral if integral is not None else counter, duration),
        rms_w=math.sqrt(square / duration) if square is not None and duration > 0 else None,
        sd_w=_sample_sd(trace, windows),
        samples=sum(p.samples for p in parts),
        backfilled=sum(p.backfilled for p in parts),
        coverage=_over(math.fsum(p.covered_s for p in parts), duration) or 0.0,
        power_capped_share=grown_share(trace.t, trace.power_violation_s, windows),
        thermal_share=grown_share(trace.t, trace.thermal_violation_s, windows),
    )


def _sample_sd(trace: Trace, windows: Sequence[tuple[float, float]]) -> float | None:
    """Standard deviation of the power samples inside some windows (n - 1)."""
    samples = trace.power_w[inside(trace.t, windows) & np.isfinite(trace.power_w)]
    return float(np.std(samples, ddof=1)) if len(samples) >= 2 else None


@dataclass(frozen=True)
class _Bounds:
    total_j: float | None = None
    edge_j: float | None = None
    gap_j: float | None = None
    sampling_j: float | None = None
    sensor_j: float | None = None

    @classmethod
    def of(
        cls,
        measured: float | None,
        gap: float | None,
        sampling: float | None,
        energy: float | None,
        accuracy: float | None,
    ) -> _Bounds:
        """Name the parts: what was measured is edges + gaps + sampling; the sensor's class comes on top."""
        if measured is None or gap is None or sampling is None or energy is None:
            return cls()
        sensor = None if accuracy is None else accuracy * abs(energy)
        edge = max(0.0, measured - gap - sampling)
        return cls(measured + (sensor or 0.0), edge, gap, sampling, sensor)


def total(values: Sequence[float | None]) -> float | None:
    """Add up; None if there is nothing or any part is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def _over(value: float | None, duration: float) -> float | None:
    return value / duration if value is not None and duration > 0 else None
