"""One rank of a trial on several, run in a process of its own by test_training_ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.spec import SweepSpec
from rayscale.training.ranks import join, meet, part


def rank_spec(train: dict[str, Any], world: int) -> SweepSpec:
    """Return the tiny sweep for so many processes on the CPU; embedding and head are one weight with fsdp."""
    shape = TINY_LLAMA | {"tie_word_embeddings": train.get("parallel") == "fsdp"}
    return tiny_spec(model={"config": shape}, train=train, resources={"gpus": 0, "ranks": world})


@dataclass(frozen=True)
class RankEnd:
    """What one rank saw: losses of all steps, held-out losses before and after, and counts."""

    losses: list[float]
    before: float
    after: float
    trained: int
    processed: int
    nonzero: int


def train_rank(folder: str, rank: int, world: int, tokens: int, train: dict[str, Any]) -> RankEnd:
    """Train one rank's share on the CPU."""
    session = tiny_session(Path(folder), rank_spec(train, world), tokens)
    join(session, meet(rank, world, f"file://{folder}/meet-{world}"))
    before = session.evaluate().loss
    session.warmup()
    result = session.train(lambda _: None)
    after, nonzero = session.evaluate().loss, session.nonzero_params()
    part()
    return RankEnd(result.losses.tolist(), before, after, result.trained_tokens, result.processed_tokens, nonzero)
