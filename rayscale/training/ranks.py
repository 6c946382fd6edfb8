"""Several processes, one optimiser step: data-parallel (`ddp`) or with the model spread over them as well (`fsdp`).

Each rank takes its share of the step's rows (`order.rank_rows`), divides its summed loss by the targets of the whole
step, and the gradients are *added* over the ranks: the sum is the gradient of the step's mean loss, whatever the
shares. (torch's DistributedDataParallel averages, which is right only for equal shares, and needs the model's own
forward pass, which this house goes around.) Gradients travel after the last micro-batch, large ones from where they
are, small ones of a type packed together; nothing overlaps with the backward pass. With `fsdp` they are added where
their part of the model lies (`parallel`).

Evaluation is shared as well: micro-batch i goes to rank i mod world, and the float64 sum of each is given to all. Since
these sums are then added exactly (`math.fsum`), the loss of given weights is the same, to the last bit, for any number
of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rayscale.training.engine import Engine
    from rayscale.training.session import Session

TIMEOUT_S = 1800.0
"""How long a rank waits for the others, which may load for long; that one is gone is noticed otherwise, at once."""
PIECE = 2**20
"""From this size on a tensor is added up by itself, without a copy. Units: B."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its index.
        world: Their number.
    """

    rank: int
    world: int

    def turns(self, count: int) -> Iterator[tuple[int, bool]]:
        """Hand out pieces of work one by one, equally often on every rank, as collective operations need it.

        Args:
            count: Pieces.

        Yields:
            The piece of this rank, and whether it counts; where there is none left, the first one, which does not.
        """
        for first in range(0, count, self.world):
            index = first + self.rank
            yield (index, True) if index < count else (0, False)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; every rank gets the same bits.

        Args:
            tensors: As many, of the same shapes and types, on every rank.
        """
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return
        under_way = []
        for pack in _packs(tensors):
            single = len(pack) == 1 and pack[0].is_contiguous()
            flat = pack[0] if single else torch.cat([tensor.reshape(-1) for tensor in pack])
            under_way.append((dist.all_reduce(flat, async_op=True), flat, pack))
        for work, flat, pack in under_way:
            work.wait()
            if flat is not pack[0]:
                sizes = [tensor.numel() for tensor in pack]
                for tensor, total in zip(pack, flat.split(sizes), strict=True):
                    tensor.copy_(total.view(tensor.shape))


def _packs(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Leave large tensors alone, to be added up where they are; pack the small ones of one type together."""
    alone = [[one] for one in tensors if one.nbytes >= PIECE and one.is_contiguous()]
    large = {id(pack[0]) for pack in alone}
    small: dict[torch.dtype, list[torch.Tensor]] = {}
    for one in tensors:
        if id(one) not in large:
            small.setdefault(one.dtype, []).append(one)
    return [*small.values(), *alone]


ALONE = Ranks(0, 1)
"""A process that trains by itself."""


def meet(rank: int, world: int, address: str, backend: str = "gloo") -> Ranks:
    """Meet the other ranks, on this machine; what the backends open for it listens on loopback only.

    Args:
        rank: Index of this process.
        world: Number of processes.
        address: Where they meet: `file:///path`, a file that is empty or not there yet.
        backend: `gloo` on CPUs, `nccl` on GPUs.

    Returns:
        The ranks, until `part`.
    """
    import torch.distributed as dist

    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[name] = "lo"
    patience = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, timeout=patience)
    return Ranks(rank, world)


def part() -> None:
    """Leave the other ranks, if there are any; all must do so."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def join(session: Session, ranks: Ranks) -> None:
    """Let a session train as one of several ranks; all must have opened it alike and joined before they warm up.

    Losses, rates and logs are then those of whole steps, the same on every rank. With `train.parallel: fsdp` the model
    is spread over the ranks now. Random numbers drawn in training (dropout, where a model has it) differ by rank.

    Args:
        session: Before its first step.
        ranks: This process among them.

    Raises:
        ValueError: If the session has taken steps.
    """
    import torch

    if session.steps_done:
        raise ValueError(f"expected a session at step 0, got one at step {session.steps_done}")
    session.train_feed = replace(session.train_feed, rank=ranks.rank, world=ranks.world)
    engine = replace(session.engine, ranks=ranks)
    if ranks.world > 1 and session.spec.train.parallel == "fsdp":
        engine = _sharded(engine, session)
    session.setup = replace(session.setup, engine=engine)
    if ranks.rank:
        torch.manual_seed(torch.initial_seed() + ranks.rank)


def _sharded(engine: Engine, session: Session) -> Engine:
    from rayscale.training.optim import build_optimizer
    from rayscale.training.parallel import shard

    step = shard(engine)
    return replace(engine, sharded=step, optimizer=build_optimizer(engine.model, session.spec.train))
