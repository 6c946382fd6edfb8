"""Adapters, pruning, distillation and quantisation: each against what it says of itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.errors import InputError
from rayscale.spec import SweepSpec
from rayscale.training.flops import shape_from_config, training_flops
from rayscale.training.loss import token_losses
from rayscale.training.model import build_model
from rayscale.training.order import IGNORED
from rayscale.training.treatments.adapter import add_lora, lora_flops, planned_adapter_params
from rayscale.training.treatments.applying import planned_flops, treat_model, treatment_notes
from rayscale.training.treatments.blocks import block_linears
from rayscale.training.treatments.distilling import Teacher, distilled_backward, divergences
from rayscale.training.treatments.pruning import nonzero_params, prune_model
from rayscale.training.treatments.quantizing import (
    has_int8_kernel,
    int8_product,
    quantize_model,
    restore,
    round_groups,
    round_rows,
)


def tiny_model(spec: SweepSpec | None = None) -> Any:
    return build_model(spec or tiny_spec(), 64, 3, "cpu").module


def rows_of(count: int = 4) -> torch.Tensor:
    return torch.arange(count * 16).remainder(61).view(count, 16)


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_only_adapters_train(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec(train={"lora_rank": 4}))
    before = {name: value.detach().clone() for name, value in session.engine.model.named_parameters()}
    result = session.train(lambda _: None)
    changed = {name for name, value in session.engine.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert session.setup.treated.trainable_params == planned_adapter_params(TINY_LLAMA, 4)
    assert session.describe().params == sum(value.numel() for value in before.values())
    assert result.flops_formula.startswith("4·N_matmul + 6·N_adapter")


def test_a_fresh_adapter_changes_nothing() -> None:
    plain, adapted = tiny_model().eval(), tiny_model().eval()
    add_lora(adapted, 4, None, 1)
    with torch.no_grad():
        assert torch.equal(plain(rows_of()).logits, adapted(rows_of()).logits)


def test_lora_flops_are_those_that_torch_counts() -> None:
    model = tiny_model(tiny_spec(data={"sequence_length": 16}))
    model.set_attn_implementation("eager")
    adapter = add_lora(model, 4, None, 1)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=rows_of(2), use_cache=False).logits.sum().backward()
    shape = shape_from_config({**TINY_LLAMA, "vocab_size": 64}, 64)
    tokens = 32
    expected = lora_flops(shape, adapter.params, tokens, 16)
    # Query, key and value of the first block (32 x 64 weights) and their A matrices need no gradient of their input.
    unneeded = 2 * tokens * (32 * (32 + 16 + 16) + 3 * 32 * 4)
    rotary = 2 * 4 * 16 * 2
    assert counter.get_total_flops() == pytest.approx(expected - unneeded, abs=rotary)
    assert planned_flops(tiny_spec(train={"lora_rank": 4}), shape, tokens) == expected
    assert planned_flops(tiny_spec(), shape, tokens) == training_flops(shape, tokens, 16)


def test_lora_on_random_weights_is_told_to_be_pointless() -> None:
    assert any("random weights" in note for note in treatment_notes(tiny_spec(train={"lora_rank": 4})))
    pretrained = tiny_spec(train={"lora_rank": 4}, model={"pretrain": {"tokens": 100}})
    assert not any("random weights" in note for note in treatment_notes(pretrained))


# -- pruning -----------------------------------------------------------------------------------------------------------


class TiedModel(nn.Module):
    """Two blocks whose weights take few values, so that many tie."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 4, bias=False) for _ in range(2))
        for layer, part in zip(self.layers, torch.tensor(values).view(2, 4, 2), strict=True):
            layer.weight.data.copy_(part)  # type: ignore[union-attr, operator]
        self.config = type("Config", (), {"num_hidden_layers": 2, "model_type": "tied"})()


@given(
    values=st.lists(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]), min_size=16, max_size=16),
    share=st.floats(0, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_the_smallest_weights_go_and_their_number_is_exact(values: list[float], share: float) -> None:
    model = TiedModel(values)
    count = prune_model(model, share)
    left = torch.cat([layer.weight.flatten() for layer in model.layers])  # type: ignore[union-attr, operator]
    assert count == int(share * 16)
    assert int((left == 0).sum()) == count
    gone = sorted(abs(value) for value, now in zip(values, left.tolist(), strict=True) if now == 0)
    assert gone == sorted(map(abs, values))[:count]


def test_pruned_weights_stay_zero_while_the_others_train(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec(model={"prune": 0.5}, train={"grad_clip": 0.5}))
    weights = [layer.weight for _, layer in block_linears(session.engine.model, "test")]
    zeros, before = [weight == 0 for weight in weights], [weight.detach().clone() for weight in weights]
    session.warmup()
    session.train(lambda _: None)
    total = sum(weight.numel() for weight in weights)
    assert sum(int(zero.sum()) for zero in zeros) == session.setup.treated.pruned == total // 2
    for weight, zero, old in zip(weights, zeros, before, strict=True):
        assert (weight[zero] == 0).all()
        assert (weight[~zero] != old[~zero]).float().mean() > 0.9
    assert session.nonzero_params() == session.shape.params - total // 2
    assert "pruned weights are multiplied too" in session.setup.treated.formula


def test_a_model_without_linear_layers_in_blocks_is_refused() -> None:
    model = TiedModel([1.0] * 16)
    model.layers = nn.ModuleList(nn.LayerNorm(2) for _ in range(2))
    with pytest.raises(InputError, match=r"model\.prune: `tied` has no linear layers"):
        block_linears(model, "model.prune")


def test_pruning_comes_before_adapters() -> None:
    spec = tiny_spec(model={"prune": 0.5}, train={"lora_rank": 2})
    model = tiny_model(spec)
    treated = treat_model(spec, model, 1)
    assert treated.adapter is not None
    assert treated.trainable_params == treated.adapter.params
    zeros = sum(int((value == 0).sum()) for name, value in model.named_parameters() if "lora_B" in name)
    assert zeros > 0  # B starts at zero
    assert nonzero_params(model) == treated.params - treated.pruned - zeros


# -- distillation ------------------------------------------------------------------------------------------------------


def a_teacher(weight: float = 0.5, temperature: float = 2.0) -> Teacher:
    from rayscale.training.flops import shape_from_model
    from rayscale.training.loss import split_model

    model = build_model(tiny_spec(), 64, 11, "cpu").module.eval().requires_grad_(requires_grad=False)
    return Teacher(model, split_model(model), shape_from_model(model), weight, temperature, {})


@given(st.integers(0, 10_000), st.floats(0.5, 8.0))
@settings(max_examples=30, deadline=None)
def test_divergence_is_the_textbook_sum(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float32)
    targets = torch.tensor([0, 1, IGNORED, 3, 4])
    p, q = (torch.softmax(x.double() / temperature, 1) for x in (teacher, student))
    expected = temperature**2 * (p * (p.log() - q.log())).sum(1)
    expected[2] = 0.0
    torch.testing.assert_close(
        divergences(student, teacher, targets, temperature).double(), expected, rtol=1e-4, atol=1e-5
    )
    assert divergences(teacher, teacher, targets, temperature).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [64, 13])
