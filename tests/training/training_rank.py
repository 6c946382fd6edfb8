"""One rank of data-parallel training, run in a process of its own by test_training_ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training_helpers import tiny_session, tiny_spec

from rayscale.training.ranks import join, meet


def train_rank(folder: str, rank: int, world: int, tokens: int, train: dict[str, Any]) -> tuple[list[float], float]:
    """Train one rank's share on the CPU.

    Returns:
        Losses of all steps, and the held-out loss afterwards.
    """
    session = tiny_session(Path(folder), tiny_spec(train=train), tokens)
    with meet(rank, world, f"file://{folder}/meet-{world}") as ranks:
        join(session, ranks)
        session.warmup()
        result = session.train(lambda _: None)
        return result.losses.tolist(), session.evaluate().loss
