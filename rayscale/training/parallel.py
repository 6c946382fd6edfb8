"""FSDP2: weights, gradients and moments of one model spread over the ranks, in the house's own training loop.

torch's `fully_shard` gathers weights when a module's `forward` begins and sends gradients where they belong when its
backward pass ends. The loop takes body and head apart (`loss.SplitModel`), so the whole step is made one module whose
`forward` is the loss: blocks are gathered one by one, what surrounds them as its root. Head and loss come in one piece
then (or by torch's fused function): chunks that run backward in the middle of a forward pass would upset the hooks.

FSDP averages over the ranks; here losses are divided by the targets of the whole step, so gradients are *added*.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from rayscale.training.engine import Engine
    from rayscale.training.memory import MemoryNeed

GATHERED_BLOCKS = 2
"""Blocks whose whole weights are on a device at once: the one that computes and the one that comes next."""


def shard(engine: Engine) -> Callable[..., torch.Tensor]:
    """Spread a model over the ranks, in place; an optimiser for it has to be built afterwards.

    Args:
        engine: Its model is the same on all ranks, and whole.

    Returns:
        The step as a module: (inputs, flat targets, divisor) -> summed loss / divisor with its graph; with divisor None
        the losses of all targets, fp32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    world = engine.ranks.world if engine.ranks is not None else 1
    mesh = init_device_mesh(engine.device.type, (world,))
    for block in blocks_of(engine.model):
        fully_shard(block, mesh=mesh)
    step = _step_module(replace(engine, optimizer=None))  # the present one would keep the whole weights alive
    fully_shard(step, mesh=mesh, reshard_after_forward=True)
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # a plain sum: gloo has no scaled one, nobody needs it
    return step


def blocks_of(model: Any) -> list[torch.nn.Module]:
    """List a model's transformer blocks; empty where they cannot be told by its depth.

    Args:
        model: A model of transformers.
    """
    depth = model.config.num_hidden_layers
    lists = (child for child in model.modules() if type(child).__name__ == "ModuleList" and len(child) == depth)
    return list(next(lists, ()))


def _step_module(engine: Engine) -> Any:
    import torch

    class Step(torch.nn.Module):
        """Loss of a micro-batch."""

        def __init__(self) -> None:
            super().__init__()
            self.model = engine.model

        def forward(self, inputs: torch.Tensor, flat: torch.Tensor, divisor: int | None) -> torch.Tensor:
            return engine.losses(inputs, flat) if divisor is None else engine.whole_loss(inputs, flat, divisor)

    return Step()


def local_part(parameter: Any) -> torch.Tensor:
    """Return this rank's part of a sharded tensor; a plain one as it is."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def sharded_need(need: MemoryNeed, world: int, layers: int) -> MemoryNeed:
    """Spread the memory of training over the ranks.

    Args:
        need: What one device would keep.
        world: Number of ranks.
        layers: Blocks of the model.

    Returns:
        What each keeps: its part of weights, gradients and moments, and the whole weights and gradients of two blocks
        and of what surrounds the blocks (counted as twice the head, which is an upper bound).
    """

    def spread(size: int) -> int:
        whole = min(size, 2 * need.head + GATHERED_BLOCKS * size // max(layers, 1))
        return size // world + whole

    return replace(need, weights=spread(need.weights), gradients=spread(need.gradients), moments=need.moments // world)
