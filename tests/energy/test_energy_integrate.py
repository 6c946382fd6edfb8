from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from energy_traces import reading, sampled, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.energy.integrate import choose_estimate, integrate_window, integrate_windows, phase_energy

times = st.floats(min_value=0.0, max_value=1e6)
watts = st.floats(min_value=0.1, max_value=1000.0)


def step(t: float) -> float:
    return 70.0 if t < 9.999 else 700.0


def test_step_of_70_and_700_watts_is_7700_joules() -> None:
    """A trapezoid over the changes gives 3850 J here (energy.md 1.2)."""
    trace = trace_of(sampled(step, 20.0, counter=True))
    window = integrate_window(trace, 0.0, 20.0)
    assert window.integral_j == pytest.approx(7700.0, rel=1e-9)
    assert window.counter_j == pytest.approx(7700.0, rel=1e-9)


def test_constant_70_watts_is_1400_joules() -> None:
    """Samples that repeat are samples: change-only integration gives 0 J here (energy.md 1.2)."""
    energy = phase_energy(trace_of(sampled(lambda t: 70.0, 20.0)), [(0.0, 20.0)])
    assert energy.energy_j == pytest.approx(1400.0, rel=1e-9)
    assert energy.counter_j is None
    assert energy.instant_j is None
    assert (energy.mean_w, energy.rms_w) == (pytest.approx(70.0), pytest.approx(70.0))
    assert energy.coverage == pytest.approx(1.0)
    assert energy.bound_j == pytest.approx(0.0, abs=1e-9)
    assert energy.samples == 201


@given(
    power=watts,
    begin=times,
    gaps=st.lists(st.floats(0.01, 0.2), min_size=3, max_size=40),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    source=st.sampled_from(["nvml", "rapl", "estimated"]),
)
def test_constant_power_over_any_window(
    power: float, begin: float, gaps: list[float], cut: tuple[float, float], source: str
) -> None:
    at = begin + np.concatenate([[0.0], np.cumsum(gaps)])
    rows = [reading(float(t), power if i else None, power * float(t - begin)) for i, t in enumerate(at)]
    if source == "nvml":
        rows[0] = reading(float(at[0]), power, 0.0)
    start, end = sorted(begin + share * float(at[-1] - begin) for share in cut)
    window = integrate_window(trace_of(rows, source), start, end)  # type: ignore[arg-type]
    expected = pytest.approx(power * (end - start), rel=1e-6 if begin > 10 else 1e-9, abs=1e-6)
    assert window.counter_j == expected
    assert window.integral_j == pytest.approx(power * (end - start), rel=1e-9)
    assert window.covered_s == pytest.approx(end - start, abs=1e-9)


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 0.2), watts), min_size=2, max_size=30),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_signal_sampled_at_its_changes_is_exact(steps: list[tuple[float, float]], cut: tuple[float, float]) -> None:
    at = np.concatenate([[0.0], np.cumsum([length for length, _ in steps])])
    total = float(at[-1])
    power = [value for _, value in steps]
    start, end = sorted(share * total for share in cut)

    def true_energy(to: float) -> float:
        return math.fsum(p * max(0.0, min(to, b) - a) for p, a, b in zip(power, at[:-1], at[1:], strict=True))

    expected = true_energy(end) - true_energy(start)
    forward = trace_of([reading(float(t), p) for t, p in zip(at, [*power, power[-1]], strict=True)])
    backward = trace_of(
        [reading(float(t), p, true_energy(float(t))) for t, p in zip(at, [None, *power], strict=True)], "estimated"
    )
    window = integrate_window(forward, start, end)
    assert window.integral_j == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert window.integral_bound_j is not None
    both = integrate_window(backward, start, end)
    assert both.counter_j == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert both.integral_j == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(
    values=st.lists(st.one_of(watts, st.none()), min_size=20, max_size=60).filter(
        lambda v: sum(x is not None for x in v) > 15
    ),
    cuts=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
)
def test_windows_add_up(values: list[float | None], cuts: list[float]) -> None:
    rows, energy = [], 0.0
    for index, value in enumerate(values):
        rows.append(reading(index * 0.1, value, None if value is None else energy, instant=value))
        energy += (value or 50.0) * 0.1
    trace = trace_of(rows)
    end = (len(values) - 1) * 0.1
    edges = [0.0, *sorted(cut * end for cut in cuts), end]
    power = [integrate_window(trace, a, b).integral_j for a, b in itertools.pairwise(edges)]
    whole = integrate_window(trace, 0.0, end)
    if None not in power and whole.integral_j is not None:
        assert math.fsum(p for p in power if p is not None) == pytest.approx(whole.integral_j, rel=1e-9)
    counter = [integrate_window(trace, a, b).counter_j for a, b in itertools.pairwise(edges)]
    if None not in counter and whole.counter_j is not None:
        assert math.fsum(c for c in counter if c is not None) == pytest.approx(whole.counter_j, rel=1e-9)


