"""Could the training steps be in step with a sensor that looks only part of the time?

A step of length T makes power swing at k/T, k = 1, 2, ...; a sensor that looks for w every u sees k/T and k/T - m/u as
the same. Where |k/T - m/u| x duration is small, the swing does not average out, and longer runs do not help: at T = u
the error reaches 48 % (research/energy.md 3.2). For a square wave of relative swing s the k-th harmonic has amplitude
s 2/(pi k), which the window reduces to the share |sin x / x|, x = pi k w / T; a beat at frequency f leaves at most
1/(pi f duration) of it. Jitter of the steps would weaken all this; it is not known, so the worst is assumed.
"""

from __future__ import annotations

import math

import numpy as np

from rayscale.energy.sensors import SensorWindow

SWING = 0.7
"""Assumed swing of power within a step, relative to its mean (700 W computing, 300 W waiting): exactly in resonance
the sensor does not show it."""
HARMONICS = 25
MIN_WINDOWS = 100
"""In a shorter phase everything beats slowly; there `PhaseEnergy.sampling_bound_j` speaks."""


def worst_bias(step_s: float, sensor: SensorWindow, period_s: float, duration_s: float) -> float:
    """Give the largest relative error that step and sensor may make together.

    Args:
        step_s: Mean time of a training step, in s.
        sensor: Its window and update period.
        period_s: Time between polls, in s: a sensor polled more slowly than it updates is as good as its polls.
        duration_s: Length of the phase, in s.

    Returns:
        Relative error; 0 for a sensor that sees all of the time, and for a phase of less than `MIN_WINDOWS` windows.
    """
    every = max(sensor.update_s, period_s)
    if sensor.window_s >= every or step_s <= 0 or duration_s < MIN_WINDOWS * every:
        return 0.0
    k = np.arange(1, HARMONICS + 1)
    frequency = k / step_s
    image = np.round(frequency * every)
    beat = np.abs(frequency - image / every)
    left = np.minimum(1.0, 1.0 / np.maximum(math.pi * beat * duration_s, 1e-12))
    amplitude = SWING * 2 / (math.pi * k) * np.abs(np.sinc(k * sensor.window_s / step_s))
    # image 0 is the swing itself, which the sensor follows
    return float(np.max(np.where(image > 0, amplitude * left, 0.0)))
