"""fp8 products in the linear layers of the blocks; all else is as under `precision: bf16`.

    forward    y  = x·Wᵀ   both rounded to e4m3 (4 bits of exponent, 3 of mantissa)
    backward   dx = g·W    g rounded to e5m2, whose range is wider
               dW = gᵀ·x   on the rounded x and g

Each tensor is scaled by its current largest value before it is rounded (Micikevicius et al., arXiv 2209.05433); weights
and moments stay fp32. The products are torch._scaled_mm: GPUs of compute capability 8.9 and newer (Ada, Hopper,
Blackwell). Widths and rows that 16 does not divide take the ordinary product.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError
from rayscale.training.treatments.blocks import block_linears

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

CAPABILITY = (8, 9)
"""First compute capability with fp8 products."""
_TINY = 1e-12


def require_fp8(device: torch.device) -> None:
    """Refuse a device without fp8 products.

    Args:
        device: Where the trial runs.

    Raises:
        EnvironmentUnusableError: If it has none.
    """
    import torch

    expected = "expected a GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell), or bf16"
    if device.type != "cuda":
        raise EnvironmentUnusableError(f"train.precision: fp8 on a CPU; {expected}")
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise EnvironmentUnusableError(f"train.precision: fp8 on {name}, which has {found[0]}.{found[1]}; {expected}")


def use_fp8(model: Any) -> int:
    """Let the linear layers of the blocks multiply in fp8.

    Args:
        model: A causal language model of transformers; changed in place.

    Returns:
        Layers changed: those whose widths 16 divides.

    Raises:
        InputError: If the model has no linear layers in blocks.
    """
    layers = [layer for _, layer in block_linears(model, "train.precision: fp8")]
    fitting = [layer for layer in layers if layer.in_features % 16 == 0 and layer.out_features % 16 == 0]
    for layer in fitting:
        layer.forward = _forward(layer)
    return len(fitting)


def scaled(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a tensor to fp8 so that its largest value is the type's largest.

    Args:
        values: Floats.
        dtype: `float8_e4m3fn` or `float8_e5m2`.

    Returns:
        The rounded tensor and the fp32 scale that it is to be multiplied by.
    """
    import torch

    top = torch.finfo(dtype).max
    scale = values.detach().abs().amax().float().clamp_min(_TINY) / top
    return (values / scale).clamp(-top, top).to(dtype), scale


def _forward(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.nn.functional import linear

    multiply = _product().apply  # looked up here: torch.compile would break its graph at the cache

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.flatten(0, -2)
        if flat.shape[0] % 16:
            return linear(inputs, layer.weight, layer.bias)
        found = multiply(flat, layer.weight)
        found = found if layer.bias is None else found + layer.bias.to(found.dtype)
        return found.view(*inputs.shape[:-1], -1)

    return forward


@functools.cache
def _product() -> Any:
    """Make the autograd function; it derives from a class of torch, which is not imported before it is needed."""
    import torch

    class Product(torch.autograd.Function):
        """x·Wᵀ with its gradients."""

        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            x, x_scale = scaled(inputs, torch.float8_e4m3fn)
            w, w_scale = scaled(weight, torch.float8_e4m3fn)
            ctx.save_for_backward(x, x_scale, w, w_scale)
            ctx.types = inputs.dtype, weight.dtype
            return _multiply(x, w.t(), x_scale, w_scale)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            x, x_scale, w, w_scale = ctx.saved_tensors
            g, g_scale = scaled(gradients[0].contiguous(), torch.float8_e5m2)
            wanted, (x_type, w_type) = ctx.needs_input_grad, ctx.types
            dx = _multiply(g, _by_column(w), g_scale, w_scale).to(x_type) if wanted[0] else None
            dw = _multiply(g.t().contiguous(), _by_column(x), g_scale, x_scale).to(w_type) if wanted[1] else None
            return dx, dw

    return Product


def _by_column(values: torch.Tensor) -> torch.Tensor:
    return values.t().contiguous().t()  # the second factor must lie in memory column by column


def _multiply(
    left: torch.Tensor, right: torch.Tensor, left_scale: torch.Tensor, right_scale: torch.Tensor
) -> torch.Tensor:
    import torch

    return torch._scaled_mm(left, right, scale_a=left_scale, scale_b=right_scale, out_dtype=torch.bfloat16)
