"""Causal language models of transformers: random weights from a config, or pretrained safetensors.

Attention runs under a name of our own. transformers builds a (T, T) mask for the names it knows whenever it traces a
model without a cache, and a mask turns flash attention and grouped-query attention off. For a name it does not know it
builds none, and its SDPA call then says `is_causal`. That is right only where every layer attends to the whole past and
no row is padded; other models keep transformers' own SDPA.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.training.weights import load_onto

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from rayscale.spec import ModelSpec, SweepSpec

CAUSAL_ATTENTION = "rayscale_causal"

# Fields that appear in published config.json files without being settings of the config classes.
_TOLERATED = {"architectures", "torch_dtype", "dtype", "transformers_version", "rope_theta", "rope_scaling"}

# Architectures whose attention is plainly causal, up to windows that the config tells (a test compares each with
# transformers' own eager attention). Others may hide a prefix, an index or a bias in their masks.
_PLAIN = (
    *("arcee", "gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
)


@dataclass(frozen=True)
class BuiltModel:
    """A model on its device.

    Attributes:
        module: The model, in training mode; fp32 weights, bf16 ones for `bf16-pure`.
        revision: Commit of pretrained weights from the hub; None otherwise.
        attention: Attention implementation it runs with.
        attention_note: Why that is not our mask-free one; None where it is.
    """

    module: PreTrainedModel
    revision: str | None
    attention: str
    attention_note: str | None = None


def build_model(spec: SweepSpec, vocab_size: int, seed: int, device: str) -> BuiltModel:
    """Build the sweep's model on its device.

    Args:
        spec: The resolved sweep.
        vocab_size: Vocabulary of the data.
        seed: Seed of random weights.
        device: `cpu` or `cuda`.

    Returns:
        The model.

    Raises:
        InputError: If the config or the weights are not what the sweep file says, or do not fit the data.
        EnvironmentUnusableError: If weights cannot be fetched.
    """
    built = _pretrained(spec, vocab_size, device) if spec.model.pretrained else _random(spec, vocab_size, seed, device)
    if spec.train.checkpointing:
        if not built.module.supports_gradient_checkpointing:
            raise InputError(f"train.checkpointing: `{built.module.config.model_type}` has none; expected false")
        built.module.gradient_checkpointing_enable({"use_reentrant": False})
    return built


def _random(spec: SweepSpec, vocab_size: int, seed: int, device: str) -> BuiltModel:
    import torch
    from transformers import AutoModelForCausalLM

    config = random_config(spec, vocab_size)
    attention = choose_attention(config, spec.data.sequence_length)
    torch.manual_seed(seed)
    with torch.device(device):  # built where it will run: 1.1B parameters take 23 s on a CPU
        module = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=_weight_type(spec))
    return BuiltModel(module.to(device).train(), None, attention, mask_obstacle(config, spec.data.sequence_length))


def _weight_type(spec: SweepSpec) -> torch.dtype:
    import torch

    return torch.bfloat16 if spec.train.precision == "bf16-pure" else torch.float32


def random_config(spec: SweepSpec, vocab_size: int) -> Any:
    """Make the transformers config of `model.config`.

    Args:
        spec: The resolved sweep.
        vocab_size: Vocabulary of the data; used if the config states none.

    Returns:
        The config, without cache, long enough for the sequence length.

    Raises:
        InputError: If a field is unknown or wrong, the vocabulary is too small or the context too short.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    fields = {"vocab_size": vocab_size, **(spec.model.fields or {})}
    kind = str(fields.pop("model_type", "llama"))
    try:
        default = AutoConfig.for_model(kind)
        _check_names(fields, default, kind)
        config = AutoConfig.for_model(kind, **fields)
    except InputError:
        raise
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(f"model.config: {' '.join(str(error).split())}") from None
    length = spec.data.sequence_length
    if "max_position_embeddings" not in fields and _positions(config) < length:
        config.max_position_embeddings = length
    config.use_cache = False
    _check_fit(config, vocab_size, length, "model.config")
    return config


