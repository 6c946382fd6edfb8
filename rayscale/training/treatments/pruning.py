"""Global magnitude pruning: the smallest weights of all blocks' linear layers are set to zero and stay zero.

The share is global (Han et al., arXiv 1506.02626; Frankle and Carbin, arXiv 1803.03635): one threshold for all layers,
so layers with small weights lose more. The mask is chosen once, before training. Gradients are masked as they arrive;
AdamW then has no moment for these weights and its decay leaves zero at zero, so nothing else needs to know.

Dense kernels multiply zeros like other numbers: neither time nor energy nor FLOPs fall. The record says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayscale.training.parallel import local_part
from rayscale.training.treatments.blocks import block_linears

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from rayscale.training.ranks import Ranks


def prune_model(model: Any, share: float) -> int:
    """Prune a model for the rest of its life.

    Args:
        model: A causal language model of transformers, on its device.
        share: Of the weights of linear layers in blocks; ties go in the model's order, so the count is exact.

    Returns:
        Weights that are zero from now on.

    Raises:
        InputError: If the model has no such layers.
    """
    import torch

    weights = [layer.weight for _, layer in block_linears(model, "model.prune")]
    with torch.no_grad():
        sizes = torch.cat([weight.detach().abs().flatten().float() for weight in weights])
        count = int(share * len(sizes))
        kept = _larger(sizes, count)
        for weight, part in zip(weights, kept.split([weight.numel() for weight in weights]), strict=True):
            mask = part.view_as(weight).to(weight.dtype)
            weight.mul_(mask)
            if weight.requires_grad:  # a frozen weight below an adapter gets no gradient
                weight.register_hook(_masked(mask))
    return count


def _larger(sizes: torch.Tensor, count: int) -> torch.Tensor:
    """Mark all but the `count` smallest; sorting would take twice the memory of the weights."""
    if count == 0:
        return sizes >= 0
    threshold = sizes.kthvalue(count).values
    kept = sizes >= threshold
    ties = (sizes == threshold).nonzero().flatten()
    kept[ties[: count - int((~kept).sum())]] = False
    return kept


def _masked(mask: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient * mask


def nonzero_params(model: Any, ranks: Ranks | None = None) -> int:
    """Count the parameters that are not zero.

    Args:
        model: Any module.
        ranks: Over which its parameters are spread; None: they are here.

    Returns:
        The number, shared parameters once.
    """
    import torch

    found = sum(int(local_part(parameter).count_nonzero()) for parameter in model.parameters())
    if ranks is None:
        return found
    total = torch.tensor([found], device=next(model.parameters()).device)
    ranks.add_up([total])
    return int(total)
