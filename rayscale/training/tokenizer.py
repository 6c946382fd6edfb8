"""Tokenizers behind one small object: bytes, a byte-level BPE trained on the corpus, a tokenizer.json, or the hub's."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.spec import BpeSpec, SweepSpec
from rayscale.training.cachefiles import digest_of, made_once

if TYPE_CHECKING:
    import numpy as np

END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 2_000_000
"""A BPE is trained on at most this much text: its merges settle early, and training time grows with it."""

_KNOWN_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids.

    Attributes:
        name: What it is, for people.
        fingerprint: Hash of its definition.
        vocab_size: Ids lie below it.
        end_of_text: Id that closes each document.
        encode: A batch of texts to one array of ids each, without special tokens.
    """

    name: str
    fingerprint: str
    vocab_size: int
    end_of_text: int
    encode: Callable[[Sequence[str]], list[np.ndarray]]


def load_tokenizer(spec: SweepSpec, cache: Path, corpus_id: str, sample: Callable[[], Iterator[str]]) -> Tokenizer:
    """Load the sweep's tokenizer, training it first if it is a BPE that is not in the cache.

    Args:
        spec: The resolved sweep.
        cache: Cache directory of the node.
        corpus_id: Hash of what decides the sample.
        sample: Gives training text for a BPE; only called when one is trained.

    Returns:
        The tokenizer.

    Raises:
        InputError: If it cannot be loaded as declared or has no end-of-text token.
        EnvironmentUnusableError: If the hub is out of reach.
    """
    choice = spec.data.tokenizer
    if isinstance(choice, BpeSpec):
        return _trained_bpe(choice.bpe, cache, corpus_id, sample)
    if choice == "bytes":
        return Tokenizer("bytes", "bytes-1", 257, 256, _encode_bytes)
    if choice is not None and (choice.endswith(".json") or Path(choice).is_file()):
        return _from_json(Path(choice), f"tokenizer {choice}", None)
    if choice is None:
        return _from_transformers(str(spec.model.pretrained), spec.model.revision)
    return _from_transformers(choice, None)


def _encode_bytes(texts: Sequence[str]) -> list[np.ndarray]:
    import numpy as np

    return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]


def _trained_bpe(size: int, cache: Path, corpus_id: str, sample: Callable[[], Iterator[str]]) -> Tokenizer:
    recipe = {
        "bpe": size,
        "corpus": corpus_id,
        "sample_bytes": SAMPLE_BYTES,
        "tokenizers": metadata.version("tokenizers"),
    }
    target = cache / "tokenizers" / digest_of(recipe)[:16]
    with made_once(target) as directory:
        if directory is not None:
            train_bpe(size, sample()).save(str(directory / "tokenizer.json"))
    # The declared size, not the one reached: plans made without the data and the model must agree.
    return _from_json(target / "tokenizer.json", f"byte-level BPE of {size}", size)


def train_bpe(size: int, texts: Iterator[str]) -> Any:
    """Train a byte-level BPE. The same texts give the same merges, in any process.

    Args:
        size: Vocabulary size.
        texts: What to train on.

    Returns:
        The `tokenizers` tokenizer.
    """
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return engine


def _from_json(path: Path, name: str, vocab_size: int | None) -> Tokenizer:
    from tokenizers import Tokenizer as Engine

    try:
        content = path.read_bytes()
        engine = Engine.from_buffer(content)
    except OSError as error:
        raise InputError(f"data.tokenizer: {path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # the library raises bare Exception for anything it cannot parse
        raise InputError(f"data.tokenizer: {path}: no valid tokenizer.json: {str(error).splitlines()[0]}") from None
    declared = _declared_end(path.with_name("tokenizer_config.json"))
    end = _find_end(engine, declared, f"data.tokenizer: {path}")
    # Of two directories with the same tokenizer.json, each may declare an end of its own.
    fingerprint = hashlib.sha256(content + (f"\0{end}".encode() if declared else b"")).hexdigest()
    return _wrap(engine, name, fingerprint, vocab_size, end)


def _declared_end(config: Path) -> str | None:
    """Read the end-of-text token that a tokenizer_config.json beside a tokenizer.json declares."""
    try:
        token = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _find_end(engine: Any, declared: str | None, where: str) -> int:
    names = [declared] if declared else list(_KNOWN_ENDS)
    found = (engine.token_to_id(name) for name in names)
    end = next((token for token in found if token is not None), None)
    if end is None:
        expected = f"expected one of {', '.join(names)} to close each document"
        raise InputError(f"{where}: the tokenizer has no end-of-text token; {expected}")
    return int(end)


def _wrap(engine: Any, name: str, fingerprint: str, vocab_size: int | None, end: int) -> Tokenizer:
    import numpy as np

    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True  # a special token's name in the text is text

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        found = engine.encode_batch_fast(list(texts), add_special_tokens=False)
        # array reads a list of ints faster than numpy does.
        return [np.frombuffer(array("I", item.ids), dtype=np.uint32) for item in found]

    size = vocab_size or max(engine.get_vocab(with_added_tokens=True).values()) + 1
    return Tokenizer(name, fingerprint, size, end, encode)


def _from_transformers(name: str, revision: str | None) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except ConnectionError as error:
        raise EnvironmentUnusableError(f"data.tokenizer: {name}: the hub is out of reach: {error}") from None
    except (OSError, ValueError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"data.tokenizer: {name}: cannot be loaded: {first}") from None
    engine = getattr(loaded, "backend_tokenizer", None)
    if engine is None:
        raise InputError(f"data.tokenizer: {name}: expected a tokenizer with a tokenizer.json (a fast one)")
    end = loaded.eos_token_id
    if end is None:
        end = _find_end(engine, None, f"data.tokenizer: {name}")
    # Base and chat models share a tokenizer.json and close documents differently.
    fingerprint = hashlib.sha256(f"{engine.to_str()}\0{end}".encode()).hexdigest()
    return _wrap(engine, f"tokenizer of {name}", fingerprint, None, end)
