from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from energy_traces import meta, reading, sampled
from hypothesis import given
from hypothesis import strategies as st

from rayscale.energy.layout import PARQUET, STREAM, batch_of, last_in, parse_stream, schema_of
from rayscale.energy.reader import Reading
from rayscale.energy.stream import TraceWriter
from rayscale.energy.trace import Trace, TraceMeta, finalize, last_reading, read_trace
from rayscale.errors import InputError

ROWS = [
    reading(0.0, None, 1.0, throttle=""),
    reading(0.1, 70.5, 8.0, instant=71.0, temperature=40.0, throttle="SwPowerCap"),
    reading(0.2),
    reading(0.3, 90.0, 26.0),
]


def write(directory: Path, batches: list[list], finish: bool = True) -> None:
    writer = TraceWriter(directory, meta())
    for batch in batches:
        for row in batch:
            writer.append(row)
        writer.flush()
    if finish:
        writer.close()


def same(one: Trace, other: Trace) -> bool:
    columns = ("t", "power_w", "instant_w", "energy_j", "temperature_c", "sm_clock_mhz", "latency_s")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in columns)
    return equal and one.throttle.tolist() == other.throttle.tolist() and one.meta == other.meta


NUMBER = st.none() | st.floats(allow_nan=False)
WORDS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@given(
    st.lists(
        st.builds(
            Reading,
            t=st.floats(allow_nan=False),
            power_w=NUMBER,
            instant_w=NUMBER,
            energy_j=NUMBER,
            temperature_c=NUMBER,
            sm_clock_mhz=NUMBER,
            throttle=WORDS,
            latency_s=st.floats(0.0, 1.0),
            others=WORDS,
            fault=WORDS,
            counter_slack_s=NUMBER,
        ),
        min_size=1,
        max_size=20,
    )
)
def test_a_batch_holds_every_value_and_every_missing_one(rows: list[Reading]) -> None:
    batch = batch_of(rows, schema_of(meta()))
    batch.validate(full=True)
    assert [Reading(**row) for row in batch.to_pylist()] == rows
    _, (read,), _ = parse_stream(batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes())
    assert read.to_pylist() == batch.to_pylist()
    assert [column.null_count for column in read.columns] == [column.null_count for column in batch.columns]


def test_stream_and_parquet_hold_the_same_trace(tmp_path: Path) -> None:
    write(tmp_path, [ROWS[:2], ROWS[2:]])
    streamed = read_trace(tmp_path)
    assert same(streamed, Trace.from_readings(ROWS, meta()))
    assert finalize(tmp_path) == tmp_path / PARQUET
    assert [path.name for path in tmp_path.iterdir()] == [PARQUET]
    assert same(read_trace(tmp_path), streamed)
    assert finalize(tmp_path) == tmp_path / PARQUET
    assert streamed.missing.tolist() == [False, False, True, False]
    assert (streamed.source, streamed.estimated, streamed.period_s, len(streamed)) == ("nvml", False, 0.1, 4)


def test_last_reading_is_the_newest_whole_poll(tmp_path: Path) -> None:
    assert last_reading(tmp_path) is None
    write(tmp_path, [ROWS[:1]])
    assert last_reading(tmp_path) == ROWS[0]
    write(tmp_path, [[row] for row in sampled(lambda t: 1.0, 60.0, begin=1.0)])
    newest = last_reading(tmp_path)
    assert newest is not None
    assert newest.t == pytest.approx(60.0)
    with (tmp_path / STREAM).open("ab") as file:
        file.write(b"\xff\xff\xff\xff\x10")
    assert last_reading(tmp_path) == newest


@given(cut=st.integers(0, 4000), tail=st.binary(max_size=40))
def test_stream_may_end_anywhere(cut: int, tail: bytes) -> None:
    schema = schema_of(meta())
    parts = [schema.serialize().to_pybytes(), *(batch_of([row], schema).serialize().to_pybytes() for row in ROWS)]
    content = b"".join(parts)
    ends = np.cumsum([len(part) for part in parts])
    found, batches, end = parse_stream(content[:cut])
    whole = int(np.sum(ends <= min(cut, len(content))))
    assert len(batches) == max(0, whole - 1)
    assert (found is not None) == (whole > 0)
    assert end == (ends[whole - 1] if whole else 0)
    _, more, _ = parse_stream(content + tail)
    assert len(more) == len(ROWS)
    assert last_in(content[:cut]) == (ROWS[whole - 2] if whole > 1 else None)


def test_sampler_that_was_killed_can_be_continued(tmp_path: Path) -> None:
    write(tmp_path, [ROWS[:2], ROWS[2:3]], finish=False)
    torn = (tmp_path / STREAM).read_bytes()[:-7]
    (tmp_path / STREAM).write_bytes(torn)
    write(tmp_path, [ROWS[3:]])
    assert read_trace(tmp_path).t.tolist() == [0.0, 0.1, 0.3]


def test_header_torn_by_a_kill_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, [ROWS[:1]])
    (tmp_path / STREAM).write_bytes((tmp_path / STREAM).read_bytes()[:50])
    write(tmp_path, [ROWS])
    assert len(read_trace(tmp_path)) == 4


def test_crash_between_parquet_and_removing_the_stream(tmp_path: Path) -> None:
    write(tmp_path, [ROWS])
    stream = (tmp_path / STREAM).read_bytes()
    finalize(tmp_path)
    (tmp_path / STREAM).write_bytes(stream)
    write(tmp_path, [[reading(0.4, 1.0)]])
    assert read_trace(tmp_path).t.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    finalize(tmp_path)
    assert len(read_trace(tmp_path)) == 5
    assert not (tmp_path / STREAM).exists()


def test_missing_and_damaged_traces_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no power trace"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match="no power trace"):
        finalize(tmp_path)
    (tmp_path / PARQUET).write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match="unreadable power trace"):
        read_trace(tmp_path)


def test_full_disk_loses_nothing_once_there_is_room(tmp_path: Path) -> None:
    """A limit on the file's size is a disk that fills up in the middle of a write."""
    writer = TraceWriter(tmp_path, meta())
    writer.append(ROWS[0])
    writer.flush()
    size = (tmp_path / STREAM).stat().st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, old[1]))
    try:
        writer.append(ROWS[1])
        writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert writer.error is not None
    assert "OSError" in writer.error
    assert len(read_trace(tmp_path)) == 1
    writer.append(ROWS[2])
    writer.close()
    assert read_trace(tmp_path).t.tolist() == [0.0, 0.1, 0.2]


def test_writing_and_reading_a_trace_stays_light(tmp_path: Path) -> None:
    """The sampler and every forked trial do this; pandas alone would cost them a third of a second."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom rayscale.energy.estimated import EstimatedReader\n"
        "from rayscale.energy.sampler import Sampler\nfrom rayscale.energy.trace import read_trace\n"
        "import rayscale.energy.process, rayscale.energy.quality\n"
        "s = Sampler(EstimatedReader(os.getpid(), idle_w=5, w_per_cpu=10), Path(sys.argv[1]), 0.01)\n"
        "s.start(); s.mark(); s.stop()\nassert len(read_trace(Path(sys.argv[1]))) >= 2\n"
        "print(sorted({'pandas', 'torch', 'ray', 'mlflow', 'pynvml', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_which_side_of_a_sample_power_describes() -> None:
    assert [TraceMeta(s, "", False, 0.1).hold for s in ("nvml", "rapl", "estimated")] == [  # type: ignore[arg-type]
        "forward",
        "backward",
        "backward",
    ]
