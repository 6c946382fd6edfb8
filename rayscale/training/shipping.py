"""What torch.compile made for a sweep, as one file that travels with its ledger.

    node A   compile ─▶ <cache>/inductor/<bundle>.bin ─▶ <ledger>/inductor/<bundle>.bin
    node B              <cache>/inductor/<bundle>.bin ◀──────────┘    loaded by the first trial that compiles there

A bundle is named after everything that decides what is compiled: versions and device (the key of the node's cache),
model, training settings, shapes. What is loaded fills the compiler's own cache, which still checks every entry against
the graph that it is asked for; a bundle of something else is never used, only ignored. The compiler's files are
pickles, so a ledger that holds bundles must be trusted as code is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.environment import cache_directory
from rayscale.training.cachefiles import digest_of

if TYPE_CHECKING:
    from rayscale.spec import SweepSpec
    from rayscale.storage import Storage

FOLDER = "inductor"
"""Of bundles: in the cache of a node, and in a ledger."""


def bundle_name(spec: SweepSpec, cache_key: str) -> str:
    """Name the bundle of a trial.

    Args:
        spec: The resolved sweep.
        cache_key: Key of the compiler's cache (`compiling.use_shared_cache`).

    Returns:
        The file's name.
    """
    parts = [spec.model.model_dump(mode="json"), spec.train.model_dump(mode="json"), spec.data.sequence_length]
    shares = [spec.world] if spec.world > 1 else []  # ranks have fewer rows each
    return f"{cache_key}-{digest_of([*parts, spec.eval.batch_size, *shares])[:16]}.bin"


def pack_bundle(name: str, save: Callable[[], tuple[bytes, Any] | None] | None = None) -> Path | None:
    """Keep what this process has compiled, or found compiled, unless the node has the bundle already.

    Args:
        name: From `bundle_name`.
        save: Gives the bytes; None takes `torch.compiler.save_cache_artifacts`.

    Returns:
        The file; None if there was nothing to keep.
    """
    path = cache_directory() / FOLDER / name
    if path.exists():
        return path
    if save is None:
        import torch

        save = torch.compiler.save_cache_artifacts
    saved = save()
    if saved is None:
        return None
    _write(path, saved[0])
    _mark(path)  # this node's cache holds it
    return path


def load_bundle(name: str, load: Callable[[bytes], Any] | None = None) -> bool:
    """Fill the compiler's cache from a bundle that came from another node, once per node.

    Args:
        name: From `bundle_name`.
        load: Takes the bytes; None takes `torch.compiler.load_cache_artifacts`.

    Returns:
        Whether something was loaded.
    """
    path = cache_directory() / FOLDER / name
    if not path.exists() or _marker(path).exists():
        return False
    if load is None:
        import torch

        load = torch.compiler.load_cache_artifacts
    found = load(path.read_bytes())
    _mark(path)
    return found is not None


def send_bundle(ledger: Storage, name: str | None) -> bool:
    """Put a bundle of this node beside the ledger, unless it is there.

    Args:
        ledger: Storage of the sweep's ledger.
        name: From `bundle_name`; None sends nothing.

    Returns:
        Whether it was sent.
    """
    path = cache_directory() / FOLDER / str(name)
    if name is None or not path.exists() or name in ledger.list(FOLDER):
        return False
    ledger.write(f"{FOLDER}/{name}", path.read_bytes())
    return True


def fetch_bundles(ledger: Storage) -> int:
    """Bring the ledger's bundles to this node.

    Args:
        ledger: Storage of the sweep's ledger.

    Returns:
        How many were new here.
    """
    count = 0
    for name in ledger.list(FOLDER):
        path = cache_directory() / FOLDER / Path(name).name
        content = None if path.exists() or path.suffix != ".bin" else ledger.read(f"{FOLDER}/{name}")
        if content is not None:
            _write(path, content)
            count += 1
    return count


def _marker(path: Path) -> Path:
    return path.with_suffix(".loaded")


def _mark(path: Path) -> None:
    _marker(path).touch()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
