"""Counts of parameters and training FLOPs, from a config alone (for planning offline) or from a built model.

FLOPs per trained token = 6·N_matmul + 12·L·H·Q·T: every weight of a matrix product costs 2 FLOPs forward and 4
backward; attention's two products QKᵀ and AV cost 2·H·Q·T each forward (T: sequence length, no causal discount), three
times that with backward. Source: PaLM (arXiv 2204.02311, appendix B); equal to torch's FlopCounterMode on eager
attention. Left out: norms, activations, softmax, the optimiser (element-wise, well below 1 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from rayscale.spec import SweepSpec

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
# Defaults of the config classes of transformers 5; a test compares them with the installed ones.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8},
    "qwen2": {**_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32},
    "qwen3": {
        **_LLAMA,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
}


@dataclass(frozen=True)
class ModelShape:
    """What the FLOP formula needs to know of a model.

    Attributes:
        params: All parameters, shared ones once.
        matmul_params: Weights that take part in matrix products: no embedding table unless it is also the head.
        layers: Attention layers (L).
        heads: Query heads per layer (H).
        head_dim: Width of a head (Q).
        vocab_size: Rows of the embedding table.
    """

    params: int
    matmul_params: int
    layers: int
    heads: int
    head_dim: int
    vocab_size: int


def training_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Count the FLOPs of training on a budget.

    Units: FLOP.

    Args:
        shape: The model.
        tokens: Trained tokens.
        sequence_length: T.

    Returns:
        (6·N_matmul + 12·L·H·Q·T) · tokens.
    """
    attention = 12 * shape.layers * shape.heads * shape.head_dim * sequence_length
    return float((6 * shape.matmul_params + attention) * tokens)


def evaluation_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Count the FLOPs of a forward pass: a third of training.

    Units: FLOP.

    Args:
        shape: The model.
        tokens: Evaluated tokens.
        sequence_length: T.

    Returns:
        The number of FLOPs.
    """
    return training_flops(shape, tokens, sequence_length) / 3


def flops_6nd(shape: ModelShape, tokens: int) -> float:
    """Count training FLOPs by the rule of thumb 6·N·D (Kaplan et al., arXiv 2001.08361), all parameters included.

    Units: FLOP.

    Args:
        shape: The model.
        tokens: Trained tokens.

    Returns:
        6 · params · tokens.
    """
    return float(6 * shape.params * tokens)


def planned_vocab_size(spec: SweepSpec) -> int | None:
    """Tell the vocabulary size that training will find, as far as the sweep file says it.

    Args:
        spec: The resolved sweep.

    Returns:
        The size; None if only loading the tokenizer tells it.
    """
    config, data = spec.model.fields or {}, spec.data
    if "vocab_size" in config:
        return int(config["vocab_size"])
    if data.synthetic is not None:
        return data.synthetic.vocab_size
    if data.tokenizer == "bytes":
        return 257
    return getattr(data.tokenizer, "bpe", None)


def shape_from_config(config: Mapping[str, Any], vocab_size: int) -> ModelShape:
    """Count a Llama-like model from its config, without torch or transformers.

    Args:
        config: Fields of the transformers config; missing ones take that library's defaults.
        vocab_size: Vocabulary of the data; used if the config states none.

    Returns:
        The shape.

    Raises:
        InputError: If the model type cannot be counted offline.
    """
    return _count({**block_fields(config), "vocab_size": config.get("vocab_size", vocab_size)})


def block_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of a Llama-like config.

    Args:
        config: Fields of the transformers config.

    Returns:
        All fields that counting needs.

    Raises:
        InputError: If the model type cannot be counted offline.
    """
    kind = str(config.get("model_type", "llama"))
    if kind not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise InputError(f"model.config.model_type: `{kind}` cannot be counted without building it; known: {known}")
    return {"model_type": kind, **_DEFAULTS[kind], **config}


def _count(fields: Mapping[str, Any]) -> ModelShape:
    kind = fields["model_type"]
    hidden, inner, vocab = fields["hidden_size"], fields["intermediate_size"], fields["vocab_size"]
    heads, layers = fields["num_attention_heads"], fields["num_hidden_layers"]
    head_dim = fields["head_dim"] or hidden // heads
    query, key_value = heads * head_dim, (fields["num_key_value_heads"] or heads) * head_dim
    attention = 2 * hidden * query + 2 * hidden * key_value
    vectors = 2 * hidden
    if kind == "qwen2":
        vectors += query + 2 * key_value
    elif kind != "mistral" and fields["attention_bias"]:
        vectors += query + 2 * key_value + hidden
    if kind == "qwen3":
        vectors += 2 * head_dim
    if kind == "llama" and fields["mlp_bias"]:
        vectors += 2 * inner + hidden
    matmul = layers * (attention + 3 * hidden * inner) + vocab * hidden
    table = 0 if fields["tie_word_embeddings"] else vocab * hidden
    return ModelShape(matmul + table + layers * vectors + hidden, matmul, layers, heads, head_dim, vocab)


def shape_from_model(model: nn.Module) -> ModelShape:
    """Count a built model structurally: the weights of its linear layers, whatever its architecture.

    A tied head is a linear layer too, so its table counts as matrix product, as it should.

    Args:
        model: A causal language model of transformers.

    Returns:
        The shape.
    """
    linear = {"Linear", "Conv1D"}  # transformers' Conv1D (GPT-2) is a linear layer with a transposed weight
    matmul = sum(module.weight.numel() for module in model.modules() if type(module).__name__ in linear)
    config: Any = model.config
    heads = config.num_attention_heads
    return ModelShape(
        params=sum(parameter.numel() for parameter in model.parameters()),
        matmul_params=matmul,
        layers=config.num_hidden_layers,
        heads=heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
    )
