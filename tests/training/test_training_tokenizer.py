from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from training_helpers import text_spec

from rayscale.errors import InputError
from rayscale.training.documents import open_stdlib
from rayscale.training.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer

TEXT = "def f(x):\n    return x + 1  # naïve\n" * 20


def sample() -> Iterator[str]:
    yield TEXT
    yield (open_stdlib().files[0][1]).read_text()


def never() -> Iterator[str]:
    raise ValueError("no training text was expected to be read")


def load(choice: object, cache: Path, texts: object = never) -> Tokenizer:
    return load_tokenizer(text_spec(files=["x.txt"], tokenizer=choice), cache, "corpus", texts)  # type: ignore[arg-type]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=4))
def test_bytes_are_bytes(texts: list[str]) -> None:
    tokenizer = load("bytes", Path("unused"))
    assert [bytes(ids.astype(np.uint8)).decode() for ids in tokenizer.encode(texts)] == texts
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)


def test_bpe_is_trained_once_and_round_trips(tmp_path: Path) -> None:
    first = load({"bpe": 300}, tmp_path, sample)
    again = load({"bpe": 300}, tmp_path)
    assert again.fingerprint == first.fingerprint
    [ids] = first.encode([TEXT])
    engine = Engine.from_file(str(next(tmp_path.glob("tokenizers/*/tokenizer.json"))))
    assert engine.decode(ids.tolist()) == TEXT
    assert len(ids) < len(TEXT.encode()) / 1.5
    assert ids.max() < first.vocab_size == 300
    assert first.end_of_text == engine.token_to_id(END_OF_TEXT)


def test_the_declared_size_holds_even_where_the_text_is_too_small_for_it(tmp_path: Path) -> None:
    assert load({"bpe": 5000}, tmp_path, lambda: iter(["abc abc"])).vocab_size == 5000


def test_a_special_token_in_the_text_is_text(tmp_path: Path) -> None:
    tokenizer = load({"bpe": 300}, tmp_path, sample)
    [ids] = tokenizer.encode([f"before {END_OF_TEXT} after"])
    assert tokenizer.end_of_text not in ids


def test_bpe_training_is_deterministic_across_processes(tmp_path: Path) -> None:
    code = (
        "import sys; from rayscale.training.tokenizer import _train_bpe\n"
        "text = open(sys.argv[1]).read()\n"
        "print(_train_bpe(600, iter([text])).to_str())"
    )
    path = str(open_stdlib().files[5][1])
    runs = [subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True) for _ in range(2)]
    assert len({hashlib.sha256(run.stdout).hexdigest() for run in runs}) == 1


def test_a_tokenizer_json_or_its_directory_serves(tmp_path: Path) -> None:
    trained = load({"bpe": 300}, tmp_path, sample)
    path = next(tmp_path.glob("tokenizers/*/tokenizer.json"))
    by_file = load(str(path), tmp_path)
    assert by_file.fingerprint == trained.fingerprint
    assert by_file.end_of_text == trained.end_of_text
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT).save_pretrained(str(tmp_path / "saved"))
    by_directory = load(str(tmp_path / "saved"), tmp_path)
    assert by_directory.end_of_text == trained.end_of_text
    assert np.array_equal(by_directory.encode([TEXT])[0], trained.encode([TEXT])[0])


def test_bad_tokenizers_are_explained(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    expected = {
        str(tmp_path / "bad.json"): "no valid tokenizer.json",
        str(tmp_path / "gone.json"): "cannot be read: No such file",
        str(tmp_path / "empty"): "cannot be loaded",
    }
    for choice, message in expected.items():
        with pytest.raises(InputError, match=message):
            load(choice, tmp_path)
