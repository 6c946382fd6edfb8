"""A token stream on disk: documents are written as they come and brought into their final order at the end.

The order is by a hash of each document, so it does not depend on the order of reading. Only numbers per document are
in memory, never the tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

_BUFFER_BYTES = 1 << 20


class StreamWriter:
    """Writes `<name>.bin`, and `<name>_documents.npy`: tokens and bytes up to each document's end.

    The second file tells the bytes behind the first N tokens.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        """Open the stream.

        Args:
            path: The stream's file.
            dtype: Type of a stored token id.
        """
        self._path, self._dtype = path, dtype
        self._indices: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._raw = path.with_suffix(".raw")
        self._file: BinaryIO = self._raw.open("wb", buffering=_BUFFER_BYTES)
        self.tokens = 0
        self.documents = 0

    def append(self, indices: np.ndarray, lengths: np.ndarray, ids: np.ndarray) -> None:
        """Write documents.

        Args:
            indices: Places of the documents in reading order.
            lengths: Tokens of each.
            ids: Their tokens one after the other.
        """
        self._file.write(ids.astype(self._dtype, copy=False).data)
        self._indices.append(indices)
        self._lengths.append(lengths)
        self.tokens += len(ids)
        self.documents += len(indices)

    def finish(self, order: np.ndarray, sizes: np.ndarray) -> int:
        """Bring the documents into their order.

        Args:
            order: Sort key of every document of the source.
            sizes: Length of every document of the source. Units: B.

        Returns:
            Bytes of text in the stream.
        """
        import numpy as np

        self._file.close()
        none = [np.zeros(0, dtype=np.int64)]
        indices, lengths = np.concatenate(self._indices or none), np.concatenate(self._lengths or none)
        starts = np.cumsum(lengths) - lengths
        # A stable sort: equal documents stay in reading order.
        ranked = np.argsort(order[indices], kind="stable")
        width = np.dtype(self._dtype).itemsize
        _copy_pieces(self._raw, self._path, starts[ranked] * width, lengths[ranked] * width)
        text = np.cumsum(sizes[indices[ranked]])
        np.save(self._path.with_name(f"{self._path.stem}_documents.npy"), np.stack([np.cumsum(lengths[ranked]), text]))
        self._raw.unlink()
        return int(text[-1]) if len(text) else 0


def _copy_pieces(source: Path, target: Path, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Copy pieces of a file one after the other; reading by offset keeps none of it in memory, as a mapping would."""
    with source.open("rb") as file, target.open("wb", buffering=_BUFFER_BYTES) as out:
        handle = file.fileno()
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            out.write(os.pread(handle, length, start))
