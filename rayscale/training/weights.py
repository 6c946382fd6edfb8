"""Pretrained weights straight onto the device, tensor by tensor.

transformers reads a checkpoint into host memory and moves the model afterwards (its own way onto a device needs
`accelerate`): for 1.1 B parameters 4.4 GB more of host memory and a second pass over them. Here the model is built on
the device, and each tensor of the safetensors files is read there and copied into its place, cast on the way. Only
where names and shapes of the files are exactly the model's; other checkpoints take transformers' way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def load_onto(
    name: str, config: Any, revision: str | None, attention: str, dtype: torch.dtype, device: str
) -> PreTrainedModel | None:
    """Build a pretrained model on its device.

    Args:
        name: Hub name or local directory.
        config: Its transformers config.
        revision: Commit; None for a local directory.
        attention: Attention implementation.
        dtype: Type of the weights.
        device: `cpu` or `cuda`.

    Returns:
        The model; None where the checkpoint is not plainly the model's state (other names or shapes, quantised).

    Raises:
        OSError: If the checkpoint cannot be read or fetched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    files = _checkpoint(name, revision)
    if not files or getattr(config, "quantization_config", None) is not None:
        return None
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    if not _fits(shapes, files):
        return None
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    _fill(module, files, device)
    return module


def _checkpoint(name: str, revision: str | None) -> list[Path]:
    """Locate the safetensors files; empty where there are none under the usual names."""
    single = _cached(name, _SINGLE, revision)
    if single is not None:
        return [single]
    index = _cached(name, _INDEX, revision)
    if index is None:
        return []
    named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found = [_cached(name, part, revision) for part in named]
    return [path for path in found if path is not None] if None not in found else []


def _cached(name: str, filename: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    path = cached_file(name, filename, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def _fits(module: PreTrainedModel, files: list[Path]) -> bool:
    """Whether the files hold the module's state, no more and no less but for tied weights."""
    from safetensors import safe_open

    expected = {key: list(value.shape) for key, value in module.state_dict().items()}
    given: dict[str, list[int]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            given |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (no mapping)
    absent = set(expected) - set(given)
    tied = set(getattr(module, "all_tied_weights_keys", None) or {}) if module.config.tie_word_embeddings else set()
    return absent <= tied and all(expected.get(key) == shape for key, shape in given.items())


def _fill(module: PreTrainedModel, files: list[Path], device: str) -> None:
    import torch
    from safetensors import safe_open

    state = module.state_dict()
    with torch.no_grad():
        for path in files:
            with safe_open(path, framework="pt", device=device) as file:
                for key in file.keys():  # noqa: SIM118
                    state[key].copy_(file.get_tensor(key))
