"""Attention's projections and gated MLPs with backward passes written down, for eager training in fp32 on a CPU.

As in `norms`: transformers writes a block as many small operations, and autograd answers each with a pass over the
activations and a tensor of its own. Here the three projections are one product and the rotation happens in its result;

    [q k v] = x·[Wq Wk Wv]ᵀ     (a, b) -> (a·cos - b·sin, b·cos + a·sin) on the halves of every head of q and k

and an MLP's backward pass reuses the gradients it has made. With s = silu(x·Wgᵀ), u = x·Wuᵀ, y = (s·u)·Wdᵀ, g = dL/dy:

    dL/d(s·u) = g·Wd     dL/du = dL/d(s·u)·s     dL/dx = silu'(dL/d(s·u)·u)·Wg + dL/du·Wu

Forward, every number comes from the same operations in the same order as in transformers, so the bits are the same
(tried out on each module before it is replaced); the gradients differ in the last digits. Kept for the backward pass
is what autograd keeps, byte for byte (`memory`). A module whose layers are or become more than linear layers without
bias (adapters, quantised weights) goes its old way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rayscale.training.body import BLOCKS_ONLY
from rayscale.training.model import CAUSAL_ATTENTION

if TYPE_CHECKING:
    import torch
    from torch import nn

_SAMPLE_ROWS, _SAMPLE_LENGTH = 2, 7


def lean_blocks(model: Any) -> int:
    """Give the attentions and MLPs of a model's blocks the passes above.

    Args:
        model: A model of transformers in fp32, on a CPU, that is not compiled.

    Returns:
        Number of modules that were replaced; those that compute something else stay as they are.
    """
    if model.config.model_type not in BLOCKS_ONLY or model.config._attn_implementation != CAUSAL_ATTENTION:
        return 0
    rotary, found = model.base_model.rotary_emb, 0
    for block in model.base_model.layers:
        found += _replaced(block.self_attn, _lean_attention(block.self_attn), rotary)
        found += _replaced(block.mlp, _lean_mlp(block.mlp), None)
    return found


def is_plain(layer: Any) -> bool:
    """Tell whether a layer is y = x·Wᵀ in fp32 and nothing else.

    Args:
        layer: Any module.

    Returns:
        True for a linear layer of torch without bias, hooks or a forward pass of its own.
    """
    import torch

    if type(layer) is not torch.nn.Linear or layer.bias is not None or layer.weight.dtype != torch.float32:
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(layer)


def _replaced(module: nn.Module, forward: Callable[..., Any] | None, rotary: Any) -> bool:
    """Replace a module's forward pass if on a sample both give the same bits."""
    import torch

    if forward is None:
        return False
    with torch.no_grad():
        weight = next(module.parameters())
        sample = torch.linspace(-3, 3, _SAMPLE_ROWS * _SAMPLE_LENGTH * weight.shape[1], device=weight.device).sin()
        sample = sample.view(_SAMPLE_ROWS, _SAMPLE_LENGTH, -1)
        options: dict[str, Any] = {}
        if rotary is not None:
            positions = torch.arange(_SAMPLE_LENGTH, device=weight.device)[None]
            options = {"position_embeddings": rotary(sample, position_ids=positions), "attention_mask": None}
        expected, got = module(sample, **options), forward(sample, **options)
    pairs = zip(expected, got, strict=True) if isinstance(expected, tuple) else [(expected, got)]
    if not all(torch.equal(old, new) for old, new in pairs if old is not None):
        return False
    module.forward = forward
    return True


def _lean_mlp(module: Any) -> Callable[..., Any] | None:
    names = ("gate_proj", "up_proj", "down_proj")
    layers: list[Any] = [getattr(module, name, None) for name in names]
    if not all(is_plain(layer) for layer in layers):
        return None
    apply, shipped = _mlp_function().apply, module.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if not all(is_plain(layer) for layer in layers):
            return shipped(hidden)
        return apply(hidden, *(layer.weight for layer in layers))

    return forward


