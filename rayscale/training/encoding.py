"""Batches of documents through a tokenizer: several at once, in order, in bounded memory.

    reading and writing (caller's thread)   |b3|..      |b4|w1|     |b5|w2|
    encoding (one thread per place)            [  b1  ][  b3  ][  b5  ]
                                               [  b2  ][  b4  ]

The tokenizer's own threads take the cores while it encodes one batch. With a second batch under way, they have work
while the first one's ids are turned into arrays (which needs the interpreter) and while its last long document is
finished by one core alone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from rayscale.training.tokenizer import Tokenizer

T = TypeVar("T")
R = TypeVar("R")

_UNDER_WAY = 2
_CORE_BYTES = 2_000_000
_MOST_BYTES = 8_000_000


@dataclass(frozen=True)
class TextBatch:
    """Documents to encode.

    Attributes:
        indices: Places of the documents in reading order.
        texts: The documents.
        size: Their length in UTF-8. Units: B.
    """

    indices: list[int]
    texts: list[str]
    size: int


@dataclass(frozen=True)
class TokenBatch:
    """Encoded documents.

    Attributes:
        indices: Places of the documents in reading order, int64.
        lengths: Tokens of each document, its end-of-text token included, int64.
        ids: The documents' tokens one after the other.
        size: Length of their text in UTF-8. Units: B.
    """

    indices: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    size: int


def batch_bytes() -> int:
    """Tell how much text makes a batch: enough for all cores, and bounded, for the library holds some 100 B per token.

    Units: B.
    """
    return min(_MOST_BYTES, _CORE_BYTES * len(os.sched_getaffinity(0)))


def batched(documents: Iterable[tuple[int, str, int]], limit: int) -> Iterator[TextBatch]:
    """Gather documents into batches.

    Args:
        documents: (index, text, size in bytes) each.
        limit: A batch is full when it has this much text. Units: B.

    Yields:
        Batches in order.
    """
    indices: list[int] = []
    texts: list[str] = []
    total = 0
    for index, text, size in documents:
        indices.append(index)
        texts.append(text)
        total += size
        if total >= limit:
            yield TextBatch(indices, texts, total)
            indices, texts, total = [], [], 0
    if texts:
        yield TextBatch(indices, texts, total)


def encode_batches(tokenizer: Tokenizer, batches: Iterable[TextBatch], dtype: str) -> Iterator[TokenBatch]:
    """Encode batches.

    Args:
        tokenizer: The tokenizer; every document is closed with its end-of-text token.
        batches: The batches; read as they are needed.
        dtype: Type of the ids.

    Yields:
        The encoded batches in order.
    """
    yield from in_order(lambda batch: _encode(tokenizer, batch, dtype), batches, _UNDER_WAY)


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Map a function over items in threads, yielding results in order and reading at most one item ahead of them.

    Args:
        work: The function; should spend its time without the interpreter's lock.
        items: The items.
        threads: Calls at a time.

    Yields:
        The results.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass
class Meter:
    """Progress in bytes as lines for people: at most one a period, and one at the end.

    Attributes:
        tell: Receives the lines.
        what: What is being done.
        total: Where it ends; None if unknown. Units: B.
        period: Least time between lines. Units: s.
        clock: Gives the time. Units: s.
    """

    tell: Callable[[str], None]
    what: str
    total: int | None = None
    period: float = 1.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start = self._last = self.clock()
        self._done, self._said = 0, -1

    def add(self, size: int) -> None:
        """Count what was done.

        Args:
            size: What was done since the last call. Units: B.
        """
        self._done += size
        now = self.clock()
        if now - self._last >= self.period:
            self._last = now
            self._say(now)

    def finish(self) -> None:
        """Say the final count, unless it was the last thing said."""
        if self._said != self._done:
            self._say(self.clock())

    def _say(self, now: float) -> None:
        self._said = self._done
        share = "" if self.total is None else f" of {self.total / 1e6:.1f}"
        rate = self._done / 1e6 / max(now - self._start, 1e-9)
        self.tell(f"{self.what}: {self._done / 1e6:.1f}{share} MB, {rate:.1f} MB/s")


def _encode(tokenizer: Tokenizer, batch: TextBatch, dtype: str) -> TokenBatch:
    import numpy as np

    end = np.asarray([tokenizer.end_of_text], dtype=dtype)
    parts: list[np.ndarray] = []
    lengths = np.empty(len(batch.texts), dtype=np.int64)
    for place, ids in enumerate(tokenizer.encode(batch.texts)):
        parts += (ids, end)
        lengths[place] = len(ids) + 1
    # The type was chosen for the vocabulary, so no id is cut.
    ids = np.concatenate(parts, dtype=dtype, casting="unsafe")
    return TokenBatch(np.asarray(batch.indices, dtype=np.int64), lengths, ids, batch.size)
