"""A model's body, from token ids to the last hidden state, without what training on whole rows does not need.

The forward pass of transformers asks again and again about caches, masks, positions and outputs to collect, and
computes the rotary angles each time; with small models that is a twentieth of a step. Rows are never padded here and
positions are always 0 to T-1, so for architectures that are embedding, blocks and norm, those are called directly. The
caller compares the outcome with the model's own, bit by bit, before it uses one (`loss.split_model`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayscale.training.model import CAUSAL_ATTENTION

if TYPE_CHECKING:
    import torch

Body = Callable[["torch.Tensor"], "torch.Tensor"]
"""Token ids of shape (rows, T) -> last hidden states of shape (rows, T, width)."""

_FIXED = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on nothing but the position."""

BLOCKS_ONLY = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures with nothing (dropout, scaling) between embedding, blocks and norm."""


def model_body(model: Any) -> Body:
    """Take the body as transformers runs it.

    Args:
        model: A causal language model of transformers.

    Returns:
        The body.
    """
    inner = model.base_model
    return lambda inputs: inner(input_ids=inputs, use_cache=False).last_hidden_state


def direct_body(model: Any) -> Body | None:
    """Take the body as embedding, blocks and norm.

    Args:
        model: A causal language model of transformers.

    Returns:
        The body; None for an architecture that may do more, or one that needs masks.
    """
    import torch

    config, inner = model.config, model.base_model
    if config.model_type not in BLOCKS_ONLY or config._attn_implementation != CAUSAL_ATTENTION:
        return None

    def run(inputs: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
        hidden = inner.embed_tokens(inputs)
        angles = inner.rotary_emb(hidden, position_ids=positions)
        for block in inner.layers:
            hidden = block(hidden, attention_mask=None, position_ids=positions, position_embeddings=angles)
        return inner.norm(hidden)

    return run


def keep_angles(model: Any) -> bool:
    """Let a model's rotary embedding remember what it gave, by length, type and device. The values are the same.

    Args:
        model: A model of transformers that is only called with whole rows and without positions of its own.

    Returns:
        Whether the model has such an embedding; others stay as they are.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or getattr(rotary, "rope_type", None) not in _FIXED:
        return False
    compute, kept = rotary.forward, {}

    def forward(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = (position_ids.shape, x.dtype, x.device)
        if key not in kept:
            kept[key] = compute(x, position_ids)
        return kept[key]

    rotary.forward = forward
    return True