def _lean_attention(module: Any) -> Callable[..., Any] | None:
    layers: list[Any] = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    if not all(is_plain(layer) for layer in layers) or getattr(module, "attention_dropout", None) != 0:
        return None
    import torch.nn.functional as F  # noqa: N812

    apply, shipped = _projection_function().apply, module.forward
    grouped = module.num_key_value_groups > 1

    def forward(
        hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **options: Any
    ) -> tuple[torch.Tensor, None]:
        if not all(is_plain(layer) for layer in layers):
            return shipped(hidden_states, position_embeddings=position_embeddings, **options)
        weights = (layer.weight for layer in layers)
        query, key, value = apply(hidden_states, *weights, *position_embeddings)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=module.scaling, enable_gqa=grouped
        )
        return module.o_proj(mixed.transpose(1, 2).flatten(2)), None

    return forward


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> None:
    """Rotate the halves of each head in place, forwards or back.

    Args:
        heads: Shape (rows, T, heads, Q).
        cos: Shape (1, T, Q); its halves are equal, and so are those of `sin`.
        sin: Shape (1, T, Q).
        sign: 1, or -1 for the inverse.
    """
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    sine = sin[:, :, None, :half]
    from_first, from_second = first * sine, second * sine
    heads.mul_(cos[:, :, None])
    first.sub_(from_second, alpha=sign)
    second.add_(from_first, alpha=sign)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _projection_function() -> Any:
    import torch

    class Projections(torch.autograd.Function):
        """Queries, keys and values of all heads, rotated."""

        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
            *weights, cos, sin = others
            ctx.save_for_backward(hidden, *others)
            ctx.heads = counts = [len(weight) // cos.shape[-1] for weight in weights]
            together = torch.nn.functional.linear(hidden, torch.cat(weights)).unflatten(-1, (-1, cos.shape[-1]))
            _turn(together[:, :, : counts[0] + counts[1]], cos, sin, 1)
            return tuple(part.transpose(1, 2) for part in together.split(counts, dim=2))

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            hidden, *weights, cos, sin = ctx.saved_tensors
            together = torch.cat([part.transpose(1, 2) for part in gradients], dim=2)
            _turn(together[:, :, : ctx.heads[0] + ctx.heads[1]], cos, sin, -1)
            rows = together.view(-1, sum(map(len, weights)))
            into = (rows @ torch.cat(weights)).view(hidden.shape) if ctx.needs_input_grad[0] else None
            if not any(ctx.needs_input_grad[1:4]):
                return into, None, None, None, None, None
            products = (rows.t() @ _rows(hidden)).split([len(weight) for weight in weights])
            return into, *_wanted(products, ctx.needs_input_grad[1:4]), None, None

    return Projections


def _wanted(gradients: Sequence[torch.Tensor], needed: Sequence[bool]) -> list[torch.Tensor | None]:
    return [gradient if need else None for gradient, need in zip(gradients, needed, strict=True)]


def _mlp_function() -> Any:
    import torch
    from torch.nn.functional import linear, silu

    class GatedMlp(torch.autograd.Function):
        """down(silu(gate(x)) · up(x))."""

        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
            gate, up = linear(hidden, weights[0]), linear(hidden, weights[1])
            opened = silu(gate)
            product = opened * up
            ctx.save_for_backward(hidden, *weights, gate, opened, up, product)
            return linear(product, weights[2])

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            hidden, *weights, gate, opened, up, product = (_rows(saved) for saved in ctx.saved_tensors)
            out, needs = _rows(gradients[0]), ctx.needs_input_grad
            last = out.t() @ product if needs[3] else None
            to_up = out @ weights[2]
            to_gate = to_up * up
            to_up.mul_(opened)
            torch.ops.aten.silu_backward.grad_input(to_gate, gate, grad_input=to_gate)
            into = (to_gate @ weights[0]).addmm_(to_up, weights[1]) if needs[0] else None
            first = to_gate.t() @ hidden if needs[1] else None
            second = to_up.t() @ hidden if needs[2] else None
            # the shape comes from the gradient: under checkpointing, saved tensors can be read only once
            return None if into is None else into.view(*gradients[0].shape[:-1], into.shape[-1]), first, second, last

    return GatedMlp
