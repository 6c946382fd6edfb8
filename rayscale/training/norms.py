"""RMSNorm with a backward pass written down, for eager training in fp32 on a CPU.

transformers writes the norm as six small operations, and autograd answers with a dozen passes over the activations; on
a laptop-sized model these are a twentieth of a step. With y = w·h, h = x·r, r = (mean(x²) + eps)^(-1/2) and g = dL/dy:

    dL/dw = sum of g·h over rows        dL/dx = r·(g·w - h·mean(g·w·h))

The forward pass keeps transformers' operations and order, so its bits are the same (tried out on each module before it
is replaced); the gradients differ in the last digits. GPUs keep theirs: there torch.compile fuses the norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def lean_norms(model: Any) -> int:
    """Give a model's RMSNorms the backward pass above.

    Args:
        model: A model of transformers in fp32, on a CPU, that is not compiled.

    Returns:
        Number of norms that were replaced; those that compute something else stay as they are.
    """
    import torch

    apply, found = _norm_function().apply, 0
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if eps is None or not isinstance(weight, torch.nn.Parameter) or weight.dtype != torch.float32:
            continue
        if _is_plain(module, weight, eps, apply):
            module.forward = _forward(weight, eps, apply)
            found += 1
    return found


def _forward(weight: torch.nn.Parameter, eps: float, apply: Any) -> Any:
    return lambda hidden: apply(hidden, weight, eps)


def _is_plain(module: Any, weight: torch.nn.Parameter, eps: float, apply: Any) -> bool:
    """Compare with the module's own result, bit by bit; some norms add one to the weight or cast in between."""
    import torch

    with torch.no_grad():
        sample = torch.linspace(-3, 3, 2 * weight.numel(), device=weight.device).sin().view(2, -1)
        scaled = torch.nn.Parameter(weight + sample[0].abs())  # fresh weights are all 1, which hides a difference
        kept, module.weight = module.weight, scaled
        try:
            return torch.equal(module(sample), apply(sample, scaled, eps))
        finally:
            module.weight = kept


def _norm_function() -> Any:
    import torch

    class RmsNorm(torch.autograd.Function):
        """The norm and its gradients."""

        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
            root = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
            normal = hidden * root
            ctx.save_for_backward(normal, root, weight)
            return weight * normal

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
            normal, root, weight = ctx.saved_tensors
            gradient, width = gradients[0], weight.numel()
            product = gradient * normal
            mean = torch.mv(product.reshape(-1, width), weight).view(root.shape).div_(-width)
            into = torch.addcmul(gradient * weight, normal, mean).mul_(root)
            return into, product.reshape(-1, width).sum(0) if ctx.needs_input_grad[1] else None, None

    return RmsNorm
