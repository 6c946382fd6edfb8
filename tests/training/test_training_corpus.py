"""Preparing as a whole: by several processes, of text that changes, in bounded memory, into a cache that is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from training_helpers import text_spec, tiny_spec

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.training.corpus import Corpus
from rayscale.training.data import check_budget, prepare
from rayscale.training.tokenizer import load_tokenizer

TEXTS = [f"document {i} of the corpus\n" * (1 + i % 5) for i in range(40)]


class Changing:
    """A source whose text is another one when it is read again."""

    label, revision = "changing text", None

    def __init__(self, *readings: list[str]) -> None:
        self.readings = list(readings)

    def fingerprint(self) -> str:
        return "same"

    def documents(self) -> Iterator[str]:
        yield from self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: [*t, "more"], lambda t: [*t[:5], "longer than it was", *t[6:]], lambda t: []]
)
def test_text_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str]]
) -> None:
    tokenizer = load_tokenizer(text_spec(files=["x.txt"]), tmp_path, "corpus", lambda: iter(()))
    corpus = Corpus(Changing(TEXTS, change(TEXTS)), 0.2, None)
    with pytest.raises(InputError, match="changing text changed while it was read"):
        corpus.write(tmp_path, tokenizer)


@pytest.mark.parametrize(("moment", "made"), [("tokenizer:", "tokenizers"), ("tokenising:", "data")])
def test_files_that_change_while_they_are_prepared_leave_nothing(tmp_path: Path, moment: str, made: str) -> None:
    """Of the same length, so that only the content tells."""
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)

    def change(line: str) -> None:
        if line.startswith(moment):
            (tmp_path / "0.txt").write_text("D" + TEXTS[0][1:])

    spec = text_spec(files=[str(tmp_path / "*.txt")], tokenizer={"bpe": 300})
    with pytest.raises(InputError, match="40 local files changed while it was read"):
        prepare(spec, tmp_path / "cache", change)
    assert not [path for path in (tmp_path / "cache" / made).iterdir() if path.is_dir()]
    assert prepare(spec, tmp_path / "cache").train_tokens > 0


PREPARE = """
import sys
from pathlib import Path
from training_helpers import text_spec
from rayscale.training.data import prepare
data = prepare(text_spec(files=[sys.argv[1]], tokenizer={"bpe": 400}), Path(sys.argv[2]), lambda line: print(line))
print("done", data.fingerprint, data.train_tokens)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_of_several_processes_one_prepares_and_the_others_wait(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 400))
    children = [start(PREPARE, tmp_path / "a.jsonl", tmp_path / "cache") for _ in range(3)]
    outputs = [child.communicate(timeout=120)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * 3
    assert len({lines[-1] for lines in outputs}) == 1
    assert outputs[0][-1].startswith("done ")
    assert sum(any(line.startswith("tokenising") for line in lines) for lines in outputs) == 1


WATCH = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from training_helpers import text_spec
from rayscale.training.data import prepare
import numpy, pyarrow
def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
spec = text_spec(files=[sys.argv[1]])
prepare(text_spec(files=[sys.argv[2]]), Path(sys.argv[3]))
before = peak()
data = prepare(spec, Path(sys.argv[3]))
print(data.train_tokens + data.eval_tokens, peak() - before)
"""


def test_one_large_text_file_is_prepared_in_bounded_memory(tmp_path: Path) -> None:
    paragraph = "A line of some sixty letters, to be counted and written down.\n"
    with (tmp_path / "large.txt").open("w") as file:
        for number in range(2000):
            file.write(f"{number}\n" + paragraph * 800)
    size = (tmp_path / "large.txt").stat().st_size
    (tmp_path / "small.txt").write_text(paragraph * 8000)
    child = start(WATCH, tmp_path / "large.txt", tmp_path / "small.txt", tmp_path / "cache")
    tokens, growth = map(int, child.communicate(timeout=120)[0].split())
    assert tokens > size > 95e6  # one token a byte, and the ends
    assert growth < 0.8 * size  # the tokens alone are twice the text


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.raises(EnvironmentUnusableError, match=r"cache.*: cannot be written: .*RAYSCALE_CACHE") as caught:
        prepare(tiny_spec(), tmp_path / "cache")
    assert len(str(caught.value).splitlines()) == 1


def test_files_of_several_kinds_are_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:10]))
    table = pa.table({"text": TEXTS[10:30]})
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    for i, text in enumerate(TEXTS[30:]):
        (tmp_path / f"{i}.txt").write_text(text)
    data = prepare(text_spec(files=[str(tmp_path / "*.*")]), tmp_path / "cache")
    everything = np.concatenate([data.train(), data.held_out()])
    found = bytes(np.where(everything == 256, 0, everything).astype(np.uint8)).decode().split("\0")
    assert sorted(found) == ["", *sorted(TEXTS)]


def test_the_text_of_the_held_out_stream_is_counted_exactly(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"é {text}"}) + "\n" for text in TEXTS))
    data = prepare(text_spec(files=[str(tmp_path / "a.jsonl")], tokenizer={"bpe": 300}), tmp_path / "cache")
    held = {f"é {text}" for text in TEXTS}
    from tokenizers import Tokenizer

    engine = Tokenizer.from_file(str(next(tmp_path.glob("cache/tokenizers/*/tokenizer.json"))))
    ends = np.flatnonzero(data.held_out() == engine.token_to_id("<|endoftext|>"))
    parts = [engine.decode(part.tolist()) for part in np.split(data.held_out(), ends + 1)[:-1]]
    assert set(parts) <= held
    size = sum(len(part.encode()) for part in parts)
    assert data.eval_bytes_per_token == size / data.eval_tokens
    # The stream's first token is input only; every later one is a target.
    tokens, text = np.load(data.directory / "held_out_documents.npy")
    first = text[0] / tokens[0]
    assert data.eval_bytes(data.eval_tokens - 1) == pytest.approx(size - first)


def test_a_model_with_too_few_tokens_is_refused_before_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    spec = text_spec(files=[str(tmp_path / "a.jsonl")])
    data = prepare(spec, tmp_path / "cache")
    spec = spec.model_copy(update={"eval": spec.eval.model_copy(update={"tokens": 10})})
    for size, fits in ((256, False), (257, True), (300, True)):
        model = spec.model.model_copy(update={"config": {**(spec.model.config or {}), "vocab_size": size}})
        chosen = spec.model_copy(update={"model": model})
        if fits:
            check_budget(data, chosen, 10)
        else:
            with pytest.raises(InputError, match=r"vocab_size 256, but the data has 257 tokens \(bytes\)"):
                check_budget(data, chosen, 10)


@pytest.mark.parametrize("limit", [{}, {"max_bytes": 100}])
def test_an_empty_corpus_is_refused(tmp_path: Path, limit: dict[str, int]) -> None:
    for name, content in {"a.txt": "", "b.jsonl": "\n\n", "c.txt": " \n"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="1 local file holds 0 non-empty documents; expected at least two"):
            prepare(text_spec(files=[str(tmp_path / name)], **limit), tmp_path / "cache")
