"""Linear layers in int8 or int4, for an evaluation after training.

    int8   weights per output channel, activations per row at run time, both symmetric; the product runs in int8 with
           int32 sums (torch._int_mm, which CPUs with VNNI and GPUs have): a real kernel, faster from widths of some 500
    int4   weights in groups of 32 inputs, symmetric, 15 levels; simulated: they are rounded, then multiplied as
           floats, so only the loss says something; time and energy do not

Only the blocks' linear layers are changed: embedding and head stay, as usual. Where the int8 kernel does not take a
shape (CUDA: fewer than 17 rows, widths that 8 does not divide) the rounded weights are multiplied as floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rayscale.training.treatments.blocks import block_linears, model_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

Kind = Literal["int8", "int4"]
GROUP = 32
"""Inputs that share a scale in int4."""
_TINY = 1e-12


@dataclass(frozen=True)
class Quantized:
    """What was done to a model.

    Attributes:
        kind: `int8` or `int4`.
        kernel: What multiplies, in words.
        layers: Layers changed.
        weight_bytes: What their weights and scales take when stored so. Units: B.
        float_bytes: What they took before. Units: B.
    """

    kind: Kind
    kernel: str
    layers: int
    weight_bytes: int
    float_bytes: int


def quantize_model(model: Any, kind: Kind) -> Quantized:
    """Replace the linear layers of the blocks; the model can only be evaluated afterwards.

    Args:
        model: A causal language model of transformers, trained.
        kind: `int8` or `int4`.

    Returns:
        What was done.

    Raises:
        InputError: If the model has no such layers.
    """
    layers = block_linears(model, "eval.quantize")
    real = kind == "int8" and has_int8_kernel(layers[0][1].weight.device)
    before = after = 0
    for _, layer in layers:
        before += layer.weight.nbytes
        codes, scales = round_rows(layer.weight.detach(), 8) if kind == "int8" else round_groups(layer.weight.detach())
        after += (codes.numel() if kind == "int8" else -(-codes.numel() // 2)) + 4 * scales.numel()
        layer.weight.requires_grad_(False).copy_(restore(codes, scales))
        layer.__dict__.pop("forward", None)  # fp8 products were for training
        if real:
            layer.forward = _int8_forward(layer, codes.t().contiguous(), scales.flatten())
    for _, block in model_blocks(model):
        block._compiled_call_impl = None  # what was compiled had the old layers; compiling again is not worth it
    kernel = (
        "int8 product with int32 sums (torch._int_mm)" if real else "simulated: rounded weights, products of floats"
    )
    return Quantized(kind, kernel, len(layers), after, before)


def has_int8_kernel(device: torch.device) -> bool:
    """Try the int8 product on a device.

    Args:
        device: Where.

    Returns:
        Whether torch has it there.
    """
    import torch

    try:
        ones = torch.ones((32, 32), dtype=torch.int8, device=device)
        return bool((torch._int_mm(ones, ones) == 32).all())
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def round_rows(values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round symmetrically with one scale per row: code = round(value / scale), scale = max |row| / (2^(bits-1) - 1).

    Args:
        values: Shape (rows, columns), floats.
        bits: 8 or 4.

    Returns:
        Codes (int8, same shape) and scales (fp32, shape (rows, 1)); |value - code · scale| <= scale / 2.
    """
    import torch

    top = 2 ** (bits - 1) - 1
    scales = (values.abs().amax(dim=1, keepdim=True).float() / top).clamp_min(_TINY)
    return (values / scales).round().clamp(-top, top).to(torch.int8), scales


def round_groups(values: torch.Tensor, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to 4 bits with one scale per group of inputs.

    Args:
        values: Shape (outputs, inputs), floats.
        group: Inputs that share a scale; the last group of a row may be shorter.

    Returns:
        Codes (int8, same shape) and scales (fp32, shape (outputs, groups)).
    """
    import torch

    pieces = [round_rows(piece, 4) for piece in values.split(group, dim=1)]
    return torch.cat([codes for codes, _ in pieces], dim=1), torch.cat([scales for _, scales in pieces], dim=1)


def restore(codes: torch.Tensor, scales: torch.Tensor, group: int = GROUP) -> torch.Tensor:
    """Turn codes back into floats.

    Args:
        codes: Shape (rows, columns).
        scales: One column for the whole row, or one per group.
        group: Columns of a group.

    Returns:
        fp32 values, shape (rows, columns).
    """
    if scales.shape[1] == 1:
        return codes.float() * scales
    return codes.float() * scales.repeat_interleave(group, dim=1)[:, : codes.shape[1]]


def int8_product(inputs: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Multiply floats with int8 weights, the inputs rounded row by row.

    Args:
        inputs: Shape (rows, inputs), floats.
        codes: int8 weights, transposed: shape (inputs, outputs).
        scales: Of the weights, fp32, shape (outputs,).

    Returns:
        fp32, shape (rows, outputs).
    """
    import torch

    rounded, row_scales = round_rows(inputs, 8)
    return torch._int_mm(rounded, codes).float().mul_(row_scales).mul_(scales)


def _int8_forward(
    layer: nn.Linear, codes: torch.Tensor, scales: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.nn.functional import linear

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.flatten(0, -2)
        if not _kernel_takes(flat, codes):
            return linear(inputs, layer.weight, layer.bias)
        found = int8_product(flat, codes, scales)
        found = found if layer.bias is None else found + layer.bias
        return found.to(inputs.dtype).view(*inputs.shape[:-1], -1)

    return forward


def _kernel_takes(flat: torch.Tensor, codes: torch.Tensor) -> bool:
    if flat.device.type != "cuda":
        return True
    return flat.shape[0] > 16 and codes.shape[0] % 8 == 0 and codes.shape[1] % 8 == 0
