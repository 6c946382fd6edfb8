from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import text_spec, tiny_spec

from rayscale.errors import InputError
from rayscale.spec import SweepSpec
from rayscale.training.cachefiles import made_once
from rayscale.training.data import PreparedData, check_budget, prepare
from rayscale.training.documents import open_stdlib
from rayscale.training.rowfiles import PASSAGE_CHARS, passages

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def write_texts(directory: Path, count: int = 40) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    texts = [" ".join(WORDS[(i * k) % 10] for k in range(1, 30)) + f" {i}" for i in range(count)]
    for i, text in enumerate(texts):
        (directory / f"{i:03}.txt").write_text(text)
    return texts


def documents(stream: np.ndarray) -> list[str]:
    """Cut a stream of the bytes tokenizer back into its documents."""
    parts = bytes(np.where(stream == 256, 0, stream).astype(np.uint8)).split(b"\0")
    assert parts.pop() == b""
    return [part.decode() for part in parts]


def with_texts(tmp_path: Path) -> tuple[SweepSpec, list[str]]:
    texts = write_texts(tmp_path / "texts")
    return text_spec(files=[str(tmp_path / "texts" / "*.txt")]), texts


def test_every_document_is_on_exactly_one_side(tmp_path: Path) -> None:
    spec, texts = with_texts(tmp_path)
    data = prepare(spec, tmp_path / "cache")
    train, held_out = documents(data.train()), documents(data.held_out())
    assert sorted(train + held_out) == sorted(texts)
    assert 1 <= len(held_out) <= 20
    assert data.eval_bytes_per_token == pytest.approx(sum(map(len, held_out)) / data.eval_tokens)
    assert (data.vocab_size, data.tokenizer_fingerprint, data.dtype) == (257, "bytes-1", "uint16")


def test_copies_of_a_document_never_straddle_the_split(tmp_path: Path) -> None:
    for copy in ("a", "b", "c"):
        write_texts(tmp_path / "texts" / copy)
    data = prepare(text_spec(files=[str(tmp_path / "texts" / "**" / "*.txt")]), tmp_path / "cache")
    assert not set(documents(data.train())) & set(documents(data.held_out()))


def test_order_and_content_do_not_depend_on_place_or_names(tmp_path: Path) -> None:
    spec, _ = with_texts(tmp_path)
    first = prepare(spec, tmp_path / "cache")
    (tmp_path / "texts").rename(tmp_path / "moved")
    moved = prepare(text_spec(files=[str(tmp_path / "moved" / "*.txt")]), tmp_path / "cache")
    assert moved.fingerprint == first.fingerprint
    (tmp_path / "moved" / "000.txt").rename(tmp_path / "moved" / "zzz.txt")
    renamed = prepare(text_spec(files=[str(tmp_path / "moved" / "*.txt")]), tmp_path / "cache")
    assert renamed.fingerprint != first.fingerprint
    assert np.array_equal(renamed.train(), first.train())


def test_second_call_finds_the_streams_and_a_change_makes_new_ones(tmp_path: Path) -> None:
    spec, _ = with_texts(tmp_path)
    lines: list[str] = []
    first = prepare(spec, tmp_path / "cache", lines.append)
    assert lines
    lines.clear()
    assert prepare(spec, tmp_path / "cache", lines.append) == first
    assert lines == []
    (tmp_path / "texts" / "000.txt").write_text("something else")
    assert prepare(spec, tmp_path / "cache").fingerprint != first.fingerprint


def test_streams_are_read_only_and_the_handle_pickles(tmp_path: Path) -> None:
    spec, _ = with_texts(tmp_path)
    data = pickle.loads(pickle.dumps(prepare(spec, tmp_path / "cache")))
    with pytest.raises(ValueError, match="read-only"):
        data.train()[0] = 1


