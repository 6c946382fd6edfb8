"""From documents to two token streams, in bounded memory and an order that depends on the texts alone.

Every document is hashed once. One half of its hash says where it stands in the fixed pseudo-random order, which decides
what `max_bytes` keeps and how documents follow each other; the other half says whether it is held out. So no document
(nor an exact copy of it) is on both sides, and the first held-out tokens are a random sample of documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rayscale.errors import InputError
from rayscale.training.documents import Source
from rayscale.training.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

_BATCH_BYTES = 2_000_000


@dataclass(frozen=True)
class Scan:
    """What one pass over the documents found, one entry per document in reading order.

    Attributes:
        order: Place in the pseudo-random order (to be sorted), uint64.
        sizes: Length in UTF-8. Units: B.
        chosen: Kept under `max_bytes`.
        held: Held out from training.
    """

    order: np.ndarray
    sizes: np.ndarray
    chosen: np.ndarray
    held: np.ndarray

    @property
    def bytes_chosen(self) -> int:
        """Text that is kept. Units: B."""
        return int(self.sizes[self.chosen].sum())


@dataclass(frozen=True)
class Corpus:
    """The documents of a source, split and ordered.

    Attributes:
        source: Where documents come from.
        held_out: Share of the documents that is held out.
        max_bytes: Most text to keep; None keeps all. Units: B.
    """

    source: Source
    held_out: float
    max_bytes: int | None

    @cached_property
    def scan(self) -> Scan:
        """Hash all documents and decide which are kept and which are held out."""
        import numpy as np

        hashes, sizes = bytearray(), []
        for text in self.source.documents():
            raw = _utf8(text)
            hashes += hashlib.blake2b(raw, digest_size=16).digest()
            sizes.append(len(raw) if raw.strip() else 0)
        pairs = np.frombuffer(bytes(hashes), dtype="<u8").reshape(-1, 2)
        order, lots, size = pairs[:, 0], pairs[:, 1], np.asarray(sizes, dtype=np.int64)
        chosen = _choose(order, size, self.max_bytes) & (size > 0)
        if chosen.sum() < 2:
            expected = "expected at least two documents, one to train on and one to hold out"
            raise InputError(f"data: {self.source.label} holds {int(chosen.sum())} non-empty documents; {expected}")
        return Scan(order, size, chosen, _hold_out(lots, chosen, self.held_out))

    def sample(self, limit: int) -> Iterator[str]:
        """Yield training documents, the first of the pseudo-random order, up to a size (at least one).

        Args:
            limit: Most text. Units: B.

        Yields:
            Texts in reading order.
        """
        scan = self.scan
        train = scan.chosen & ~scan.held
        wanted = _choose(scan.order, scan.sizes * train, limit) & train
        for text, take in zip(self.source.documents(), wanted, strict=True):
            if take:
                yield clean(text)

    def write(self, directory: Path, tokenizer: Tokenizer, progress: Callable[[str], None]) -> dict[str, int]:
        """Tokenise everything that is kept into `train.bin`, `held_out.bin` and `held_out_documents.npy`.

        Args:
            directory: Where to write.
            tokenizer: The tokenizer.
            progress: Receives lines for people.

        Returns:
            Counts of tokens and documents per stream and of held-out bytes.
        """
        scan, done = self.scan, 0
        dtype = token_dtype(tokenizer.vocab_size)
        streams = {name: _Stream(directory / f"{name}.bin", dtype) for name in ("train", "held_out")}
        for indices, texts in self._batches():
            for index, ids in zip(indices, _encode(tokenizer, texts), strict=True):
                name = "held_out" if scan.held[index] else "train"
                streams[name].append(int(scan.order[index]), int(scan.sizes[index]), ids)
                done += int(scan.sizes[index])
            progress(f"tokenising: {done / 1e6:.1f} of {scan.bytes_chosen / 1e6:.1f} MB")
        for stream in streams.values():
            stream.finish()
        counts = {f"{name}_tokens": stream.tokens for name, stream in streams.items()}
        counts |= {f"{name}_documents": len(stream.lengths) for name, stream in streams.items()}
        return counts | {"held_out_bytes": sum(streams["held_out"].sizes)}

    def _batches(self) -> Iterator[tuple[list[int], list[str]]]:
        indices: list[int] = []
        texts: list[str] = []
        size = 0
        for index, text in enumerate(self.source.documents()):
            if not self.scan.chosen[index]:
                continue
            indices.append(index)
            texts.append(clean(text))
            size += int(self.scan.sizes[index])
            if size >= _BATCH_BYTES:
                yield indices, texts
                indices, texts, size = [], [], 0
        if texts:
            yield indices, texts


def token_dtype(vocab_size: int) -> str:
    """Name the smallest unsigned type that holds all token ids.

    Args:
        vocab_size: Ids lie below it.

    Returns:
        A numpy type name.
    """
    return "uint16" if vocab_size <= 65536 else "uint32"


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON may smuggle in and UTF-8 cannot write.

    Args:
        text: Any text.

    Returns:
        Text that UTF-8 can write.
    """
    return _utf8(text).decode("utf-8")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
    import numpy as np

    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    for ids in tokenizer.encode(texts):
        yield np.concatenate([ids.astype(np.uint32), np.asarray(end, dtype=np.uint32)])


def _choose(order: np.ndarray, sizes: np.ndarray, limit: int | None) -> np.ndarray:
    """Mark the first documents of the order whose sizes add up to at most `limit`, and at least one."""
    import numpy as np

    ranked = np.argsort(order, kind="stable")
    chosen = np.ones(len(order), dtype=bool)
    if limit is not None:
        within = np.cumsum(sizes[ranked]) <= limit
        within[: int(np.argmax(sizes[ranked] > 0)) + 1] = True
        chosen[ranked] = within
    return chosen


def _hold_out(lots: np.ndarray, chosen: np.ndarray, share: float) -> np.ndarray:
    """Hold out by lot, and make sure that a small corpus has a document on either side."""
    import numpy as np

    held = (lots < np.uint64(share * 2.0**64)) & chosen
    kept = np.flatnonzero(chosen)
    if not held.any():
        held[lots == lots[kept].min()] = True
    if held[kept].all():
        held[lots == lots[kept].max()] = False
    return held & chosen


class _Stream:
    """Documents' tokens as they come, brought into the pseudo-random order at the end (on disk, not in memory)."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, dtype
        self.order: list[int] = []
        self.sizes: list[int] = []
        self.lengths: list[int] = []
        self._raw = path.with_suffix(".raw")
        self._file: BinaryIO = self._raw.open("wb")

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def append(self, order: int, size: int, ids: np.ndarray) -> None:
        self._file.write(ids.astype(self.dtype).tobytes())
        self.order.append(order)
        self.sizes.append(size)
        self.lengths.append(len(ids))

    def finish(self) -> None:
        import numpy as np

        self._file.close()
        ranked = np.argsort(np.asarray(self.order, dtype=np.uint64), kind="stable")
        lengths = np.asarray(self.lengths, dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        raw = np.memmap(self._raw, dtype=self.dtype, mode="r") if self.tokens else np.zeros(0, self.dtype)
        with self.path.open("wb") as out:
            for index in ranked:
                out.write(raw[starts[index] : starts[index] + lengths[index]].tobytes())
        # Tokens and bytes up to each document's end, to tell the bytes behind the first N tokens.
        ends = np.stack([np.cumsum(lengths[ranked]), np.cumsum(np.asarray(self.sizes, dtype=np.int64)[ranked])])
        np.save(self.path.with_name(f"{self.path.stem}_documents.npy"), ends)
        self._raw.unlink()
