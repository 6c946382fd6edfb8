"""The edges of a phase: told by the trial, read by the sampler, aligned to the counter's tick."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from energy_traces import meta, reading
from fake_nvml import Clock, FakeGpu, FakeNvml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from simgpu import PROFILES, Load, SimGpu, nvml_of, quick_trace

from rayscale.attempt import PhaseLog
from rayscale.energy.edges import ANSWER_TIMEOUT_S, Edge, EdgeBell, EdgeListener
from rayscale.energy.integrate import phase_energy
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.sampler import Sampler
from rayscale.energy.ticks import LIMIT_S, align_reads, follow_ticks
from rayscale.energy.trace import Trace, read_trace

OFF_RESONANCE = (0.0731, 0.1347, 0.2234, 0.3337, 0.4709, 0.7713)
START = 1000.0


# -- ticks ------------------------------------------------------------------------------------------------------------


@given(st.floats(0.02, 0.104), st.floats(0.0, 0.1), st.floats(50.0, 700.0), st.floats(0.0, 0.005))
def test_a_followed_tick_is_where_the_counter_grew(update: float, phase: float, watts: float, cost: float) -> None:
    clock = Clock(now=10.0, cost=cost / 3)

    def counter() -> float:
        return watts * np.floor((clock.now - phase) / update) * update

    begin, energy = clock.now, counter()
    ticks = follow_ticks(counter, (begin, energy), clock=clock, sleep=clock.advance)
    assert len(ticks) == 2
    for tick in ticks:
        true = round((tick.t - phase) / update) * update + phase
        assert abs(tick.t - true) <= tick.slack_s + 1e-9
        assert tick.energy_j == pytest.approx(watts * (true - phase), rel=1e-9)
        assert tick.slack_s <= 0.001 + cost + 1e-9
    assert clock.now < begin + LIMIT_S


def test_a_counter_without_ticks_is_given_up() -> None:
    clock = Clock()
    assert follow_ticks(lambda: 5.0, (1000.0, 5.0), clock=clock, sleep=clock.advance) == []
    assert clock.now <= 1000.0 + LIMIT_S + 0.01
    assert follow_ticks(lambda: None, (1000.0, 5.0), clock=clock, sleep=clock.advance) == []


def test_a_plain_read_before_a_tick_moves_to_the_tick_before() -> None:
    times, energy = np.array([5.0, 6.0, 6.06, 6.09, 6.19]), np.array([50.0, 59.0, 59.0, 60.0, 61.0])
    nan = np.nan
    aligned = align_reads(times, energy, np.array([nan, nan, nan, 0.001, 0.001]), 0.1)
    # the read at 6.06 shows what became true at 5.99; that at 6.00 says nothing more
    assert aligned.times.tolist() == pytest.approx([5.0, 5.99, 6.09, 6.19])
    assert aligned.energy_j.tolist() == [50.0, 59.0, 60.0, 61.0]
    assert aligned.late.tolist() == [0.1, 0.0, 0.0, 0.0]
    assert aligned.slack.tolist() == pytest.approx([0.0, 0.006, 0.001, 0.001])
    uneven = align_reads(
        np.array([5.0, 5.05, 5.11, 6.06, 6.09, 6.19]), np.arange(6.0), np.array([nan, 1e-3, 1e-3, nan, 1e-3, 1e-3]), 0.1
    )
    assert uneven.times.tolist() == pytest.approx([4.97, 5.05, 5.11, 6.01, 6.09, 6.19])
    assert uneven.slack[3] == pytest.approx(0.021)  # periods of 60 and 100 ms were seen
    plain = align_reads(times, energy, np.full(5, nan), 0.1)
    assert (plain.times.tolist(), plain.late.tolist()) == (times.tolist(), [0.1] * 5)


@example(update=0.0390625, phase=0.0859375, plain=[0.015625], edges=[0.0, 0.03125])
@given(
    update=st.floats(0.02, 0.104),
    phase=st.floats(0.0, 0.1),
    plain=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20, unique=True),
    edges=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=3),
)
def test_every_aligned_read_became_true_when_it_says(
    update: float, phase: float, plain: list[float], edges: list[float]
) -> None:
    """Plain reads anywhere, bursts at some edges: what is kept is in order, and true at its time give or take."""

    def tick(t: float) -> float:
        return float(np.floor((t - phase) / update + 1e-9) * update + phase)

    reads = dict.fromkeys(plain, np.nan)
    for edge in edges:
        first = tick(edge) + update
        assume(first - edge > 1e-5)  # a tick is seen by a later read than that of the edge
        reads |= {edge: np.nan, first: 0.001, first + update: 0.001}
    times = np.array(sorted(reads))
    energy = np.array([100.0 * tick(t) for t in times])
    apart = np.append(np.diff(times) > 1e-6, True)  # of two at once the later one, as the ring is
    slack = np.array([reads[t] for t in times])
    aligned = align_reads(times[apart], energy[apart], slack[apart], 0.104)
    assert (np.diff(aligned.times) > 0).all()
    true = aligned.energy_j / 100.0
    assert (true >= aligned.times - aligned.late - aligned.slack - 1e-6).all()
    assert (true <= aligned.times + aligned.slack + 1e-6).all()
    assert set(aligned.energy_j) <= set(energy)


# -- what they are good for -------------------------------------------------------------------------------------------


def case(rng: np.random.Generator, tick: float) -> tuple[SimGpu, np.ndarray, tuple[float, float], tuple[float, float]]:
    """A GPU, poll times, a phase and its two rings: the trial waits for both ticks before it starts, and rings at its
    end."""
    seconds = float(rng.uniform(4.0, 20.0))
    low, high = sorted(rng.uniform(80.0, 690.0, 2))
    load = Load.steps(START, seconds, float(rng.choice(OFF_RESONANCE)) * rng.uniform(0.999, 1.001), low, high)
    profile = PROFILES[str(rng.choice(list(PROFILES)))]
    start, end = START - float(rng.uniform(0.0, 0.002)), float(load.edges[-1])
    second_tick = start - float(rng.uniform(0.001, 0.005))
    gpu = SimGpu(load, profile, noise_w=3.0, seed=int(rng.integers(1 << 31)), phase_s=second_tick, counter_tick_s=tick)
    times = START - 5.0 + rng.uniform(0.0, 0.1) + np.arange(round((seconds + 10.0) / 0.1)) * 0.1
    rings = second_tick - tick * float(rng.uniform(1.0, 2.0)), end + float(rng.uniform(0.0, 0.003))
    return gpu, times + rng.uniform(0.0, 0.004, len(times)), (start, end), rings


@pytest.mark.parametrize("counter_tick", [0.1, 0.02])
def test_aligned_edges_are_many_times_sharper_and_still_bound_the_truth(counter_tick: float) -> None:
    """Phases of 4 to 20 s: with the ticks the edges leave open an eighth of what once-a-second reads leave."""
    rng, held, ratios, errors = np.random.default_rng(7), 0, [], []
    for _ in range(150):
        gpu, times, window, rings = case(rng, counter_tick)
        truth = float(gpu.load.energy(window[1]) - gpu.load.energy(window[0]))
        sharp, plain = (phase_energy(quick_trace(gpu, times, edges=at), [window], "counter") for at in (rings, ()))
        assert sharp.edge_bound_j is not None
        assert plain.edge_bound_j is not None
        assert sharp.counter_j is not None
        assert plain.counter_j is not None
        held += abs(sharp.counter_j - truth) <= sharp.edge_bound_j
        ratios.append(sharp.edge_bound_j / plain.edge_bound_j)
        errors.append((abs(sharp.counter_j - truth), abs(plain.counter_j - truth)))
    assert held >= 149
    assert np.median(ratios) < 0.13
    sharp_error, plain_error = np.mean(errors, axis=0)
    assert sharp_error < 0.5 * plain_error


def test_reader_finds_the_ticks_of_a_simulated_gpu() -> None:
    gpu, clock = SimGpu(Load([0.0, START], [60.0, 500.0]), phase_s=0.037), Clock(START + 5.0)
    reader = NvmlReader(gpu.uuid, nvml=nvml_of(gpu, clock), clock=clock, sleep=clock.advance)
    edge = reader.read_edge()
    ticks = reader.read_ticks(edge)
    assert [tick.t for tick in ticks] == pytest.approx([START + 5.037, START + 5.137], abs=0.0011)
    assert [tick.counter_slack_s for tick in ticks] == pytest.approx([0.001, 0.001])
    assert edge.energy_j is not None
    assert ticks[0].energy_j == pytest.approx(edge.energy_j + 50.0)
    assert ticks[0].power_w is None


def test_a_gpu_without_counter_has_no_ticks() -> None:
    device = FakeGpu("GPU-x", failing={83, "nvmlDeviceGetTotalEnergyConsumption"})
    clock = Clock()
    reader = NvmlReader("GPU-x", nvml=FakeNvml(device, clock=clock), clock=clock, sleep=clock.advance)
    assert reader.read_ticks(reader.read_edge()) == []


# -- the bell ---------------------------------------------------------------------------------------------------------


def test_the_trial_rings_between_its_phases_and_asks_for_the_tick_around_training() -> None:
    rung: list[tuple[bool, float]] = []

    class Bell:
        def ring(self, *, tick: bool) -> bool:
            rung.append((tick, time.monotonic()))
            return True

    log = PhaseLog(io.StringIO(), Bell())  # type: ignore[arg-type]
    for name in ("idle", "eval", "warmup", "train", "eval"):
        with log.phase(name):
            time.sleep(0.001)
    assert [tick for tick, _ in rung] == [False, False, False, True, True]
    assert not any(phase.start < at < phase.end for phase in log.phases for _, at in rung)


def waited(listener: EdgeListener, seconds: float) -> Edge | None:
    listener.alarm(time.monotonic() + seconds, 60.0)
    return listener.wait()


def test_a_ring_without_a_sampler_is_refused_at_once(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert not EdgeBell(tmp_path).ring(tick=True)
    assert time.monotonic() - begin < 0.2


def test_a_ring_to_a_stopped_sampler_ends(tmp_path: Path) -> None:
    listener = EdgeListener(tmp_path)
    assert not EdgeBell(tmp_path, timeout_s=0.05).ring(tick=False)
    heard = waited(listener, 1.0)
    assert heard is not None
    assert not heard.tick
    listener.answer(heard)  # nobody waits any more
    listener.close()


def test_a_ring_that_is_heard_too_late_is_ignored(tmp_path: Path) -> None:
    """After a SIGSTOP the phase has long begun: nothing extra may be read in it."""
    listener = EdgeListener(tmp_path)
    assert not EdgeBell(tmp_path, timeout_s=0.01).ring(tick=True)
    time.sleep(ANSWER_TIMEOUT_S)
    begin = time.monotonic()
    assert waited(listener, 0.1) is None
    assert time.monotonic() - begin >= 0.1  # it slept on until its deadline
    listener.close()


def test_the_name_passes_on_to_the_next_sampler(tmp_path: Path) -> None:
    first, second = EdgeListener(tmp_path), EdgeListener(tmp_path)
    ringing = threading.Thread(target=EdgeBell(tmp_path).ring, kwargs={"tick": True})
    ringing.start()
    edge = waited(first, 2.0)
    assert edge is not None
    assert edge.tick
    first.answer(edge)
    ringing.join()
    assert waited(second, 0.0) is None
    first.close()
    second.close()
    third = EdgeListener(tmp_path)
    third.wake()
    begin = time.monotonic()
    assert waited(third, 5.0) is None
    assert time.monotonic() - begin < 1.0
    third.close()


def test_the_sampler_reads_the_edge_while_the_trial_waits(tmp_path: Path) -> None:
    """The counter is read within milliseconds outside the phase, and no deadline counts as missed."""
    reader = NvmlReader("GPU-x", nvml=FakeNvml(_Ticking("GPU-x"), clock=_Now()), slow_period_s=60.0)
    sampler, bell = Sampler(reader, tmp_path, 0.05), EdgeBell(tmp_path)
    sampler.start()
    rung = time.monotonic()
    answered = bell.ring(tick=True)
    start = time.monotonic()
    time.sleep(0.3)
    end = time.monotonic()
    answered &= bell.ring(tick=True)
    read = time.monotonic()
    stats = sampler.stop()
    trace = read_trace(tmp_path)
    assert answered
    reads = trace.t[np.isfinite(trace.energy_j)]
    assert not np.any((reads > start) & (reads < end))  # nothing but power is read inside the phase
    ticks = trace.t[np.isfinite(trace.counter_slack_s)]
    assert len(ticks) == 4
    assert rung <= ticks[0] < ticks[1] <= start
    assert end <= ticks[2] < ticks[3] <= read
    assert stats.missed <= 2


class _Now(Clock):
    """The real clock, for the simulated binding."""

    @property
    def now(self) -> float:  # type: ignore[override]
        return time.monotonic()

    @now.setter
    def now(self, value: float) -> None:
        return None


class _Ticking(FakeGpu):
    def energy_mj(self, t: float) -> int:
        return round(1e5 * np.floor(t / 0.05) * 0.05)


def test_traces_without_the_column_are_read_as_plain_reads(tmp_path: Path) -> None:
    trace = Trace.from_readings([reading(float(i), 100.0, 100.0 * i) for i in range(5)], meta(resolution=0.1))
    assert np.isnan(trace.counter_slack_s).all()
    energy = phase_energy(trace, [(1.0, 3.0)])
    assert energy.counter_j == pytest.approx(200.0)
    assert energy.edge_bound_j == pytest.approx(10.0)