@pytest.mark.parametrize("damage", ["stream", "meta", "recipe", "missing"])
def test_damaged_streams_are_refused(tmp_path: Path, damage: str) -> None:
    spec, _ = with_texts(tmp_path)
    directory = prepare(spec, tmp_path / "cache").directory
    if damage == "stream":
        content = bytearray((directory / "train.bin").read_bytes())
        content[5] ^= 1
        (directory / "train.bin").write_bytes(content)
    elif damage == "meta":
        (directory / "meta.json").write_text("{")
    elif damage == "recipe":
        meta = json.loads((directory / "meta.json").read_text())
        meta["recipe"]["held_out"] = 0.3
        (directory / "meta.json").write_text(json.dumps(meta))
    else:
        (directory / "held_out.bin").unlink()
    with pytest.raises(InputError, match="damaged or was changed"):
        prepare(spec, tmp_path / "cache")


def test_max_bytes_keeps_a_fixed_random_part(tmp_path: Path) -> None:
    spec, texts = with_texts(tmp_path)
    small = prepare(text_spec(files=spec.data.files, max_bytes=1500), tmp_path / "cache")
    large = prepare(text_spec(files=spec.data.files, max_bytes=3000), tmp_path / "cache")
    kept = [set(documents(d.train())) | set(documents(d.held_out())) for d in (small, large)]
    assert kept[0] < kept[1] < set(texts)
    assert sum(len(text) for text in kept[1]) <= 3000
    assert kept[0] != set(texts[: len(kept[0])])


def test_jsonl_and_parquet_hold_one_document_per_row(tmp_path: Path) -> None:
    texts = [f"row {i} of the table" for i in range(30)]
    lines = [json.dumps({"body": text, "id": i}) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"body": texts}), tmp_path / "b.parquet")
    found = [
        prepare(text_spec(files=[str(tmp_path / name)], text_column="body"), tmp_path / "cache")
        for name in ("a.jsonl", "b.parquet")
    ]
    assert sorted(documents(found[0].train()) + documents(found[0].held_out())) == sorted(texts)
    assert np.array_equal(found[0].train(), found[1].train())


def test_a_local_dataset_is_read_by_split_and_column(tmp_path: Path) -> None:
    import datasets

    texts = [f"row {i} of the set" for i in range(30)]
    splits = {"train": datasets.Dataset.from_dict({"text": texts}), "test": datasets.Dataset.from_dict({"text": ["x"]})}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    data = prepare(text_spec(dataset=str(tmp_path / "set")), tmp_path / "cache")
    assert sorted(documents(data.train()) + documents(data.held_out())) == sorted(texts)
    assert data.revision is None
    with pytest.raises(InputError, match=r"expected a column `body`.*it has: text"):
        prepare(text_spec(dataset=str(tmp_path / "set"), text_column="body"), tmp_path / "cache")
    with pytest.raises(InputError, match=r"no split `valid`; it has: train, test"):
        prepare(text_spec(dataset=str(tmp_path / "set"), split="valid"), tmp_path / "cache")


def test_bad_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"body": 1}\n')
    (tmp_path / "b.jsonl").write_text("{oops\n")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "d.pdf").write_text("x")
    (tmp_path / "e.parquet").write_text("no parquet")
    (tmp_path / "f.txt").write_text("one document only")
    expected = {
        "a.jsonl": r"a.jsonl:2: expected text under the key `text`.*has: body",
        "b.jsonl": r"b.jsonl:1: expected one JSON object per line",
        "c.txt": "c.txt: expected UTF-8 text",
        "d.pdf": r"d.pdf: expected one of .*\.txt",
        "e.parquet": "no readable parquet file",
        "f.txt": "holds 1 non-empty documents; expected at least two",
        "*.none": "no file matches",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            prepare(text_spec(files=[str(tmp_path / name)]), tmp_path / "cache")
        assert len(caught.value.problems) == 1
        assert "\n" not in caught.value.problems[0]
    assert not [path for path in (tmp_path / "cache").glob("data/*") if path.is_dir()]


def test_lone_surrogates_in_json_do_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "bad \\ud800 half"}\n{"text": "good"}\n')
    data = prepare(text_spec(files=[str(tmp_path / "a.jsonl")]), tmp_path / "cache")
    assert sorted(documents(data.train()) + documents(data.held_out())) == ["bad ? half", "good"]