@settings(max_examples=200)
@given(change=st.floats(0.5, 9.5), high=watts, low=watts, cut=st.tuples(st.floats(0.3, 9.7), st.floats(0.3, 9.7)))
def test_truth_lies_within_the_bound_of_a_counter(
    change: float, high: float, low: float, cut: tuple[float, float]
) -> None:
    """One step of power anywhere, counter read every 0.1 s, window edges anywhere."""
    start, end = sorted(cut)

    def energy(t: float) -> float:
        return low * min(t, change) + high * max(0.0, t - change)

    rows = [reading(i * 0.1, low if i * 0.1 < change else high, energy(i * 0.1)) for i in range(101)]
    window = integrate_window(trace_of(rows), start, end)
    assert window.counter_j is not None
    assert window.counter_bound_j is not None
    assert abs(window.counter_j - (energy(end) - energy(start))) <= window.counter_bound_j + 1e-9


def test_edges_between_samples_count_in_the_bound() -> None:
    trace = trace_of(sampled(step, 20.0))
    inside = integrate_window(trace, 5.05, 9.97)
    assert inside.integral_j == pytest.approx(70 * 4.92)
    assert inside.integral_bound_j == pytest.approx(0.07 * 630, rel=1e-6)


def test_gap_is_held_but_not_covered_and_enters_the_bound() -> None:
    rows = [row for row in sampled(lambda t: 100.0 if t < 5 else 300.0, 20.0) if not 3.05 < row.t < 7.95]
    window = integrate_window(trace_of(rows), 0.0, 20.0)
    assert window.covered_s == pytest.approx(20 - (5.0 - 0.25), abs=0.02)
    assert window.integral_bound_j is not None
    assert window.integral_j is not None
    assert abs(window.integral_j - 5000.0) <= window.integral_bound_j
    assert window.integral_bound_j < 1000


def test_failed_polls_are_gaps_not_zeros() -> None:
    rows = sampled(lambda t: 100.0, 10.0)
    rows[20:60] = [reading(row.t) for row in rows[20:60]]
    window = integrate_window(trace_of(rows), 0.0, 10.0)
    assert window.integral_j == pytest.approx(1000.0)
    assert window.covered_s == pytest.approx(10.0 - (4.1 - 0.25), abs=1e-6)


def test_trace_that_ends_early_gives_no_number() -> None:
    trace = trace_of(sampled(lambda t: 100.0, 4.0, counter=True))
    window = integrate_window(trace, 0.0, 10.0)
    assert (window.integral_j, window.counter_j, window.instant_j) == (None, None, None)
    assert phase_energy(trace, [(0.0, 10.0)]).energy_j is None
    slightly = integrate_window(trace, 0.0, 4.2)
    assert slightly.counter_j == pytest.approx(420.0)
    assert slightly.integral_j == pytest.approx(420.0)


def test_empty_trace_and_no_windows() -> None:
    energy = phase_energy(trace_of([]), [(0.0, 1.0)])
    assert (energy.energy_j, energy.mean_w, energy.samples, energy.coverage) == (None, None, 0, 0.0)
    assert phase_energy(trace_of(sampled(step, 1.0)), []).energy_j is None
    with pytest.raises(ValueError, match="after it starts"):
        integrate_window(trace_of([]), 2.0, 1.0)