def test_chunks_give_the_gradients_of_the_whole_loss(rows: int) -> None:
    teacher, weights = a_teacher(0.3, 2.0), torch.nn.Parameter(torch.randn(64, 32))
    hidden = torch.randn(64, 32, requires_grad=True)
    taught = teacher.hidden(rows_of())
    targets = rows_of().flatten().clone()
    targets[5] = IGNORED
    logits = hidden @ weights.t()
    text = token_losses(logits, targets).sum() / 63
    soft = divergences(logits, teacher.logits(taught), targets, 2.0).sum() / 63
    expected = torch.autograd.grad(0.7 * text + 0.3 * soft, [hidden, weights])
    told = distilled_backward(lambda x: x @ weights.t(), hidden * 1, teacher, taught, targets, 63, rows)
    assert float(told) == pytest.approx(float(text.detach()), rel=1e-6)
    assert hidden.grad is not None
    assert weights.grad is not None
    torch.testing.assert_close(hidden.grad, expected[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights.grad, expected[1], rtol=1e-5, atol=1e-6)


# -- quantisation ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([4, 8]), st.floats(1e-6, 1e6))
@settings(max_examples=50, deadline=None)
def test_rounding_is_off_by_half_a_step_at_most(seed: int, bits: int, scale: float) -> None:
    values = scale * torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))
    values[2] = 0.0
    codes, scales = round_rows(values, bits)
    assert codes.abs().max() <= 2 ** (bits - 1) - 1
    assert ((restore(codes, scales) - values).abs() <= scales * 0.5001).all()
    assert (restore(codes, scales)[2] == 0).all()


def test_groups_have_their_own_scales_and_may_end_short() -> None:
    values = torch.cat([torch.full((3, 32), 0.01), torch.full((3, 8), 5.0)], dim=1)
    codes, scales = round_groups(values)
    assert scales.shape == (3, 2)
    torch.testing.assert_close(restore(codes, scales), values)


def test_the_int8_product_is_close_to_that_of_floats() -> None:
    if not has_int8_kernel(torch.device("cpu")):
        pytest.skip("this torch has no int8 product on the CPU")
    generator = torch.Generator().manual_seed(5)
    inputs, weights = torch.randn(40, 64, generator=generator), torch.randn(48, 64, generator=generator)
    codes, scales = round_rows(weights, 8)
    found = int8_product(inputs, codes.t().contiguous(), scales.flatten())
    exact = inputs @ weights.t()
    assert (found - exact).abs().mean() / exact.abs().mean() < 0.02
    rounded, row_scales = round_rows(inputs, 8)
    by_hand = (rounded.double() @ codes.double().t()) * row_scales.double() * scales.double().t()
    torch.testing.assert_close(found.double(), by_hand, rtol=1e-5, atol=1e-5)


def test_only_linear_layers_of_blocks_are_quantised_and_less_is_stored() -> None:
    model = tiny_model().eval()
    others = {name: value.clone() for name, value in model.named_parameters() if "layers" not in name}
    done = {kind: quantize_model(tiny_model(), kind) for kind in ("int8", "int4")}
    quantize_model(model, "int4")
    assert all(torch.equal(value, others[name]) for name, value in model.named_parameters() if name in others)
    assert done["int8"].layers == done["int4"].layers == 14
    assert done["int4"].weight_bytes < done["int8"].weight_bytes < done["int8"].float_bytes / 3
    assert "simulated" in done["int4"].kernel


@pytest.mark.parametrize("train", [{}, {"lora_rank": 4}])
def test_a_trained_model_is_evaluated_once_more_in_fewer_bits(cache: Path, train: dict[str, Any]) -> None:
    losses = {}
    for kind in ("none", "int8", "int4"):
        session = tiny_session(cache, tiny_spec(train=train, eval={"quantize": kind}), tokens=2000)
        session.train(lambda _: None)
        plain = session.evaluate().loss
        done = session.quantize()
        assert (done is None) == (kind == "none")
        losses[kind] = session.evaluate().loss
        assert math.isclose(plain, losses["none"], rel_tol=0)  # training knows nothing of the evaluation
    assert losses["int8"] != losses["none"]
    assert abs(losses["int8"] - losses["none"]) < abs(losses["int4"] - losses["none"]) < 0.1