@given(st.text(alphabet="ab\n é", max_size=300), st.integers(1, 400))
def test_passages_join_to_the_text(text: str, times: int) -> None:
    long = text * times
    parts = list(passages([long]))
    assert "".join(parts) == long
    assert all(len(part) <= PASSAGE_CHARS for part in parts)


def test_stdlib_corpus_has_sources_and_prose_but_no_tests() -> None:
    names = [name for name, _ in open_stdlib().files]
    assert "pydoc_data/topics.py" in names
    assert "argparse.py" in names
    assert not [name for name in names if name.startswith(("test/", "site-packages/")) or "/tests/" in name]


def test_a_budget_beyond_the_corpus_is_refused_with_the_numbers(tmp_path: Path) -> None:
    spec, _ = with_texts(tmp_path)
    data = prepare(spec, tmp_path / "cache")
    available = (data.train_tokens - 1) // 16 * 16
    few = spec.model_copy(update={"eval": spec.eval.model_copy(update={"tokens": 100})})
    check_budget(data, few, available)
    with pytest.raises(InputError, match=rf"{available + 1} tokens asked for, but the corpus has {available} .*: 2"):
        check_budget(data, few, available + 1)
    twice = few.model_copy(update={"data": few.data.model_copy(update={"max_epochs": 2})})
    check_budget(data, twice, available + 1)
    with pytest.raises(InputError, match=r"eval\.tokens: 65536 asked for"):
        check_budget(data, tiny_spec(eval={"tokens": 65_536}), 10)


def test_bytes_behind_the_first_targets_are_interpolated(tmp_path: Path) -> None:
    spec, _ = with_texts(tmp_path)
    data = prepare(spec, tmp_path / "cache")
    first = documents(data.held_out())[0]
    # All but the first byte of the first document, whose end-of-text token stands for no text.
    share = len(first) / (len(first) + 1)
    assert data.eval_bytes(len(first)) == pytest.approx(len(first) * share)
    assert data.eval_bytes(data.eval_tokens - 1) == pytest.approx(
        data.eval_tokens * (data.eval_bytes_per_token or 0) - share
    )


def test_synthetic_data_knows_its_entropy(cache: Path) -> None:
    data = prepare(tiny_spec(), cache)
    shares = np.asarray([12, 6, 4, 3]) / 25  # 1 : 1/2 : 1/3 : 1/4
    assert data.entropy_nats == pytest.approx(-(shares * np.log(shares)).sum())
    assert (data.train_tokens, data.eval_bytes_per_token, data.tokenizer_fingerprint) == (20_000, None, None)
    assert data.eval_bytes(100) is None
    check_budget(data, tiny_spec(), 10_000)


def test_a_lock_holder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def fail() -> None:
        with made_once(target) as directory:
            assert directory is not None
            (directory / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert not target.exists()
    with made_once(target) as directory:
        assert directory is not None
        assert not list(directory.iterdir())
        (directory / "whole").write_text("x")
    with made_once(target) as directory:
        assert directory is None
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_processes_prepare_once(tmp_path: Path) -> None:
    target, marks = tmp_path / "made", tmp_path / "marks"
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            with made_once(target) as directory:
                if directory is not None:
                    (directory / "by").write_text(str(number))
                    with marks.open("a") as file:
                        file.write("x")
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert marks.read_text() == "x"


def test_prepared_data_is_frozen(cache: Path) -> None:
    data = prepare(tiny_spec(), cache)
    assert isinstance(data, PreparedData)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.vocab_size = 3  # type: ignore[misc]
