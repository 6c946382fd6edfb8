"""A trial on two devices: each is read, measured and judged by itself, and the record holds the sums beside."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import native_nvml
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_trial import ENERGY, job_of, outcome_of

from rayscale.attempt import PhaseLog, assemble_record, bell_of
from rayscale.energy.deviceset import devices_in, join_devices, places
from rayscale.energy.group import combined
from rayscale.energy.layout import TraceMeta
from rayscale.energy.process import SamplerProcess
from rayscale.energy.reader import Reading, missing_reading
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.sumtrace import finish_traces, newest_reading, read_attempt, sum_trace, together
from rayscale.energy.trace import Trace, read_trace
from rayscale.errors import EnvironmentUnusableError
from rayscale.record import Record

A, B = "GPU-aaaa0000-1111", "GPU-bbbb0000-2222"
BOTH = f"{A}+{B}"
HEADS = (f"gpu {A} Simulated-H100 9\npower 0 60", f"gpu {B} Simulated-H100 9\npower 0 80")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def script(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gpus.txt"
    path.write_text("\n".join(HEADS) + "\n")
    for name, value in native_nvml.environment(library, path).items():
        monkeypatch.setenv(name, value)
    return path


def test_two_devices_are_measured_by_themselves_and_added_up(script: Path, tmp_path: Path) -> None:
    directory = tmp_path / "attempt"
    job = replace(job_of(directory), device_uuid=BOTH)
    sampler = SamplerProcess(ENERGY, BOTH, None, directory)
    sampler.start()
    begin = time.monotonic() + 0.6
    loads = {A: 300.0, B: 200.0}
    changes = [f"{head}\npower {begin} {loads[uuid]}" for head, uuid in zip(HEADS, (A, B), strict=True)]
    script.with_suffix(".next").write_text("\n".join([*changes, f"reasons 0x20 {begin} inf"]) + "\n")
    script.with_suffix(".next").replace(script)
    with (directory / "log.jsonl").open("w", encoding="utf-8") as file:
        log = PhaseLog(file, bell_of(job))
        with log.phase("idle"):
            time.sleep(max(0.0, begin - 0.25 - time.monotonic()))
        with log.phase("train"):
            time.sleep(1.6)
        live = newest_reading(directory)
        with log.phase("eval"):
            time.sleep(0.3)
    record = assemble_record(job, outcome_of(log.phases, BOTH), sampler.stop(), [])
    assert record == Record.from_json(record.to_json())
    assert live is not None
    assert live.power_w == pytest.approx(500.0, rel=0.25)
    check_devices(record, loads, begin)
    check_sums(record)
    trace = read_trace(directory)
    assert (trace.meta.device_uuid, trace.meta.device_name) == (BOTH, "2 x Simulated-H100")
    assert np.nanmax(trace.power_w) == pytest.approx(500.0, rel=0.1)


def check_devices(record: Record, loads: dict[str, float], begin: float) -> None:
    train = next(phase for phase in record.phases if phase.name == "train")
    first, second = record.energy.devices
    assert [first.uuid, second.uuid] == [A, B]
    for one, idle_w in ((first, 60.0), (second, 80.0)):
        truth = loads[one.uuid] * (train.end - max(begin, train.start)) + idle_w * max(0.0, begin - train.start)
        found = one.phases["train"]
        assert found.energy_j is not None
        assert found.bound_j is not None
        assert abs(found.energy_j - truth) <= found.bound_j
    # only the second one is slowed down; the trial is no better than its worst device, and says which
    assert "throttled" in second.reasons
    assert "throttled" not in first.reasons
    assert second.verdict != "clean"
    assert record.quality.verdict == max((one.verdict for one in record.energy.devices), key=["clean", "suspect"].index)
    told = [reason.detail for reason in record.quality.reasons if reason.code == "throttled"]
    assert len(told) == 1
    assert told[0].startswith(f"{B}: ")


def check_sums(record: Record) -> None:
    whole, parts = record.energy.phases["train"], [one.phases["train"] for one in record.energy.devices]
    for name in ("energy_j", "bound_j", "counter_j", "mean_w", "sensor_bound_j"):
        assert getattr(whole, name) == pytest.approx(sum(getattr(part, name) for part in parts))
    assert whole.coverage == min(part.coverage for part in parts)
    assert whole.samples == min(part.samples for part in parts)
    assert record.energy.idle_w == pytest.approx(sum(one.idle_w or 0.0 for one in record.energy.devices))
    assert record.energy.net_energy_j == pytest.approx(sum(one.net_energy_j or 0.0 for one in record.energy.devices))
    assert whole.rms_w is not None
    assert whole.mean_w is not None
    assert whole.rms_w == pytest.approx(whole.mean_w, rel=0.35)  # of the sum, not the sum of rms values
    assert record.energy.method.startswith("sum of 2 devices: ")


def test_a_device_that_cannot_be_read_is_refused_by_name(script: Path, tmp_path: Path) -> None:
    sampler = SamplerProcess(ENERGY, f"{A}+GPU-none", None, tmp_path / "attempt")
    with pytest.raises(EnvironmentUnusableError, match="GPU-none"):
        sampler.start()


def test_a_device_without_a_trace_leaves_the_trial_without_energy(tmp_path: Path) -> None:
    from rayscale.record import Phase

    phases = [Phase(name="train", start=0.0, end=1.0)]
    record = assemble_record(replace(job_of(tmp_path), device_uuid=BOTH), outcome_of(phases, BOTH), None, [])
    assert record.energy.phases["train"].energy_j is None
    assert record.quality.verdict == "invalid"


def trace_of(watts: list[float], start: float, uuid: str = A) -> Trace:
    readings = [Reading(start + 0.1 * i, w, None, None, 40.0 + w, None, None, 0.0) for i, w in enumerate(watts)]
    return Trace.from_readings(readings, TraceMeta("nvml", "simulated", False, 0.1, device_uuid=uuid))


@given(
    one=st.lists(st.floats(0, 700), min_size=1, max_size=30),
    other=st.lists(st.floats(0, 700), min_size=1, max_size=30),
    shift=st.floats(0.0, 0.09),
)
def test_the_sums_trace_holds_what_each_device_showed_last(one: list[float], other: list[float], shift: float) -> None:
    first, second = trace_of(one, 1.0), trace_of(other, 1.0 + shift, B)
    found = sum_trace([first, second])
    assert found.meta.device_uuid == BOTH
    assert set(found.t) == set(first.t) | set(second.t)
    for t, watts in zip(found.t, found.power_w, strict=True):
        shown = [trace.power_w[trace.t <= t] for trace in (first, second)]
        if any(len(values) == 0 for values in shown):
            assert np.isnan(watts)  # one of them has not begun: no sum, and never a part for the whole
        elif not np.isnan(watts):
            assert watts == pytest.approx(shown[0][-1] + shown[1][-1])
        else:
            assert max(t - first.t[-1], t - second.t[-1]) > 0.2  # silent for longer than a poll vouches for


def test_a_crashed_samplers_traces_are_completed_from_outside(tmp_path: Path) -> None:
    from rayscale.energy.stream import TraceWriter

    for place, watts in zip(places(tmp_path, BOTH), (100.0, 200.0), strict=True):
        trace = trace_of([watts] * 5, 1.0)
        writer = TraceWriter(place, trace.meta)
        for t in trace.t:
            writer.append(replace(missing_reading(float(t), 0.0), power_w=watts))
        writer.close()
    assert read_attempt(tmp_path).power_w.tolist() == [300.0] * 5  # what a lost attempt drew is not lost
    finish_traces(tmp_path)
    assert read_attempt(tmp_path).t.tolist() == read_trace(tmp_path).t.tolist()
    assert read_trace(tmp_path).power_w.tolist() == [300.0] * 5


def test_sets_are_written_and_read() -> None:
    assert join_devices([A, B]) == BOTH
    assert join_devices([]) is None
    assert devices_in(BOTH) == (A, B)
    assert devices_in(None) == ()
    assert [place.name for place in places(Path("x"), BOTH)] == ["power-0", "power-1"]
    assert places(Path("x"), A) == places(Path("x"), None) == (Path("x"),)


def test_a_poll_of_several_is_known_when_all_are() -> None:
    hot = Reading(2.0, 100.0, None, 5.0, 70.0, 1200.0, None, 0.0)
    cool = Reading(1.0, 50.0, None, None, 40.0, 1900.0, None, 0.0)
    found = together([hot, cool])
    assert found is not None
    assert (found.t, found.power_w, found.energy_j, found.temperature_c, found.sm_clock_mhz) == (
        1.0,
        150.0,
        None,
        70,
        1200,
    )
    assert together([hot, None]) is None
    assert together([hot]) is hot


def test_what_samplers_did_is_told_by_sums_and_worst() -> None:
    one = SamplerStats(polls=10, missed=1, latency_p99_s=0.1, cpu_s=0.5, died=False, real_time=True)
    other = SamplerStats(polls=9, errors=2, latency_p99_s=0.3, cpu_s=None, first_error="x", died=True, real_time=False)
    found = combined([one, other])
    assert (found.polls, found.missed, found.errors, found.latency_p99_s) == (19, 1, 2, 0.3)
    assert (found.cpu_s, found.first_error, found.died, found.real_time) == (None, "x", True, False)
    assert combined([one]) is one
