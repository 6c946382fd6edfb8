from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.errors import InputError
from rayscale.training.rowfiles import PASSAGE_CHARS, documents_in, passages

ROWS = [f"row {i} of the file" for i in range(600)]


def write_arrow(path: Path, table: pa.Table, *, footed: bool) -> None:
    make = pa.ipc.new_file if footed else pa.ipc.new_stream
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=250)


@pytest.mark.parametrize("footed", [True, False])
def test_both_forms_of_arrow_files_are_read(tmp_path: Path, footed: bool) -> None:
    table = pa.table({"id": range(600), "body": ROWS})
    write_arrow(tmp_path / "a.arrow", table, footed=footed)
    assert list(documents_in(tmp_path / "a.arrow", "body")) == ROWS


def test_the_files_of_a_saved_dataset_are_arrow_files(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ROWS}).save_to_disk(str(tmp_path / "set"))
    [path] = (tmp_path / "set").glob("*.arrow")
    assert list(documents_in(path, "text")) == ROWS


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_of_text_column_is_read_and_nulls_are_left_out(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array(["a", None, "", "b"]).cast(kind)})
    write_arrow(tmp_path / "a.arrow", table, footed=True)
    assert list(documents_in(tmp_path / "a.arrow", "text")) == ["a", "b"]


def refused(path: Path, column: str = "text") -> str:
    with pytest.raises(InputError) as caught:
        list(documents_in(path, column))
    [problem] = caught.value.problems
    assert "\n" not in problem
    return problem


def test_damaged_tables_are_one_line(tmp_path: Path) -> None:
    table = pa.table({"text": ROWS})
    pq.write_table(table, tmp_path / "cut.parquet", compression="none", use_dictionary=False)
    whole = bytearray((tmp_path / "cut.parquet").read_bytes())
    whole[10:2000] = bytes(1990)  # a footer that is fine over pages that are not
    (tmp_path / "cut.parquet").write_bytes(whole)
    assert "cut.parquet: no readable parquet file" in refused(tmp_path / "cut.parquet")
    for footed in (True, False):
        write_arrow(tmp_path / "cut.arrow", table, footed=footed)
        content = (tmp_path / "cut.arrow").read_bytes()
        (tmp_path / "cut.arrow").write_bytes(content[: len(content) // 2])
        assert "cut.arrow: no readable Arrow file" in refused(tmp_path / "cut.arrow")
    for name in ("none.parquet", "none.arrow"):
        (tmp_path / name).write_bytes(b"")
        assert f"{name}: no readable" in refused(tmp_path / name)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_that_is_not_there_or_no_text_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    table = pa.table({"id": [1, 2], "body": ["a", "b"]})
    if suffix == "arrow":
        write_arrow(path, table, footed=False)
    else:
        pq.write_table(table, path)
    assert "expected a column `text` (data.text_column); the file has: id, body" in refused(path)
    assert "column `id`: expected text, got int64" in refused(path, "id")


def test_a_broken_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"text": "fine"})
    for bad, message in {
        '{"text": "cut': "expected one JSON object per line",
        "[" * 100_000: "expected one JSON object per line",
        '["text"]': "expected text under the key `text` (data.text_column); the row has: list",
        '{"text": null}': "expected text under the key `text` (data.text_column); the row has: text",
    }.items():
        path.write_text(f"{good}\n\n{bad}\n{good}\n")
        assert refused(path) == f"data.files: {path}:3: {message}"


def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    for suffix in ("txt", "jsonl"):
        path = tmp_path / f"gone.{suffix}"
        assert refused(path) == f"data.files: {path}: cannot be read: No such file or directory"


def test_text_that_is_no_utf8_far_into_the_file_is_refused_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n" * 400_000 + b"\xff")
    assert refused(path) == f"data.files: {path}: expected UTF-8 text"
    assert list(documents_in(path, "text", lenient=True)) == []


@given(st.text(alphabet="ab\n é", max_size=60), st.integers(1, 4000), st.lists(st.integers(1, 70_000), max_size=8))
@settings(max_examples=60, deadline=None)
def test_where_a_piece_ends_makes_no_difference(text: str, times: int, cuts: list[int]) -> None:
    long = text * times
    edges = [0, *sorted(min(cut, len(long)) for cut in cuts), len(long)]
    pieces = [long[a:b] for a, b in itertools.pairwise(edges)]
    parts = list(passages(pieces))
    assert parts == list(passages([long]))
    assert "".join(parts) == long
    assert all(0 < len(part) <= PASSAGE_CHARS for part in parts)


def test_a_large_text_file_is_cut_as_its_text_is(tmp_path: Path) -> None:
    """More than one piece, with line ends of two bytes and letters of two bytes on their borders."""
    text = "".join(f"línea {i} é\n" for i in range(200_000))
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="\r\n")
    assert list(documents_in(path, "text")) == list(passages([text]))
    assert list(documents_in(path, "text", lenient=True)) == list(passages([text]))
    (tmp_path / "empty.txt").write_text("")
    assert list(documents_in(tmp_path / "empty.txt", "text")) == []
