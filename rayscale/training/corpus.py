"""From documents to two token streams, in bounded memory and an order that depends on the texts alone.

Every document is hashed once. One half of its hash says where it stands in the fixed pseudo-random order, which decides
what `max_bytes` keeps and how documents follow each other; the other half says whether it is held out. So no document
(nor an exact copy of it) is on both sides, and the first held-out tokens are a random sample of documents.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.errors import InputError
from rayscale.training.documents import Source
from rayscale.training.encoding import Meter, batch_bytes, batched, encode_batches
from rayscale.training.streamfile import StreamWriter
from rayscale.training.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class WrittenStreams:
    """What was written.

    Attributes:
        train_tokens: Length of the training stream.
        held_out_tokens: Length of the held-out stream.
        held_out_bytes: Text of the held-out stream. Units: B.
        dtype: Type of a stored token id.
    """

    train_tokens: int
    held_out_tokens: int
    held_out_bytes: int
    dtype: str


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


def _silent(_: str) -> None:
    """Swallow progress."""


@dataclass(frozen=True)
class Corpus:
    """The documents of a source, split and ordered.

    Attributes:
        source: Where documents come from.
        held_out: Share of the documents that is held out.
        max_bytes: Most text to keep; None keeps all. Units: B.
        tell: Receives progress for people.
    """

    source: Source
    held_out: float
    max_bytes: int | None
    tell: Callable[[str], None] = _silent

    @cached_property
    def scan(self) -> Scan:
        """Hash all documents and decide which are kept and which are held out."""
        import numpy as np

        hashes, sizes, meter = bytearray(), array("q"), Meter(self.tell, "reading")
        for text in self.source.documents():
            raw = _utf8(text)
            hashes += hashlib.blake2b(raw, digest_size=16).digest()
            sizes.append(_size(raw))
            meter.add(len(raw))
        pairs = np.frombuffer(hashes, dtype="<u8").reshape(-1, 2)
        order, lots, size = pairs[:, 0], pairs[:, 1], np.frombuffer(sizes, dtype=np.int64)
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
        for _, text, _ in self._chosen(_choose(scan.order, scan.sizes * train, limit) & train):
            yield text

    def write(self, directory: Path, tokenizer: Tokenizer) -> WrittenStreams:
        """Tokenise everything that is kept into `train.bin`, `held_out.bin` and the ends of their documents.

        Args:
            directory: Where to write.
            tokenizer: The tokenizer.

        Returns:
            What was written.
        """
        scan, dtype = self.scan, token_dtype(tokenizer.vocab_size)
        train, held_out = (StreamWriter(directory / f"{name}.bin", dtype) for name in ("train", "held_out"))
        meter = Meter(self.tell, "tokenising", scan.bytes_chosen)
        for batch in encode_batches(tokenizer, batched(self._chosen(scan.chosen), batch_bytes()), dtype):
            held = scan.held[batch.indices]
            held_ids = held.repeat(batch.lengths)
            train.append(batch.indices[~held], batch.lengths[~held], batch.ids[~held_ids])
            held_out.append(batch.indices[held], batch.lengths[held], batch.ids[held_ids])
            meter.add(batch.size)
        meter.finish()
        train.finish(scan.order, scan.sizes)
        held_out_bytes = held_out.finish(scan.order, scan.sizes)
        return WrittenStreams(train.tokens, held_out.tokens, held_out_bytes, dtype)

    def _chosen(self, wanted: np.ndarray) -> Iterator[tuple[int, str, int]]:
        """Read the source again and yield (index, text, bytes) of the wanted documents."""
        sizes, index = self.scan.sizes, -1
        for index, text in enumerate(self.source.documents()):
            if index >= len(sizes):
                break
            if wanted[index]:
                raw = _utf8(text)
                if _size(raw) != sizes[index]:
                    raise changed(self.source)
                yield index, raw.decode("utf-8"), len(raw)
        if index + 1 != len(sizes):
            raise changed(self.source)


def token_dtype(vocab_size: int) -> str:
    """Name the smallest unsigned type that holds all token ids.

    Args:
        vocab_size: Ids lie below it.

    Returns:
        A numpy type name.
    """
    return "uint16" if vocab_size <= 65536 else "uint32"


def changed(source: Source) -> InputError:
    """Make the error for text that is not what it was a moment ago.

    Args:
        source: Where it comes from.

    Returns:
        The error.
    """
    return InputError(f"data: {source.label} changed while it was read; expected text that stays as it is: run again")


def _utf8(text: str) -> bytes:
    """Write UTF-8; lone surrogates, which JSON may smuggle in and UTF-8 cannot write, become question marks."""
    return text.encode("utf-8", "replace")


def _size(raw: bytes) -> int:
    """Tell how much text a document has: none if it is blank. Units: B."""
    return len(raw) if raw.strip() else 0


def _choose(order: np.ndarray, sizes: np.ndarray, limit: int | None) -> np.ndarray:
    """Mark the first documents of the order whose sizes add up to at most `limit`, and at least one."""
    import numpy as np

    ranked = np.argsort(order, kind="stable")
    chosen = np.ones(len(order), dtype=bool)
    if limit is not None and len(order):
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
