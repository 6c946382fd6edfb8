from __future__ import annotations

import hashlib
import json
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
        "import sys; from rayscale.training.tokenizer import train_bpe\n"
        "text = open(sys.argv[1]).read()\n"
        "print(train_bpe(600, iter([text])).to_str())"
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


def byte_level(path: Path, *ends: str) -> Path:
    """Write a tokenizer.json of single bytes with some special tokens."""
    from tokenizers import models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine = Engine(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.add_special_tokens(list(ends))
    path.parent.mkdir(exist_ok=True)
    engine.save(str(path))
    return path


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    path = byte_level(tmp_path / "plain" / "tokenizer.json", "<other>")
    with pytest.raises(InputError, match=r"has no end-of-text token; expected one of <\|endoftext\|>, </s>,") as caught:
        load(str(path), tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_file=str(path)).save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="saved: the tokenizer has no end-of-text token"):
        load(str(tmp_path / "saved"), tmp_path)


def test_the_end_that_a_tokenizer_config_declares_is_used_and_part_of_the_identity(tmp_path: Path) -> None:
    paths = [byte_level(tmp_path / name / "tokenizer.json", "</s>", "<turn>") for name in ("known", "text", "object")]
    for path, token in zip(paths[1:], ("<turn>", {"content": "<turn>", "special": True}), strict=True):
        path.with_name("tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    known, *declared = [load(str(path), tmp_path) for path in paths]
    assert (known.end_of_text, [item.end_of_text for item in declared]) == (256, [257, 257])
    assert declared[0].fingerprint == declared[1].fingerprint != known.fingerprint
    paths[1].with_name("tokenizer_config.json").write_text(json.dumps({"eos_token": "<gone>"}))
    with pytest.raises(InputError, match="no end-of-text token; expected one of <gone>"):
        load(str(paths[1]), tmp_path)


def test_models_that_close_documents_differently_are_told_apart(tmp_path: Path) -> None:
    """A base and a chat model share their tokenizer.json; the streams made for one must not be taken for the other."""
    from transformers import PreTrainedTokenizerFast

    path = byte_level(tmp_path / "shared" / "tokenizer.json", "</s>", "<turn>")
    found: list[Tokenizer] = []
    for end in ("</s>", "<turn>"):
        directory = tmp_path / end.strip("</>")
        PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=end).save_pretrained(str(directory))
        found.append(load(str(directory), tmp_path))
    assert [tokenizer.end_of_text for tokenizer in found] == [256, 257]
    assert found[0].fingerprint != found[1].fingerprint