def test_counter_reset_is_bridged_by_power_and_flagged() -> None:
    rows = sampled(lambda t: 200.0, 10.0, counter=True)
    rows = [row if row.t < 5.05 else reading(row.t, 200.0, 200.0 * (row.t - 5.05)) for row in rows]
    trace = trace_of(rows)
    window = integrate_window(trace, 0.0, 10.0)
    assert window.resets == 1
    assert window.counter_j == pytest.approx(2000.0)
    assert choose_estimate(trace, [window]) == "integral"
    assert integrate_window(trace, 6.0, 10.0).resets == 0
    alone = trace_of([reading(row.t, None, row.energy_j) for row in rows])
    assert integrate_window(alone, 0.0, 10.0).counter_j is None


def test_counter_that_stands_still_is_not_believed() -> None:
    rows = [
        reading(row.t, 200.0, min(row.energy_j or 0.0, 800.0)) for row in sampled(lambda t: 200.0, 10.0, counter=True)
    ]
    trace = trace_of(rows)
    window = integrate_window(trace, 0.0, 10.0)
    assert window.standstill_s == pytest.approx(6.0)
    assert choose_estimate(trace, [window]) == "integral"
    assert phase_energy(trace, [(0.0, 10.0)]).energy_j == pytest.approx(2000.0)
    assert integrate_window(trace, 0.0, 3.0).standstill_s == 0.0


def test_short_standstills_apart_do_not_add_up() -> None:
    """A counter that updates every 0.3 s is healthy, however often it is polled."""
    rows = [reading(i * 0.1, 200.0, 60.0 * (i // 3)) for i in range(101)]
    window = integrate_window(trace_of(rows), 0.0, 10.0)
    assert window.standstill_s == pytest.approx(0.2)
    assert choose_estimate(trace_of(rows), [window]) == "counter"


def test_phase_edge_between_two_counter_reads_follows_the_power() -> None:
    """The counter grows 700 W only after the step; an even spread over its 1-s interval would misplace 158 J."""
    rows = [
        row if index % 10 == 0 else reading(row.t, row.power_w)
        for index, row in enumerate(sampled(lambda t: 70.0 if t < 9.499 else 700.0, 20.0, counter=True))
    ]
    window = integrate_window(trace_of(rows), 9.5, 15.0)
    assert window.counter_j == pytest.approx(700 * 5.5)
    assert window.counter_bound_j is not None
    assert window.counter_bound_j > 150


def test_counter_is_primary_when_consistent_and_lags_are_bounded_by_its_resolution() -> None:
    trace = trace_of(sampled(lambda t: 200.0, 10.0, counter=True), resolution=0.1)
    energy = phase_energy(trace, [(1.0, 9.0)])
    assert energy.energy_j == energy.counter_j
    assert energy.bound_j == pytest.approx(20.0)
    far = [reading(row.t, 200.0, (row.energy_j or 0.0) * 1.2) for row in sampled(lambda t: 200.0, 10.0, counter=True)]
    assert phase_energy(trace_of(far), [(1.0, 9.0)]).energy_j == pytest.approx(1600.0)


def test_sparse_counter_is_read_between_its_polls() -> None:
    """The counter is polled once per second, power ten times."""
    rows = [
        row if index % 10 == 0 else reading(row.t, row.power_w)
        for index, row in enumerate(sampled(lambda t: 200.0, 10.0, counter=True))
    ]
    assert integrate_window(trace_of(rows), 0.55, 9.05).counter_j == pytest.approx(200 * 8.5)


def test_windows_of_one_phase_are_added() -> None:
    trace = trace_of(sampled(step, 20.0, counter=True))
    both = phase_energy(trace, [(0.0, 2.0), (15.0, 16.0)])
    assert both.duration_s == pytest.approx(3.0)
    assert both.energy_j == pytest.approx(140.0 + 700.0)
    assert both.mean_w == pytest.approx(280.0)
    assert both.rms_w == pytest.approx(math.sqrt((70**2 * 2 + 700**2) / 3))
    assert phase_energy(trace, [(0.0, 2.0), (100.0, 101.0)]).energy_j is None


def test_long_trace_is_integrated_fast_enough_for_a_trial() -> None:
    trace = trace_of(sampled(lambda t: 200.0, 7200.0, counter=True))
    windows = integrate_windows(trace, [(float(i), float(i) + 1000) for i in range(6)])
    assert all(window.integral_j == pytest.approx(200_000.0, rel=1e-9) for window in windows)
