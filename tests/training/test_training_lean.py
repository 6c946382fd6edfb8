"""Attention's projections and gated MLPs by hand: the bits of transformers forward, its gradients to rounding."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.training.lean import is_plain, lean_blocks
from rayscale.training.model import build_model
from rayscale.training.treatments.quantizing import quantize_model

LENGTH = 16


def model_of(**config: Any) -> Any:
    return build_model(tiny_spec(model={"config": {**TINY_LLAMA, **config}}), 64, 0, "cpu").module


def passed(model: Any, *, frozen: str = "") -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Return logits and the gradients of all weights."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(not frozen or frozen not in name)
    torch.manual_seed(1)
    logits = model(input_ids=torch.randint(0, 64, (3, LENGTH)), use_cache=False).logits
    logits.backward(torch.randn_like(logits))
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({}, 4),
        ({"num_key_value_heads": 4}, 4),
        ({"model_type": "mistral", "sliding_window": None}, 4),
        ({"hidden_act": "gelu"}, 2),  # the attentions alone
        ({"model_type": "qwen3", "head_dim": 8}, 2),  # norms inside the attention: the MLPs alone
        ({"attention_bias": True, "mlp_bias": True}, 0),
        ({"attention_dropout": 0.1}, 2),
    ],
)
def test_logits_are_bit_equal_and_gradients_agree(config: dict[str, Any], count: int) -> None:
    theirs, ours = model_of(**config).eval(), model_of(**config).eval()  # without dropout
    assert lean_blocks(ours) == count
    (expected, wanted), (logits, gradients) = passed(theirs), passed(ours)
    assert torch.equal(logits, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_other_architectures_stay_as_they_are() -> None:
    config = {"model_type": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = build_model(tiny_spec(model={"config": {**config, "intermediate_size": 64}}), 64, 0, "cpu").module
    assert lean_blocks(model) == 0


@pytest.mark.parametrize("frozen", ["q_proj", "k_proj", "self_attn", "gate_proj", "down_proj", "mlp", "embed_tokens"])
def test_frozen_weights_get_no_gradient_and_change_no_other(frozen: str) -> None:
    theirs, ours = model_of(), model_of()
    lean_blocks(ours)
    (_, wanted), (_, gradients) = passed(theirs, frozen=frozen), passed(ours, frozen=frozen)
    for name, gradient in gradients.items():
        if frozen in name:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)


def test_the_gradients_are_those_of_the_functions() -> None:
    """In float64 against finite differences: rotation, split and gate, whatever transformers does."""
    model = model_of()
    lean_blocks(model)
    block, double = model.base_model.layers[0], {"dtype": torch.float64, "requires_grad": True}
    mlp, project = (apply_of(module.forward) for module in (block.mlp, block.self_attn))
    x, gate, up, down = (torch.randn(*shape, **double) for shape in ((2, 3, 4), (5, 4), (5, 4), (4, 5)))
    assert torch.autograd.gradcheck(mlp, (x, gate, up, down))
    angles = torch.randn(1, 3, 1, dtype=torch.float64).expand(1, 3, 4)
    query, key, value = (torch.randn(rows, 4, **double) for rows in (8, 4, 4))
    assert torch.autograd.gradcheck(lambda *args: project(*args, angles.cos(), angles.sin()), (x, query, key, value))


def apply_of(forward: Any) -> Any:
    return inspect.getclosurevars(forward).nonlocals["apply"]


def kept_bytes(module: Any, call: Any) -> int:
    """Count what autograd keeps, the module's weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    assert result is not None
    return sum(kept.values())


def test_no_more_is_kept_for_the_backward_pass() -> None:
    """The memory planner counts what transformers' blocks keep."""
    theirs, model = model_of().base_model.layers[0], model_of()
    lean_blocks(model)
    ours, rotary = model.base_model.layers[0], model.base_model.rotary_emb
    x = torch.randn(2, LENGTH, 32, requires_grad=True)
    angles = rotary(x, position_ids=torch.arange(LENGTH)[None])
    for name, options in (("mlp", {}), ("self_attn", {"position_embeddings": angles, "attention_mask": None})):
        old, new = (getattr(block, name) for block in (theirs, ours))
        assert kept_bytes(new, lambda m=new, o=options: m(x, **o)) <= kept_bytes(
            old, lambda m=old, o=options: m(x, **o)
        )


def test_layers_that_become_more_than_linear_are_not_gone_around() -> None:
    """eval.quantize gives linear layers products of their own after training."""
    theirs, ours = model_of(), model_of()
    lean_blocks(ours)
    for model in (theirs, ours):
        model.eval()
        quantize_model(model, "int8")
    tokens = torch.randint(0, 64, (2, LENGTH))
    with torch.no_grad():
        expected, found = (model(input_ids=tokens, use_cache=False).logits for model in (theirs, ours))
    assert torch.equal(found, expected)


def test_only_plain_layers_are_plain() -> None:
    layer = torch.nn.Linear(3, 3, bias=False)
    assert is_plain(layer)
    handle = layer.register_forward_hook(lambda *_: None)
    assert not is_plain(layer)
    handle.remove()
    assert is_plain(layer)
    assert not is_plain(torch.nn.Linear(3, 3))
    assert not is_plain(layer.to(torch.bfloat16))


def test_a_session_in_fp32_on_a_cpu_uses_it(tmp_path: Path) -> None:
    def replaced(**train: object) -> int:
        session = tiny_session(tmp_path, tiny_spec(train=train))
        blocks = session.engine.model.base_model.layers
        return sum("forward" in vars(part) for block in blocks for part in (block.mlp, block.self_attn))

    assert replaced() == 4
    assert replaced(precision="bf16") == 0
    assert replaced(checkpointing=True) == 4


def test_checkpointing_recomputes_without_changing_a_loss(tmp_path: Path) -> None:
    def losses(name: str, *, checkpointing: bool) -> object:
        session = tiny_session(tmp_path / name, tiny_spec(train={"checkpointing": checkpointing}))
        session.warmup()
        return session.train(lambda _: None).losses

    np.testing.assert_array_equal(losses("a", checkpointing=True), losses("b", checkpointing=False))
