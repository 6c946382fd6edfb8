"""One optimiser step and its surroundings: loss, micro-batches, clipping, precision, saved state.

The loss of a step is the sum over its targets divided by their number, whatever the micro-batching; a mean of means
would weigh the targets of a short micro-batch more.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rayscale.training.loss import (
    LossPath,
    SplitModel,
    backward_chunked,
    chunk_rows,
    evaluated_losses,
    fused_loss,
)
from rayscale.training.loss import token_losses as full_losses
from rayscale.training.parallel import local_part
from rayscale.training.treatments.distilling import Teacher, distilled_backward

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rayscale.training.feed import Batch
    from rayscale.training.ranks import Ranks


@dataclass(frozen=True)
class Engine:
    """What a step needs.

    Attributes:
        model: The model.
        optimizer: Its optimiser.
        device: Where it runs.
        precision: `fp32`; `bf16`: autocast over fp32 master weights; `bf16-pure`: weights and moments in bf16 too;
            `fp8`: as bf16, with fp8 products in the blocks.
        grad_clip: Largest gradient norm; None: no clipping.
        split: The model's body and head; None where its logits are more than a linear layer.
        loss_path: How head and loss are computed.
        expected_bytes: Memory that training takes by the planner's sum; None if unknown. Units: B.
        teacher: Whose distribution is part of the target; None: nobody's.
        ranks: The processes that take the step together; None: this one alone.
        sharded: The step as one module whose weights are spread over these processes; None: each has them all.
    """

    model: nn.Module
    optimizer: Any
    device: torch.device
    precision: str
    grad_clip: float | None
    split: SplitModel | None = None
    loss_path: LossPath = "full"
    expected_bytes: int | None = None
    teacher: Teacher | None = None
    ranks: Ranks | None = None
    sharded: Any = None

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
            loss = self.backward(inputs, targets, batch.targets)
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("expected a batch of at least one micro-batch")
        if self.ranks is not None:
            # what is spread over the ranks has been added up where it lies
            gradients = [] if self.sharded else [p.grad for p in self._parameters if p.grad is not None]
            self.ranks.add_up([total, *gradients])
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        for parameter in self._parameters:  # what zero_grad does, without its bookkeeping
            parameter.grad = None
        return total

    def backward(self, inputs: torch.Tensor, targets: torch.Tensor, divisor: int) -> torch.Tensor:
        """Add one micro-batch's gradients to those that are there.

        Args:
            inputs: Token ids, shape (rows, T).
            targets: Token ids or `IGNORED`, shape (rows, T).
            divisor: Targets of the whole optimiser step.

        Returns:
            The micro-batch's share of the step's mean loss, on the device, without a graph.
        """
        flat = targets.reshape(-1)
        if self.teacher is not None:
            return self._distill(self.teacher, inputs, flat, divisor)
        if self.sharded is None and self.split is not None and self.loss_path == "chunked":
            with self._autocast():
                hidden = self.split.hidden(inputs)
            return backward_chunked(self._logits, hidden, flat, divisor, self._chunk_rows)
        loss = (self.sharded or self.whole_loss)(inputs, flat, divisor)
        loss.backward()
        return loss.detach()

    def whole_loss(self, inputs: torch.Tensor, flat: torch.Tensor, divisor: int) -> torch.Tensor:
        """Compute a micro-batch's share of the step's mean loss in one piece.

        Args:
            inputs: Token ids, shape (rows, T).
            flat: Token ids or `IGNORED`, shape (rows · T,).
            divisor: Targets of the whole optimiser step.

        Returns:
            The loss with its graph.
        """
        if self.split is None or self.loss_path != "linear_cross_entropy":
            return self.losses(inputs, flat).sum() / divisor
        with self._autocast():
            hidden = self.split.hidden(inputs)
        return fused_loss(self.split, hidden, flat, divisor, self.compute_dtype)

    def _distill(self, teacher: Teacher, inputs: torch.Tensor, flat: torch.Tensor, divisor: int) -> torch.Tensor:
        with self._autocast():
            wanted = teacher.hidden(inputs)
            if self.split is None:  # the "hidden" states are logits, and the head is the identity
                hidden = self.model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
            else:
                hidden = self.split.hidden(inputs)
        head = self._logits if self.split is not None else _unchanged
        return distilled_backward(head, hidden, teacher, wanted, flat, divisor, self._chunk_rows)

    def token_losses(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute the cross entropy of every target; ignored ones give 0.

        Args:
            inputs: Token ids, shape (rows, T).
            targets: Token ids or `IGNORED`, shape (rows, T).

        Returns:
            fp32 losses, shape (rows · T,). Units: nats.
        """
        flat = targets.reshape(-1)
        return self.losses(inputs, flat) if self.sharded is None else self.sharded(inputs, flat, None)

    def losses(self, inputs: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """Compute the same with the whole weights at hand.

        Args:
            inputs: Token ids, shape (rows, T).
            flat: Token ids or `IGNORED`, shape (rows · T,).

        Returns:
            fp32 losses, shape (rows · T,). Units: nats.
        """
        with self._autocast():
            if self.split is not None:
                return evaluated_losses(self.split, self.split.hidden(inputs), flat, self._chunk_rows)
            logits = self.model(input_ids=inputs, use_cache=False).logits
        return full_losses(logits.flatten(0, 1), flat)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.split is None:
            raise ValueError("expected a model that was split into body and head")
        with self._autocast():
            return self.split.head(hidden)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of the matrix products."""
        import torch

        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @cached_property
    def _parameters(self) -> list[torch.nn.Parameter]:
        """The parameters; walking through the modules for them at every step takes longer than clipping them."""
        return list(self.model.parameters())

    @property
    def _chunk_rows(self) -> int:
        return chunk_rows(self.model.config.vocab_size)

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision in ("bf16", "fp8"))

    @contextmanager
    def thrown_away(self) -> Iterator[None]:
        """Run steps that leave no trace: weights, buffers, optimiser and random states are as before, to the last bit.

        The optimiser must be fresh: its state is zeroed in place, which is what it starts from, so that its memory
        stays allocated and the first measured step finds everything warm.
        """
        import torch

        where = self._snapshot_device()
        # Of weights that are spread over ranks this one's part; the model's buffers are whole.
        tensors = [local_part(tensor.detach()) for tensor in (*self.model.parameters(), *self.model.buffers())]
        saved = [tensor.to(where, copy=True) for tensor in tensors]
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
        """Keep the snapshot on the device only where it and all that training takes fit there together."""
        import torch

        if self.device.type != "cuda":
            return self.device
        size = sum(local_part(parameter.detach()).nbytes for parameter in self.model.parameters())
        free, _ = torch.cuda.mem_get_info(self.device)
        # Without a sum: weights (there already), gradients and moments, twice over for what is unknown.
        needed = 7 * size if self.expected_bytes is None else self.expected_bytes - size
        return self.device if free > needed + size else torch.device("cpu")


def _unchanged(rows: torch.Tensor) -> torch.Tensor:
    return rows


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
