"""The state of a training run in the middle, on disk: what `train.share_prefix` hands from one budget to the next.

Everything that decides the rest of the run is kept: weights and buffers, moments of the optimiser, random states, the
losses so far and the step. A run that goes on from it computes the same bits as one that was never interrupted. The
file holds tensors and plain values only (read with `weights_only`), and is complete or absent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rayscale.training.engine import Engine

VERSION = 1


def write_state(path: Path, engine: Engine, step: int, losses: torch.Tensor, identity: str) -> None:
    """Keep a run's state.

    Args:
        path: The file; its directory is made.
        engine: Model and optimiser.
        step: Optimiser steps taken.
        losses: Their losses, shape (step,).
        identity: What the run is, apart from its budget.
    """
    import torch

    cuda = engine.device.type == "cuda"
    state = {
        "version": VERSION,
        "identity": identity,
        "step": step,
        "losses": losses.cpu(),
        "model": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict()["state"],
        "random": torch.get_rng_state(),
        "random_device": torch.cuda.get_rng_state(engine.device) if cuda else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path, identity: str) -> dict[str, Any]:
    """Read a run's state into (mapped) host memory.

    Args:
        path: The file.
        identity: What the run must be.

    Returns:
        The state, for `restore`.

    Raises:
        ValueError: If the file is no such state, or of another run.
        OSError: If it cannot be read.
    """
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: no readable state: {(str(error).splitlines() or ['empty'])[0]}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{path}: expected a state of version {VERSION}")
    if state["identity"] != identity:
        raise ValueError(f"{path}: the state of another run (other settings, seed, data, software or device)")
    return state


def restore(engine: Engine, state: dict[str, Any]) -> None:
    """Put a run's state in the place of the present one.

    Args:
        engine: Model and optimiser of the same run.
        state: From `read_state`.
    """
    import torch

    engine.model.load_state_dict(state["model"])
    _restore_optimizer(engine.optimizer, state["optimizer"])
    torch.set_rng_state(state["random"])
    if state["random_device"] is not None:
        torch.cuda.set_rng_state(state["random_device"], engine.device)


def _restore_optimizer(optimizer: Any, saved: dict[int, dict[str, torch.Tensor]]) -> None:
    """Copy into the tensors that warm-up left, so that no second set of moments is ever held."""
    own = optimizer.state_dict()
    if not own["state"]:
        optimizer.load_state_dict({**own, "state": saved})
        return
    for index, values in saved.items():
        for name, value in values.items():
            own["state"][index][name].copy_(value)
