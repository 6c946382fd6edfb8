"""Documents of a `datasets` dataset: by name from the hub (its commit recorded) or from a local directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.training.cachefiles import hash_files
from rayscale.training.rowfiles import passages

if TYPE_CHECKING:
    from rayscale.spec import DataSpec

_BATCH_ROWS = 256
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DatasetSource:
    """One split of a dataset. Nothing is loaded while a known commit or the directory's content identifies it."""

    data: DataSpec

    @property
    def name(self) -> str:
        """Hub name or local directory."""
        return str(self.data.dataset)

    @property
    def label(self) -> str:
        """What it is, for people."""
        parts = [self.name, *([self.data.subset] if self.data.subset else []), self.data.split]
        return "dataset " + "/".join(parts)

    @cached_property
    def revision(self) -> str | None:
        """Commit of a hub dataset: as pinned, else asked of the hub; None if local or the hub is out of reach."""
        pinned = self.data.revision
        if self._local or (pinned and _COMMIT.fullmatch(pinned)):
            return None if self._local else pinned
        from huggingface_hub import HfApi

        try:
            return HfApi().dataset_info(self.name, revision=pinned, timeout=10).sha
        except Exception as error:
            if isinstance(error, OSError | ValueError) or _is_network_error(error):
                return None  # the local cache may still have it; the dataset's own fingerprint identifies it then
            raise

    @property
    def _local(self) -> bool:
        return Path(self.name).is_dir()

    def fingerprint(self) -> str:
        """Return a hash of the split's identity: content of a local directory, commit, or the dataset's fingerprint."""
        identity = _hash_tree(Path(self.name)) if self._local else self.revision or self._dataset._fingerprint
        parts = [identity, "" if self._local else self.name, str(self.data.subset), self.data.split]
        return hashlib.sha256("\0".join([*parts, self.data.text_column]).encode()).hexdigest()

    @cached_property
    def _dataset(self) -> Any:
        dataset = _load(self.data, self.name, self.revision)
        if self.data.text_column not in dataset.column_names:
            expected = f"expected a column `{self.data.text_column}`"
            columns = ", ".join(dataset.column_names)
            raise InputError(f"data.text_column: {expected} in {self.label}; it has: {columns}")
        return dataset.select_columns([self.data.text_column])

    def documents(self) -> Iterator[str]:
        """Yield the texts in the dataset's order, long ones cut into passages."""
        for batch in self._dataset.iter(batch_size=_BATCH_ROWS):
            for text in batch[self.data.text_column]:
                if text is not None and not isinstance(text, str):
                    column = self.data.text_column
                    raise InputError(
                        f"data.text_column: `{column}` of {self.label} holds {type(text).__name__}, no text"
                    )
                if text:
                    yield from passages([text])


def _load(data: DataSpec, name: str, revision: str | None) -> Any:
    import datasets

    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            return _pick_split(loaded, data.split) if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(name, data.subset, split=data.split, revision=revision or data.revision)
    except ConnectionError as error:
        raise EnvironmentUnusableError(f"data.dataset: {name}: the hub is out of reach: {_first(error)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"data.dataset: {name}: cannot be loaded: {_first(error)}") from None
    except Exception as error:
        if not _is_network_error(error):
            raise
        raise EnvironmentUnusableError(f"data.dataset: {name}: the hub is out of reach: {_first(error)}") from None


def _is_network_error(error: BaseException) -> bool:
    """Tell an error of the hub's HTTP client, which lets its library's own classes through."""
    clients = ("httpx", "httpcore", "requests", "urllib3")
    return any(kind.__module__.startswith(clients) for kind in type(error).__mro__)


def _pick_split(loaded: Any, split: str) -> Any:
    if split not in loaded:
        raise ValueError(f"no split `{split}`; it has: {', '.join(loaded)}")
    return loaded[split]


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _hash_tree(root: Path) -> str:
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("cache-"))
    return hash_files((path.relative_to(root).as_posix(), path) for path in paths)
