"""One optimiser step and its surroundings: loss, micro-batches, clipping, precision, saved state.

The loss of a step is the sum over its targets divided by their number, whatever the micro-batching; a mean of means
would weigh the targets of a short micro-batch more.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.training.order import IGNORED

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rayscale.training.feed import Batch


@dataclass(frozen=True)
class Engine:
    """What a step needs.

    Attributes:
        model: The model.
        optimizer: Its optimiser.
        device: Where it runs.
        precision: `fp32`, or `bf16`: autocast over fp32 master weights.
        grad_clip: Largest gradient norm; None: no clipping.
    """

    model: nn.Module
    optimizer: Any
    device: torch.device
    precision: str
    grad_clip: float | None

    def step(self, batch: Batch, learning_rate: float) -> torch.Tensor:
        """Take one optimiser step. Nothing in it waits for the device.

        Args:
            batch: The data.
            learning_rate: The step's learning rate.

        Returns:
            Mean loss of the step's targets before the update, on the device. Units: nats per token.
        """
        import torch

        total: torch.Tensor | None = None
        for inputs, targets in batch.micro_batches:
            loss = self.token_losses(inputs, targets).sum() / batch.targets
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise ValueError("expected a batch of at least one micro-batch")
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def token_losses(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute the cross entropy of every target; ignored ones give 0.

        Args:
            inputs: Token ids, shape (rows, T).
            targets: Token ids or `IGNORED`, shape (rows, T).

        Returns:
            fp32 losses, shape (rows · T,). Units: nats.
        """
        import torch.nn.functional as F  # noqa: N812

        with self._autocast():
            logits = self.model(input_ids=inputs, use_cache=False).logits
        flat = logits.float().view(-1, logits.shape[-1])
        return F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED, reduction="none")

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def thrown_away(self) -> Iterator[None]:
        """Run steps that leave no trace: weights, buffers, optimiser and random states are as before, to the last bit.

        The optimiser must be fresh: its state is zeroed in place, which is what it starts from, so that its memory
        stays allocated and the first measured step finds everything warm.
        """
        import torch

        where = self._snapshot_device()
        tensors = [*self.model.parameters(), *self.model.buffers()]
        saved = [tensor.detach().to(where, copy=True) for tensor in tensors]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, old in zip(tensors, saved, strict=True):
                tensor.copy_(old)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _snapshot_device(self) -> torch.device:
        """Keep the snapshot on the device only where weights, gradients, moments and it fit twice over."""
        import torch

        if self.device.type != "cuda":
            return self.device
        size = sum(parameter.nbytes for parameter in self.model.parameters())
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if free > 8 * size else torch.device("cpu")


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep Python's garbage collector from pausing the loop.

    What exists is set aside rather than collected first: with transformers loaded a collection takes 0.15 s, and this
    runs inside the measured phase.
    """
    enabled = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