def choose_attention(config: Any, sequence_length: int) -> str:
    """Choose the attention implementation for unpadded rows.

    Args:
        config: The transformers config.
        sequence_length: T.

    Returns:
        Our mask-free causal attention if the model takes attention by name and all its layers attend to the whole
        past within T; else transformers' `sdpa`, or `eager` for a model without it.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask_obstacle(config, sequence_length) is None:
        AttentionInterface.register(CAUSAL_ATTENTION, sdpa_attention_forward)
        return CAUSAL_ATTENTION
    return "sdpa" if _model_class(config)._supports_sdpa else "eager"


def mask_obstacle(config: Any, sequence_length: int) -> str | None:
    """Tell why a model must keep its own masks.

    Args:
        config: The transformers config.
        sequence_length: T.

    Returns:
        The reason in words; None if all its layers attend to the whole past within T and take attention by name.

    Raises:
        InputError: If it is no causal language model.
    """
    model_class = _model_class(config)
    if config.model_type not in _PLAIN:
        return f"the masks of `{config.model_type}` are not known to be plainly causal"
    if not (getattr(model_class, "_supports_attention_backend", False) and model_class._supports_sdpa):
        return f"`{config.model_type}` does not take attention by name"
    layers = getattr(config, "layer_types", None)
    other = sorted({kind for kind in layers or [] if kind != "full_attention"})
    if other:
        return f"not every layer attends to the whole past: {', '.join(other)}"
    window = getattr(config, "sliding_window", None) if layers is None else None
    if window is not None and window < sequence_length:
        return f"sliding_window {window} is shorter than the rows ({sequence_length})"
    return None


def _model_class(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise InputError(f"model: `{config.model_type}` is no causal language model of transformers")
    return model_class


def _pretrained(spec: SweepSpec, vocab_size: int, device: str) -> BuiltModel:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    model = spec.model
    weights = _weight_type(spec)
    name, options = str(model.pretrained), {"revision": model.revision, "trust_remote_code": False}
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, **options)
        revision = getattr(config, "_commit_hash", None)
        check_shape(model, config)
        _check_fit(config, vocab_size, spec.data.sequence_length, f"model.pretrained: {name}")
        config.use_cache = False
        attention = choose_attention(config, spec.data.sequence_length)
        # The weights come from the commit whose config was read, even if the branch moves in between.
        commit = options["revision"] = revision or model.revision
        module = load_onto(name, config, commit, attention, weights, device) if device != "cpu" else None
        module = module or AutoModelForCausalLM.from_pretrained(
            name, config=config, use_safetensors=True, dtype=weights, attn_implementation=attention, **options
        )
    except ConnectionError as error:
        raise EnvironmentUnusableError(f"model.pretrained: {name}: the hub is out of reach: {error}") from None
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"model.pretrained: {name}: cannot be loaded: {first}") from None
    note = mask_obstacle(config, spec.data.sequence_length)
    return BuiltModel(module.to(device).train(), revision, attention, note)


def check_shape(model: ModelSpec, config: Any) -> None:
    """Compare the shape that a sweep file states with the one that was loaded.

    Args:
        model: The model's settings; `config` holds the stated fields.
        config: The loaded transformers config.

    Raises:
        InputError: With one line per field that differs.
    """
    problems = []
    for field, stated in (model.fields or {}).items():
        loaded = getattr(config, field, None)
        if loaded != stated:
            problems.append(
                f"model.config.{field}: {model.pretrained} has {loaded!r}, the sweep file states {stated!r}"
            )
    if problems:
        raise InputError(problems)


def _check_names(fields: dict[str, Any], default: Any, kind: str) -> None:
    """Refuse unknown fields: transformers would keep a misspelt one and build the default shape."""
    known = set(default.to_dict()) | set(default.attribute_map) | _TOLERATED
    problems = []
    for field in sorted(set(fields) - known):
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"expected a field of the `{kind}` config"
        problems.append(f"model.config.{field}: unknown key; {hint}")
    if problems:
        raise InputError(problems)


def _check_fit(config: Any, vocab_size: int, length: int, where: str) -> None:
    problems = []
    if config.vocab_size < vocab_size:
        problems.append(
            f"{where}: vocab_size {config.vocab_size}, but the data has {vocab_size} tokens; expected >= that"
        )
    if _positions(config) < length:
        expected = f"expected >= data.sequence_length {length}"
        problems.append(f"{where}: max_position_embeddings {_positions(config)}; {expected}")
    if problems:
        raise InputError(problems)


def _positions(config: Any) -> float:
    return getattr(config, "max_position_embeddings", None) or float("inf")
