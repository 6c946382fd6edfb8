"""Counter, averaged and instantaneous power are compared where all of them looked: a gap is not a disagreement."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from energy_traces import reading, sampled, trace_of
from fault_bench import START, Outcome, attempt
from hypothesis import given, settings
from hypothesis import strategies as st
from simgpu import PROFILES, Load, SimGpu

from rayscale.energy.agreement import compare
from rayscale.energy.integrate import choose_estimate, integrate_window, power_steps
from rayscale.energy.measure import energy_result
from rayscale.energy.quality import judge
from rayscale.record import Phase
from rayscale.spec import EnergySpec

SECONDS = 20.0


def attempt_with_gap(
    gap: tuple[float, float],
    *,
    change: float,
    low: float,
    high: float,
    profile: str = "H100",
    counter_gain: float = 1.0,
) -> Outcome:
    """20 s at two levels of power; nobody polls for a while. All times from the start of the phase."""
    edges = START + np.array([-1000.0, 0.0, change, SECONDS - 0.5, SECONDS])
    load = Load(edges, [60.0, low, high, high, 60.0])
    gpu = SimGpu(load, PROFILES[profile], noise_w=2.0, phase_s=0.037, counter_gain=counter_gain)
    return attempt(gpu, lose=lambda t: START + gap[0] < t < START + gap[1])


def disagreement(outcome: Outcome) -> str | None:
    assert outcome.quality is not None
    return next((reason.verdict for reason in outcome.quality.reasons if reason.code == "disagreement"), None)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_gap_in_which_the_power_changes_is_a_gap_and_no_disagreement(profile: str) -> None:
    outcome = attempt_with_gap((8.0, 11.0), change=8.1, low=150.0, high=650.0, profile=profile)
    assert outcome.codes - {"unavailable"} == {"coverage"}  # the driver keeps no samples to fill the gap
    assert outcome.quality is not None
    assert outcome.quality.verdict == "suspect"
    assert outcome.energy_is_right
    assert outcome.result is not None
    assert outcome.result.method.startswith("counter")
    train = outcome.result.phases["train"]
    assert train.counter_j is not None
    assert train.integral_j is not None
    # what was held through the gap is wrong by more than any threshold, and that is what the rule must see through
    assert abs(train.integral_j / train.counter_j - 1) > 0.10


@pytest.mark.parametrize("gain", [0.92, 1.08])
@pytest.mark.parametrize("change", [8.1, 10.9, 15.0])
def test_a_true_disagreement_is_found_beside_the_gap(gain: float, change: float) -> None:
    outcome = attempt_with_gap((8.0, 11.0), change=change, low=150.0, high=650.0, counter_gain=gain)
    assert disagreement(outcome) == "suspect"
    assert "coverage" in outcome.codes
    assert outcome.quality is not None
    (words,) = [reason.detail for reason in outcome.quality.reasons if reason.code == "disagreement"]
    assert words.endswith("s between the gaps")


@settings(max_examples=40, deadline=None)
@given(
    begin=st.floats(0.5, 14.0),
    length=st.floats(0.3, 5.0),
    change=st.floats(0.5, 19.0),
    low=st.floats(100.0, 300.0),
    high=st.floats(300.0, 690.0),
    profile=st.sampled_from(sorted(PROFILES)),
)
def test_no_gap_makes_an_attempt_invalid(
    begin: float, length: float, change: float, low: float, high: float, profile: str
) -> None:
    outcome = attempt_with_gap((begin, begin + length), change=change, low=low, high=high, profile=profile)
    assert disagreement(outcome) != "invalid"
    assert outcome.result is not None
    assert outcome.result.method.startswith("counter")
    assert outcome.energy_is_right


@given(holes=st.lists(st.floats(0.0, 19.5), max_size=4), end=st.floats(1.0, 19.0))
def test_without_a_change_all_parts_agree_exactly(holes: list[float], end: float) -> None:
    """Constant power: whatever is left out, counter and integral are P times the time that is left."""
    rows = [
        row
        for row in sampled(lambda t: 200.0, 20.0, counter=True)
        if not any(hole < row.t < hole + 1.0 for hole in holes)
    ]
    window = integrate_window(trace_of(rows), 0.0, end)
    seen = window.compared
    assert 0.0 < seen.seconds <= end + 1e-9
    for energy in (seen.counter_j, seen.integral_j):
        assert energy is None or energy == pytest.approx(200.0 * seen.seconds)
    if not holes:
        assert seen.seconds == pytest.approx(end)


def test_a_quotient_that_begins_anew_after_a_gap_is_no_disagreement() -> None:
    """A counter-only source whose sampler was replaced: its first power after the gap is not that of the gap."""
    watts = [5.0 if index < 60 else 15.0 for index in range(200)]
    energy = np.concatenate([[0.0], np.cumsum(watts)]) * 0.1
    kept = [index for index in range(201) if not 50 < index < 80]
    known = [None, *watts]
    rows = [reading(0.1 * i, None if i in (0, 80) else known[i], float(energy[i])) for i in kept]
    trace = trace_of(rows, "estimated")
    phases = [Phase(name="train", start=2.03, end=18.04)]
    result = energy_result(trace, phases, EnergySpec())
    train = result.phases["train"]
    assert train.energy_j == pytest.approx(5.0 * 3.97 + 15.0 * 12.04)
    assert train.integral_j is not None
    assert train.integral_j > 1.03 * train.energy_j  # what was held back through the gap
    found = {reason.code for reason in judge(trace, phases, result, EnergySpec(), None).reasons}
    assert found == {"estimated", "coverage"}


def test_where_little_is_left_the_gaps_are_allowed_for() -> None:
    """Half a second in each second is lost: no interval of the counter is whole, so all of it is compared."""
    rows = [
        row
        for index, row in enumerate(sampled(lambda t: 200.0 if t < 9.95 else 400.0, 20.0, counter=True))
        if index % 10 < 5
    ]
    trace = trace_of([row if round(10 * row.t) % 10 == 0 else replace(row, energy_j=None) for row in rows])
    window = integrate_window(trace, 0.0, 20.0)
    power = power_steps(trace)
    assert power is not None
    assert window.compared.seconds == pytest.approx(20.0)
    assert window.compared.slack_j == pytest.approx(power.gap_bound(0.0, 20.0))
    assert window.compared.slack_j > 0
    assert choose_estimate(trace, [window]) == "counter"


def test_nothing_is_compared_without_estimates() -> None:
    seen = compare(None, None, None, 0.0, 10.0)
    assert (seen.counter_j, seen.integral_j, seen.instant_j, seen.slack_j) == (None, None, None, 0.0)
    assert math.isclose(seen.seconds, 10.0)
