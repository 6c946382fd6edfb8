"""Batches as tensors: a stream on the device (moved there once when it fits) or gathered row by row from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayscale.training.order import IGNORED, Budget, rank_rows

if TYPE_CHECKING:
    import numpy as np
    import torch

_DEVICE_BYTES = 2**31
"""Largest stream that is kept on a GPU."""


@dataclass(frozen=True)
class Batch:
    """One optimiser step's data.

    Attributes:
        micro_batches: (inputs, targets) pairs of int64 tensors, each of shape (micro-batch size, T); ignored targets
            are `IGNORED`.
        targets: Supervised targets of the step, on all ranks together.
    """

    micro_batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    targets: int


@dataclass(frozen=True)
class Feed:
    """The batches of one budget.

    Attributes:
        budget: Its layout.
        row_ids: Its row sequence.
        gather: Row offsets -> rows of T+1 tokens, int64, on the device.
        rank: Index of this process among those that share each step.
        world: Number of these processes.
    """

    budget: Budget
    row_ids: np.ndarray
    gather: Callable[[np.ndarray], torch.Tensor]
    rank: int = 0
    world: int = 1

    def batch(self, step: int) -> Batch:
        """Cut one step's batch.

        Args:
            step: Index of the step.

        Returns:
            The batch: full micro-batches, of whose targets in row-major order exactly the first ones count. On one of
            several ranks its share of them.
        """
        share = rank_rows(self.budget, step, self.row_ids, self.rank, self.world)
        where = share.rows
        rows = self.gather(where.starts)
        targets = rows[:, 1:].clone()
        targets.view(-1)[where.targets :] = IGNORED
        size = self.budget.micro_batch_size
        pairs = zip(rows[:, :-1].split(size), targets.split(size), strict=True)
        return Batch(tuple(pairs), share.step_targets)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of all steps."""
        return (self.batch(step) for step in range(self.budget.steps))


def stream_gather(stream: np.ndarray, sequence_length: int, device: torch.device) -> Callable[..., torch.Tensor]:
    """Make the function that reads rows of a stream.

    Args:
        stream: Token ids.
        sequence_length: T; rows have T+1 tokens.
        device: Where the rows are wanted.

    Returns:
        Row offsets (host) -> int64 tensor of shape (rows, T+1) on the device.
    """
    import numpy as np
    import torch

    within = np.arange(sequence_length + 1)

    def from_host(starts: np.ndarray) -> torch.Tensor:
        return _sent(torch.from_numpy(stream[starts[:, None] + within].astype(np.int64)), device)

    if device.type == "cpu" or 4 * len(stream) > _DEVICE_BYTES:
        return from_host
    resident = torch.from_numpy(stream.astype(np.int32)).to(device)
    steps = torch.from_numpy(within).to(device)

    def from_device(starts: np.ndarray) -> torch.Tensor:
        places = _sent(torch.from_numpy(starts), device)[:, None] + steps
        return resident[places].long()

    return from_device


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device without waiting for it: only a copy from pinned memory goes on by itself."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
