"""Pretrained weights read straight to the device equal those that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_helpers import TINY_LLAMA
from transformers import AutoConfig, AutoModelForCausalLM

from rayscale.training.weights import load_onto


def saved(path: Path, shard: str = "1GB", **fields: Any) -> Any:
    config = AutoConfig.for_model(**{**TINY_LLAMA, **fields, "vocab_size": 64})
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(path, max_shard_size=shard)
    return AutoConfig.from_pretrained(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shard", "tied"), [("1GB", False), ("1GB", True), ("20KB", False)])
def test_the_model_is_the_one_that_transformers_loads(
    tmp_path: Path, dtype: torch.dtype, shard: str, tied: bool
) -> None:
    config = saved(tmp_path, shard, tie_word_embeddings=tied)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) is (shard != "1GB")
    ours = load_onto(str(tmp_path), config, None, "sdpa", dtype, "cpu")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="sdpa")
    assert ours is not None
    expected = {**theirs.state_dict(), **dict(theirs.named_buffers())}
    found = {**ours.state_dict(), **dict(ours.named_buffers())}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) is tied
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(ours.eval()(tokens).logits, theirs.eval()(tokens).logits)


def test_other_checkpoints_are_left_to_transformers(tmp_path: Path) -> None:
    config = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    for change in (
        {"model.norm.weight": torch.ones(33)},  # another shape
        {"model.norm.extra": torch.ones(3)},  # a name that the model does not have
    ):
        save_file({**state, **change}, file)
        assert load_onto(str(tmp_path), config, None, "sdpa", torch.float32, "cpu") is None
    save_file({key: value for key, value in state.items() if key != "model.norm.weight"}, file)
    assert load_onto(str(tmp_path), config, None, "sdpa", torch.float32, "cpu") is None
    save_file(state, file)
    assert load_onto(str(tmp_path), config, None, "sdpa", torch.float32, "cpu") is not None
    config.quantization_config = {"quant_method": "fp8"}
    assert load_onto(str(tmp_path), config, None, "sdpa", torch.float32, "cpu") is None
    file.unlink()
    assert load_onto(str(tmp_path), config, None, "sdpa", torch.float32, "cpu") is None
