from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import text_spec

from rayscale.training.encoding import Meter, batch_bytes, batched, encode_batches, in_order
from rayscale.training.streamfile import StreamWriter
from rayscale.training.tokenizer import load_tokenizer

texts = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), max_size=20)


def rows(documents: list[str]) -> Iterator[tuple[int, str, int]]:
    return ((index, text, len(text.encode())) for index, text in enumerate(documents))


@given(texts, st.integers(1, 100))
def test_batches_hold_every_document_once_and_are_full(documents: list[str], limit: int) -> None:
    batches = list(batched(rows(documents), limit))
    assert [index for batch in batches for index in batch.indices] == list(range(len(documents)))
    assert [text for batch in batches for text in batch.texts] == documents
    for number, batch in enumerate(batches):
        assert batch.size == sum(len(text.encode()) for text in batch.texts)
        assert batch.size - len(batch.texts[-1].encode()) < limit
        assert batch.size >= limit or number == len(batches) - 1


@given(texts, st.integers(1, 40), st.sampled_from(["uint16", "uint32"]))
@settings(max_examples=40, deadline=None)
def test_encoded_batches_are_the_documents_each_closed(documents: list[str], limit: int, dtype: str) -> None:
    tokenizer = load_tokenizer(text_spec(files=["x.txt"]), Path("unused"), "corpus", lambda: iter(()))
    found = list(encode_batches(tokenizer, batched(rows(documents), limit), dtype))
    assert all(batch.ids.dtype == dtype for batch in found)
    ids = [part for batch in found for part in np.split(batch.ids, np.cumsum(batch.lengths)[:-1])]
    assert [part.tolist() for part in ids] == [[*text.encode(), 256] for text in documents]
    assert sum(batch.size for batch in found) == sum(len(text.encode()) for text in documents)


def test_results_keep_their_order_and_work_overlaps() -> None:
    together = threading.Barrier(2, timeout=20)  # only passed when two calls run at a time

    def work(item: int) -> int:
        together.wait()
        time.sleep(0.01 * (item % 2 == 0))  # the earlier one ends later
        return item

    assert list(in_order(work, range(10), 2)) == list(range(10))


def test_items_are_read_only_as_they_are_needed() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in itertools.count():
            read.append(item)
            yield item

    results = in_order(lambda item: item, items(), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) <= 5 + 2
    results.close()


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = in_order(work, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_batches_share_the_cores_and_stay_bounded() -> None:
    assert 1_000_000 <= batch_bytes() <= 8_000_000


def test_progress_is_at_most_one_line_a_period_and_one_at_the_end() -> None:
    now, lines = [0.0], list[str]()
    meter = Meter(lines.append, "tokenising", total=9_000_000, clock=lambda: now[0])
    for _ in range(9):
        now[0] += 0.25
        meter.add(1_000_000)
    assert lines == ["tokenising: 4.0 of 9.0 MB, 4.0 MB/s", "tokenising: 8.0 of 9.0 MB, 4.0 MB/s"]
    meter.finish()
    meter.finish()
    assert lines[2:] == ["tokenising: 9.0 of 9.0 MB, 4.0 MB/s"]


documents_of = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 9), st.booleans()), max_size=25)


@given(documents_of, st.integers(1, 7), st.sampled_from(["uint16", "uint32"]))
@settings(max_examples=60, deadline=None)
def test_a_stream_is_its_documents_in_the_order_of_their_keys(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[int, int, bool]], batch: int, dtype: str
) -> None:
    directory = tmp_path_factory.mktemp("stream")
    order = np.asarray([key for key, _, _ in documents], dtype=np.uint64)
    sizes = np.arange(len(documents), dtype=np.int64) + 100
    mine = [index for index, (_, _, taken) in enumerate(documents) if taken]
    writer = StreamWriter(directory / "train.bin", dtype)
    for start in range(0, len(mine), batch):
        indices = np.asarray(mine[start : start + batch])
        lengths = np.asarray([documents[index][1] for index in indices])
        writer.append(indices, lengths, np.repeat(indices, lengths))
    text = writer.finish(order, sizes)
    ranked = sorted(mine, key=lambda index: documents[index][0])
    expected = [index for index in ranked for _ in range(documents[index][1])]
    assert np.fromfile(directory / "train.bin", dtype=dtype).tolist() == expected
    tokens, ends = np.load(directory / "train_documents.npy")
    assert tokens.tolist() == list(itertools.accumulate(documents[index][1] for index in ranked))
    assert ends.tolist() == list(itertools.accumulate(int(sizes[index]) for index in ranked))
    assert (writer.tokens, writer.documents, text) == (len(expected), len(mine), sum(100 + index for index in mine))
    assert sorted(path.name for path in directory.iterdir()) == ["train.bin", "train_documents.npy"]
