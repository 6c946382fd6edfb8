"""LoRA: weights stay frozen, each linear layer W of the blocks trains a product B·A of rank r beside it.

y = W·x + (alpha / r) · B·A·x, B = 0 at the start (Hu et al., arXiv 2106.09685). peft puts the adapters into the model
that is there, so everything else (attention, split head, compilation) works on it as on any model.

FLOPs per token with N frozen weights in matrix products and M adapter weights: forward 2·(N + M), gradients of the
activations 2·(N + M), gradients of the weights 2·M; attention as ever. The first block's query, key and value layers
need no gradient of their input, which the sum leaves in (below 1 % from a dozen blocks on).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.training.flops import ModelShape, block_fields
from rayscale.training.treatments.blocks import ADAPTER, block_linears

FORMULA = "4·N_matmul + 6·N_adapter + 12·L·H·Q·T per token (LoRA: frozen weights get no gradient)"


@dataclass(frozen=True)
class Adapter:
    """What LoRA added.

    Attributes:
        rank: r.
        alpha: Scale of the product is alpha / r.
        params: Adapter weights; only they train.
    """

    rank: int
    alpha: float
    params: int


def require_peft() -> None:
    """Tell whether LoRA can be used here, before anything starts.

    Raises:
        EnvironmentUnusableError: If peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise EnvironmentUnusableError("train.lora_rank: needs peft; install it with: pip install 'rayscale[lora]'")


def add_lora(model: Any, rank: int, alpha: float | None, seed: int) -> Adapter:
    """Freeze a model and put adapters beside the linear layers of its blocks.

    Args:
        model: A causal language model of transformers, on its device; changed in place.
        rank: r.
        alpha: Numerator of the scale; None: twice the rank.
        seed: Seed of the random A matrices.

    Returns:
        What was added.

    Raises:
        EnvironmentUnusableError: If peft is not installed.
        InputError: If the model has no linear layers that take adapters.
    """
    require_peft()
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    targets = [name for name, _ in block_linears(model, "train.lora_rank")]
    alpha = 2.0 * rank if alpha is None else alpha
    torch.manual_seed(seed)
    scale: Any = alpha  # peft says int and takes any number
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules=targets, lora_dropout=0.0, bias="none")
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InputError(f"train.lora_rank: {' '.join(str(error).split())}") from None
    added = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ADAPTER in name)
        added += parameter.numel() if ADAPTER in name else 0
    return Adapter(rank, alpha, added)


def planned_adapter_params(config: Mapping[str, Any], rank: int) -> int:
    """Count the adapter weights of a Llama-like model from its config: r·(inputs + outputs) of every linear layer.

    Args:
        config: Fields of the transformers config.
        rank: r.

    Returns:
        The number.

    Raises:
        InputError: If the model type cannot be counted offline.
    """
    fields = block_fields(config)
    hidden, inner, heads = fields["hidden_size"], fields["intermediate_size"], fields["num_attention_heads"]
    head_dim = fields["head_dim"] or hidden // heads
    query, key_value = heads * head_dim, (fields["num_key_value_heads"] or heads) * head_dim
    widths = 2 * (hidden + query) + 2 * (hidden + key_value) + 3 * (hidden + inner)
    return int(rank * widths * fields["num_hidden_layers"])


def lora_flops(shape: ModelShape, adapter_params: int, tokens: int, sequence_length: int) -> float:
    """Count the FLOPs of training adapters.

    Units: FLOP.

    Args:
        shape: The frozen model.
        adapter_params: Adapter weights.
        tokens: Trained tokens.
        sequence_length: T.

    Returns:
        (4·N_matmul + 6·N_adapter + 12·L·H·Q·T) · tokens.
    """
    attention = 12 * shape.layers * shape.heads * shape.head_dim * sequence_length
    return float((4 * shape.matmul_params + 6 * adapter_params + attention) * tokens)
