"""Data-parallel training: several processes, one optimiser step.

Each rank takes its share of the step's rows (`order.rank_rows`), divides its summed loss by the targets of the whole
step, and the gradients are *added* over the ranks: the sum is the gradient of the step's mean loss, whatever the
shares. (torch's DistributedDataParallel averages, which is right only for equal shares, and needs the model's own
forward pass, which this house goes around.) Gradients travel in one piece per type after the last micro-batch; nothing
overlaps with the backward pass yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rayscale.training.session import Session

TIMEOUT_S = 300.0
"""How long a rank waits for the others."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its index.
        world: Their number.
    """

    rank: int
    world: int

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; every rank gets the same bits.

        Args:
            tensors: As many, of the same shapes and types, on every rank.
        """
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            for tensor, total in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(total.view(tensor.shape))


@contextmanager
def meet(rank: int, world: int, address: str, backend: str = "gloo") -> Iterator[Ranks]:
    """Meet the other ranks.

    Args:
        rank: Index of this process.
        world: Number of processes.
        address: Where they meet: `tcp://host:port` or `file:///path`.
        backend: `gloo` on CPUs, `nccl` on GPUs.

    Yields:
        The ranks; they part when the block ends.
    """
    import torch.distributed as dist

    patience = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, timeout=patience)
    try:
        yield Ranks(rank, world)
    finally:
        dist.destroy_process_group()


def join(session: Session, ranks: Ranks) -> None:
    """Let a session train as one of several ranks; all must have opened it alike and joined before they warm up.

    Losses, rates and logs are then those of whole steps, the same on every rank; evaluation stays each rank's own.

    Args:
        session: Before its first step.
        ranks: This process among them.

    Raises:
        ValueError: If the session has taken steps.
    """
    if session.steps_done:
        raise ValueError(f"expected a session at step 0, got one at step {session.steps_done}")
    session.train_feed = replace(session.train_feed, rank=ranks.rank, world=ranks.world)
    session.setup = replace(session.setup, engine=replace(session.engine, ranks=ranks))
