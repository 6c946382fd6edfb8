from __future__ import annotations

import numpy as np
import pytest
from fault_bench import attempt, gpu
from hypothesis import given
from hypothesis import strategies as st
from simgpu import PROFILES, Load, SimGpu

from rayscale.energy.resonance import MIN_WINDOWS, worst_bias
from rayscale.energy.sensors import SensorWindow
from rayscale.spec import EnergySpec

SECONDS, POLL = 60.0, 0.1
LIMIT = EnergySpec().max_resonance


def true_bias(profile: str, step: float, phases: int = 8) -> float:
    """Largest relative error of the mean of polls over the phases between load and sensor."""
    sensor = PROFILES[profile].instant or PROFILES[profile].usage
    load = Load.steps(0.0, SECONDS, step, low=300.0, high=700.0)
    end = float(load.edges[-1])
    truth = float(load.energy(end) - load.energy(0.0)) / end
    polls, errors = np.arange(2, int(end / POLL) - 2) * POLL + 0.05, []
    for phase in np.arange(phases) / phases * min(step, POLL):
        shown = SimGpu(load, PROFILES[profile], phase_s=float(phase) % sensor.update_s).shown(sensor, polls + phase)
        errors.append(abs(float(shown.mean()) / truth - 1))
    return max(errors)


@pytest.mark.parametrize("profile", ["A100", "H100", "V100"])
@pytest.mark.parametrize("step", [0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9])
def test_steps_in_resonance_are_flagged(profile: str, step: float) -> None:
    sensor = PROFILES[profile].instant or PROFILES[profile].usage
    assert true_bias(profile, step) > LIMIT
    assert worst_bias(step, sensor, POLL, SECONDS) > LIMIT


def test_every_resonant_case_and_almost_no_other_is_flagged() -> None:
    rng = np.random.default_rng(4)
    steps = np.exp(rng.uniform(np.log(0.03), np.log(3.0), 800))
    # random steps hardly ever hit: add some near the worst places
    steps = np.concatenate([steps, rng.choice([0.1, 0.2, 0.25, 0.5], 60) * rng.uniform(0.9995, 1.0005, 60)])
    sensor = SensorWindow(0.1, 0.025)
    bias = np.array([true_bias("A100", float(step)) for step in steps])
    flagged = np.array([worst_bias(float(step), sensor, POLL, SECONDS) > LIMIT for step in steps])
    resonant, harmless = bias > LIMIT, bias < 0.01
    assert resonant.sum() >= 50
    assert flagged[resonant].all()
    assert flagged[~resonant].mean() < 0.01
    assert harmless.sum() >= 700
    assert flagged[harmless].mean() < 0.01


@given(st.floats(0.001, 10.0), st.floats(1.0, 1e4))
def test_a_sensor_that_sees_all_of_the_time_has_no_resonance(step: float, seconds: float) -> None:
    assert worst_bias(step, SensorWindow(0.1, 0.1), POLL, seconds) == 0.0
    assert worst_bias(step, SensorWindow(0.1, 1.0), POLL, seconds) == 0.0
    assert 0.0 <= worst_bias(step, SensorWindow(0.1, 0.025), POLL, seconds) < 1.0


def test_short_phases_and_fast_polls() -> None:
    sensor = SensorWindow(0.02, 0.01)
    assert worst_bias(0.1, sensor, 0.1, 0.99 * MIN_WINDOWS * 0.1) == 0.0
    assert worst_bias(0.13, sensor, 0.1, 60.0) != worst_bias(0.13, sensor, 0.02, 60.0)


def test_verdict_depends_on_whether_the_energy_rests_on_that_sensor() -> None:
    for profile, expected in (("A100", "suspect"), ("H100", "clean")):
        outcome = attempt(gpu(profile, 0.2))
        assert outcome.quality is not None
        assert {r.code: r.verdict for r in outcome.quality.reasons if r.code == "resonance"} == {"resonance": expected}
    assert "disagreement" not in outcome.codes  # the H100's instantaneous power is off, named, and not used
    assert outcome.energy_is_right
    assert outcome.quality is not None
    assert outcome.quality.verdict == "clean"
