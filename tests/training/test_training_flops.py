from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_helpers import TINY_LLAMA
from transformers import AutoConfig, AutoModelForCausalLM

from rayscale.errors import InputError
from rayscale.specfile import load_spec
from rayscale.training import flops
from rayscale.training.flops import (
    evaluation_flops,
    flops_6nd,
    planned_vocab_size,
    shape_from_config,
    shape_from_model,
    training_flops,
)
from rayscale.training.peaks import Peak, known_peak, peak_tflops

SWEEPS = Path(__file__).parents[2] / "sweeps"


def build(config: dict[str, Any]) -> torch.nn.Module:
    kind = config.get("model_type", "llama")
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), attn_implementation="eager")


def test_tinyllama_counts_are_the_published_ones() -> None:
    spec = load_spec(SWEEPS / "tinyllama.yaml")
    shape = shape_from_config(spec.model.config or {}, 32000)
    assert shape.params == 1_100_048_384
    assert shape.matmul_params == 1_034_420_224
    assert training_flops(shape, 1, 2048) == pytest.approx(7.314e9, rel=1e-4)
    assert flops_6nd(shape, 10) == 6 * 1_100_048_384 * 10
    assert evaluation_flops(shape, 3, 2048) == training_flops(shape, 1, 2048)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16},
        {"model_type": "mistral"},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 8},
    ],
    ids=str,
)
def test_offline_counts_equal_those_of_the_built_model(changes: dict[str, Any]) -> None:
    config = {**TINY_LLAMA, "vocab_size": 64, **changes}
    assert shape_from_config(config, 999) == shape_from_model(build(config))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_defaults_are_those_of_transformers(kind: str) -> None:
    theirs = AutoConfig.for_model(kind)
    for field, value in flops._DEFAULTS[kind].items():
        if value is not None and hasattr(theirs, field):
            assert getattr(theirs, field) == value, field


def test_formula_equals_torch_counter_on_eager_attention() -> None:
    config = {**TINY_LLAMA, "vocab_size": 64}
    model, rows, length = build(config), 3, 24
    tokens = torch.randint(0, 64, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    expected = training_flops(shape_from_config(config, 64), rows * length, length)
    # The counter also sees the tiny product that makes rotary angles (no backward), which is no model FLOP.
    rotary = 2 * (8 // 2) * length
    assert counter.get_total_flops() == pytest.approx(expected, abs=rotary * rows)


def test_gpt2_is_counted_from_the_built_model() -> None:
    model = build({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 64})
    shape = shape_from_model(model)
    assert shape.matmul_params == 2 * 12 * 32 * 32 + 64 * 32
    assert (shape.layers, shape.heads, shape.head_dim) == (2, 4, 8)


def test_an_unknown_model_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"`mamba` cannot be counted.*llama"):
        shape_from_config({"model_type": "mamba"}, 64)


def test_planned_vocabulary_comes_from_the_sweep_file() -> None:
    assert planned_vocab_size(load_spec(SWEEPS / "tinyllama.yaml")) == 32000
    assert planned_vocab_size(load_spec(SWEEPS / "quickstart.yaml")) == 1024


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989.0),
        ("NVIDIA H200 NVL", "bf16", 836.0),
        ("NVIDIA GH200 480GB", "bf16", 989.0),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA A10G", "bf16", 70.0),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 4090", "fp8", None),
        ("Some CPU", "bf16", None),
        ("NVIDIA Tesla P100", "bf16", None),
    ],
)
def test_peaks(name: str, precision: str, peak: float | None) -> None:
    assert peak_tflops(name, precision) == peak


def test_a_stated_peak_goes_before_the_table() -> None:
    assert known_peak("NVIDIA H200", "bf16-pure", None) == Peak(989.0, "data sheet of NVIDIA H200: dense bf16")
    assert known_peak("NVIDIA H200", "bf16", 700.0) == Peak(700.0, "train.peak_tflops")
    assert known_peak(None, "fp32", 0.1) == Peak(0.1, "train.peak_tflops")
    assert known_peak("Unknown 9000", "bf16", None) is None
    assert known_peak(None, "fp32", None) is None


def test_counting_imports_no_torch() -> None:
    code = "import sys, rayscale.training.flops, rayscale.training.memory, rayscale.training.peaks"
    code += "; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
