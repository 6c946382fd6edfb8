from __future__ import annotations

import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.tracking.content import AttemptClock
from rayscale.tracking.series import MAX_POINTS, power_points, progress_points, thin

CLOCK = AttemptClock(started_ms=1_700_000_000_000, origin_s=5_000.0)


def parquet(**columns: list[float]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 5000), most=st.integers(1, 1000))
def test_thinning_keeps_order_bounds_and_means(size, most):
    t = np.arange(size) * 0.1
    values = np.sin(t) * 50 + 100
    thin_t, thin_values = thin(t, values, most)
    assert len(thin_t) == len(thin_values) == min(size, most)
    assert (np.diff(thin_t) > 0).all()
    assert values.min() - 1e-9 <= thin_values.min()
    assert thin_values.max() <= values.max() + 1e-9
    if size % most == 0:  # equal groups: the mean of the means is the mean, so power keeps its energy
        assert thin_values.mean() == pytest.approx(values.mean(), rel=1e-12)


def test_power_is_placed_in_wall_clock_and_missing_samples_stay_missing():
    points = power_points(parquet(t=[5000.0, 5000.1, 5000.2], power_w=[math.nan, 20.0, 30.0]), CLOCK)
    assert [(p.key, p.value, p.time_ms, p.step) for p in points] == [
        ("power_w", 20.0, 1_700_000_000_100, 100),
        ("power_w", 30.0, 1_700_000_000_200, 200),
    ]


def test_power_falls_back_to_the_instantaneous_reading():
    points = power_points(parquet(t=[1.0], power_w=[math.nan], instant_w=[7.0]), CLOCK)
    assert [p.value for p in points] == [7.0]
    assert power_points(parquet(t=[1.0], power_w=[math.nan]), CLOCK) == []


def test_long_traces_are_thinned_to_distinct_steps():
    t = 5000 + np.arange(36_000) * 0.1
    points = power_points(parquet(t=t.tolist(), power_w=np.full(36_000, 70.0).tolist()), CLOCK)
    assert len(points) == MAX_POINTS
    assert len({p.step for p in points}) == MAX_POINTS
    assert [p.value for p in points] == pytest.approx([70.0] * MAX_POINTS)


def log_lines(count: int) -> bytes:
    lines = [{"event": "phase", "t": 5000.0, "name": "train"}]
    lines += [
        {"event": "step", "t": 5000 + i, "step": i, "tokens": i, "loss": 3.0, "tokens_per_s": 10.0}
        for i in range(1, count + 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_progress_lines_become_two_series():
    points = progress_points(log_lines(3), CLOCK)
    assert [(p.key, p.step) for p in points] == [(k, s) for k in ("loss", "speed_tokens_per_s") for s in (1, 2, 3)]
    assert points[0].time_ms == 1_700_000_001_000


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 4321])
def test_progress_is_thinned_and_keeps_its_last_line(count):
    loss = [p for p in progress_points(log_lines(count), CLOCK) if p.key == "loss"]
    assert len(loss) <= MAX_POINTS
    assert loss[-1].step == count


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 400), garbage=st.binary(max_size=40))
def test_torn_and_damaged_logs_lose_lines_only(cut, garbage):
    content = log_lines(5)[:cut] + b"\n" + garbage.replace(b"step", b"") + b"\n" + log_lines(5)
    loss = [p.step for p in progress_points(content, CLOCK) if p.key == "loss"]
    assert loss[-5:] == [1, 2, 3, 4, 5]


def test_values_that_are_no_numbers_are_left_out():
    line = {"event": "step", "t": 5001.0, "step": 1, "loss": math.nan, "tokens_per_s": None}
    assert progress_points(json.dumps(line).encode(), CLOCK) == []
