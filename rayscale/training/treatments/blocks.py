"""The linear layers inside a model's transformer blocks: what treatments act on; embedding and head stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayscale.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "lora_"
"""How the modules of peft's adapters are named."""


def model_blocks(model: Any) -> list[tuple[str, nn.Module]]:
    """Find the transformer blocks of a model by their number.

    Args:
        model: A causal language model of transformers.

    Returns:
        (dotted name, block), in order; empty if it has none that can be told by the depth.
    """
    depth = model.config.num_hidden_layers
    for name, child in model.named_modules():
        if type(child).__name__ == "ModuleList" and len(child) == depth:
            return [(f"{name}.{index}", block) for index, block in enumerate(child)]
    return []


def block_linears(model: Any, setting: str) -> list[tuple[str, nn.Linear]]:
    """List the linear layers of all blocks, those of adapters aside.

    Args:
        model: A causal language model of transformers.
        setting: Who asks, for the message.

    Returns:
        (dotted name, layer), in the model's order.

    Raises:
        InputError: If there are none.
    """
    from torch import nn

    found = [
        (f"{prefix}.{name}", module)
        for prefix, block in model_blocks(model)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and ADAPTER not in name
    ]
    if not found:
        raise InputError(
            f"{setting}: `{model.config.model_type}` has no linear layers in blocks; expected a model with"
        )
    return found
