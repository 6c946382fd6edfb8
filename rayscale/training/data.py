"""Prepared data: two flat token streams per corpus and tokenizer, made once per node and shared by all its trials.

    <cache>/data/<hash>/  meta.json  train.bin  held_out.bin  held_out_documents.npy

The directory's name is the hash of everything that made it; it appears by a rename, complete or not at all. Trials map
the streams read-only, so the page cache holds them once. What does not match its checksum is refused, never repaired
silently.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.spec import BpeSpec, DataSpec, SweepSpec
from rayscale.training.cachefiles import digest_of, hash_file, made_once
from rayscale.training.documents import Source, open_files, open_stdlib
from rayscale.training.order import rows_in

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
"""Raised when the same recipe would give other streams."""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PreparedData:
    """A corpus as token streams. Small and picklable: the streams stay on disk.

    Attributes:
        directory: Where the streams lie.
        fingerprint: Hash of everything that made them.
        tokenizer_fingerprint: Hash of the tokenizer's definition; None for a synthetic source.
        vocab_size: Token ids lie below it.
        train_tokens: Length of the training stream.
        eval_tokens: Length of the held-out stream.
        eval_bytes_per_token: Mean UTF-8 length of a held-out token; None for a synthetic source. Units: B.
        source: What it is, for people.
        tokenizer: What cut the text, for people.
        entropy_nats: Entropy rate of a synthetic source; None for text. Units: nats per token.
        revision: Commit of a hub dataset; None otherwise or when the hub was out of reach.
        dtype: Type of a stored token id.
    """

    directory: Path
    fingerprint: str
    tokenizer_fingerprint: str | None
    vocab_size: int
    train_tokens: int
    eval_tokens: int
    eval_bytes_per_token: float | None
    source: str
    tokenizer: str | None
    entropy_nats: float | None
    revision: str | None
    dtype: str

    def train(self) -> np.ndarray:
        """Map the training stream, read-only."""
        return self._stream("train.bin")

    def held_out(self) -> np.ndarray:
        """Map the held-out stream, read-only."""
        return self._stream("held_out.bin")

    def _stream(self, name: str) -> np.ndarray:
        import numpy as np

        return np.memmap(self.directory / name, dtype=self.dtype, mode="r")

    def eval_bytes(self, targets: int) -> float | None:
        """Tell the text behind the first held-out targets, for bits per byte.

        Units: B.

        Args:
            targets: Number of targets: tokens 1 to `targets` of the stream, token 0 being input only.

        Returns:
            The bytes, interpolated within the document where they end; None for a synthetic source.
        """
        import numpy as np

        if self.eval_bytes_per_token is None:
            return None
        tokens, text = np.load(self.directory / "held_out_documents.npy")
        ends = np.interp([1, targets + 1], np.concatenate([[0], tokens]), np.concatenate([[0], text]))
        return float(ends[1] - ends[0])


def prepare(spec: SweepSpec, cache: Path, progress: Progress | None = None) -> PreparedData:
    """Make the sweep's token streams, or find them made.

    Args:
        spec: The resolved sweep.
        cache: Cache directory of the node.
        progress: Receives lines for people while something is made.

    Returns:
        The prepared data.

    Raises:
        InputError: If the source or tokenizer cannot be used as declared, or cached streams are damaged.
        EnvironmentUnusableError: If the cache cannot be written.
    """
    tell, cache = progress or _silent, cache.absolute()
    try:
        if spec.data.synthetic is not None:
            return _prepare_synthetic(spec, cache, tell)
        return _prepare_text(spec, cache, tell)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        expected = "expected a writable directory with room for the tokens ($RAYSCALE_CACHE names another)"
        where = error.filename or cache
        raise EnvironmentUnusableError(f"{where}: cannot be written: {error.strerror}; {expected}") from None


def check_budget(data: PreparedData, spec: SweepSpec, tokens: int) -> None:
    """Refuse a budget that the corpus cannot serve, and a model that cannot read it.

    Args:
        data: The prepared data.
        spec: The resolved sweep.
        tokens: The largest budget.

    Raises:
        InputError: With the numbers, if training or held-out text is too short or the model has too few tokens.
    """
    length = spec.data.sequence_length
    available = rows_in(data.train_tokens, length) * length
    held_out = rows_in(data.eval_tokens, length) * length
    problems = []
    if tokens > available * spec.data.max_epochs:
        needed = math.ceil(tokens / available) if available else None
        way_out = f"expected a budget <= that, more text, or data.max_epochs: {needed}" if needed else "too short"
        found = f"the corpus has {available} training targets x {spec.data.max_epochs} epochs"
        problems.append(f"design.factors.tokens: {tokens} tokens asked for, but {found} ({data.source}); {way_out}")
    if spec.eval.tokens > held_out:
        found = f"{held_out} held-out targets are there ({data.source}, data.held_out {spec.data.held_out})"
        problems.append(f"eval.tokens: {spec.eval.tokens} asked for, but {found}; expected at most that")
    stated = (spec.model.config or {}).get("vocab_size")
    if isinstance(stated, int) and stated < data.vocab_size:
        cut_by = f" ({data.tokenizer})" if data.tokenizer else ""
        found = f"vocab_size {stated}, but the data has {data.vocab_size} tokens{cut_by}"
        problems.append(f"model.config: {found}; expected >= that")
    if problems:
        raise InputError(problems)


def open_prepared(directory: Path, recipe: Mapping[str, Any]) -> PreparedData:
    """Open a prepared directory and check it.

    Args:
        directory: The directory.
        recipe: What must have made it.

    Returns:
        The prepared data.

    Raises:
        InputError: If it is damaged or was made by another recipe.
    """
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        sound = meta["recipe"] == json.loads(json.dumps(recipe)) and all(
            hash_file(directory / name) == digest for name, digest in meta["checksums"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise InputError(
            f"{directory}: the prepared data is damaged or was changed; expected the streams that its name stands "
            "for: delete the directory and run again"
        )
    return PreparedData(directory=directory, **meta["data"])


def _silent(_: str) -> None:
    """Swallow progress."""


def _finish(directory: Path, recipe: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Write meta.json, the last file of a prepared directory."""
    names = sorted(path.name for path in directory.iterdir())
    meta = {"recipe": recipe, "checksums": {name: hash_file(directory / name) for name in names}, "data": facts}
    (directory / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _prepare_synthetic(spec: SweepSpec, cache: Path, progress: Progress) -> PreparedData:
    from rayscale.training.synthetic import entropy_rate, generate

    source = spec.data.synthetic
    if source is None:
        raise InputError("data.synthetic: expected a generated source")
    share = spec.data.held_out
    held_out = max(math.ceil(source.tokens * share / (1 - share)), spec.eval.tokens + spec.data.sequence_length + 1)
    recipe = {"format": FORMAT, "synthetic": source.model_dump(), "held_out_tokens": held_out}
    target = cache / "data" / digest_of(recipe)[:16]
    with made_once(target) as directory:
        if directory is not None:
            progress(f"generating {source.tokens} tokens")
            generate(source, source.tokens, part=0).tofile(directory / "train.bin")
            generate(source, held_out, part=1).tofile(directory / "held_out.bin")
            facts = {
                "fingerprint": digest_of(recipe),
                "tokenizer_fingerprint": None,
                "vocab_size": source.vocab_size,
                "train_tokens": source.tokens,
                "eval_tokens": held_out,
                "eval_bytes_per_token": None,
                "source": f"synthetic {source.kind} source",
                "tokenizer": None,
                "entropy_nats": entropy_rate(source),
                "revision": None,
                "dtype": "uint16",
            }
            _finish(directory, recipe, facts)
    return open_prepared(target, recipe)


def _prepare_text(spec: SweepSpec, cache: Path, progress: Progress) -> PreparedData:
    from rayscale.training.corpus import Corpus
    from rayscale.training.tokenizer import SAMPLE_BYTES, load_tokenizer

    source = _open_source(spec.data)
    corpus = Corpus(source, spec.data.held_out, spec.data.max_bytes, progress)
    identity = source.fingerprint()
    text = {
        "format": FORMAT,
        "source": identity,
        "column": spec.data.text_column,
        "held_out": spec.data.held_out,
        "max_bytes": spec.data.max_bytes,
    }
    if isinstance(spec.data.tokenizer, BpeSpec):
        progress(f"tokenizer: byte-level BPE of {spec.data.tokenizer.bpe}")
    tokenizer = load_tokenizer(
        spec, cache, digest_of(text), lambda: _steady(corpus.sample(SAMPLE_BYTES), source, identity)
    )
    recipe = {**text, "tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    target = cache / "data" / digest_of(recipe)[:16]
    with made_once(target, lambda: progress(f"waiting for another process that prepares {target}")) as directory:
        if directory is not None:
            written = corpus.write(directory, tokenizer)
            _check_steady(source, identity)
            facts = {
                "fingerprint": digest_of(recipe),
                "tokenizer_fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "train_tokens": written.train_tokens,
                "eval_tokens": written.held_out_tokens,
                "eval_bytes_per_token": written.held_out_bytes / written.held_out_tokens,
                "source": source.label,
                "tokenizer": tokenizer.name,
                "entropy_nats": None,
                "revision": source.revision,
                "dtype": written.dtype,
            }
            _finish(directory, recipe, facts)
    return open_prepared(target, recipe)


def _steady(texts: Iterator[str], source: Source, fingerprint: str) -> Iterator[str]:
    yield from texts
    _check_steady(source, fingerprint)


def _check_steady(source: Source, fingerprint: str) -> None:
    """Make sure that what has been read is what was hashed first, for which the directory's name vouches."""
    from rayscale.training.corpus import changed

    if source.fingerprint() != fingerprint:
        raise changed(source)


def _open_source(data: DataSpec) -> Source:
    if data.files is not None:
        return open_files(data.files, data.text_column)
    if data.corpus is not None:
        return open_stdlib()
    from rayscale.training.hub import DatasetSource

    return DatasetSource(data)
