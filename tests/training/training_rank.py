"""One rank of a trial on several, run in a process of its own by test_training_ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.spec import SweepSpec
from rayscale.training.parallel import local_part
from rayscale.training.ranks import join, meet, part


def rank_spec(train: dict[str, Any], world: int) -> SweepSpec:
    """Return the tiny sweep for so many processes on the CPU; embedding and head are one weight with fsdp."""
    shape = TINY_LLAMA | {"tie_word_embeddings": train.get("parallel") == "fsdp"}
    return tiny_spec(model={"config": shape}, train=train, resources={"gpus": 0, "ranks": world})


@dataclass(frozen=True)
class RankEnd:
    """What one rank saw: losses of all steps, held-out losses before and after, and counts; B of weights held."""

    losses: list[float]
    before: float
    after: float
    trained: int
    processed: int
    nonzero: int
    held: int


def train_rank(folder: str, rank: int, world: int, tokens: int, train: dict[str, Any]) -> RankEnd:
    """Train one rank's share on the CPU."""
    session = tiny_session(Path(folder), rank_spec(train, world), tokens)
    join(session, meet(rank, world, f"file://{folder}/meet-{world}"))
    before = session.evaluate().loss
    session.warmup()
    result = session.train(lambda _: None)
    after, nonzero = session.evaluate().loss, session.nonzero_params()
    part()
    counts = (result.trained_tokens, result.processed_tokens, nonzero, weights_held())
    return RankEnd(result.losses.tolist(), before, after, *counts)


def weights_held() -> int:
    """Memory behind all parameters that are alive in this process, once each. Units: B."""
    import gc

    import torch

    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, torch.nn.Parameter)]
    parts = [local_part(one.detach()).untyped_storage() for one in alive]
    return sum({storage.data_ptr(): storage.nbytes() for storage in parts}.values())


def add_up_rank(folder: str, rank: int, world: int) -> list[list[float]]:
    """Add tensors of all kinds up: small, large, not contiguous, of other types; return what is in them."""
    import torch

    ranks = meet(rank, world, f"file://{folder}/add-{world}")
    large = torch.full((600, 600), float(rank + 1))
    turned = torch.full((700, 500), 10.0 * (rank + 1)).t()
    tensors = [torch.tensor(float(rank)), large, torch.arange(3) + rank, turned, torch.ones(2, 2) * rank]
    ranks.add_up(tensors)
    part()
    return [[float(tensor.min()), float(tensor.max())] for tensor in tensors]
