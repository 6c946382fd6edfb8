"""fp8 products on torch's CPU implementation: gradients against those of floats, and what is refused where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, cross_entropy
from training_helpers import tiny_spec

from rayscale.errors import EnvironmentUnusableError
from rayscale.training.model import build_model
from rayscale.training.setup import set_up
from rayscale.training.treatments.fp8 import require_fp8, scaled, use_fp8


def tiny_model() -> Any:
    return build_model(tiny_spec(), 64, 3, "cpu").module


def loss_of(model: Any, rows: int = 4) -> torch.Tensor:
    ids = torch.arange(rows * 17).remainder(61).view(rows, 17)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1].contiguous(), use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


@given(st.integers(0, 1000), st.floats(1e-8, 1e8), st.sampled_from([torch.float8_e4m3fn, torch.float8_e5m2]))
@settings(max_examples=50, deadline=None)
def test_rounding_keeps_the_largest_value_and_some_bits(seed: int, size: float, dtype: torch.dtype) -> None:
    values = size * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    rounded, scale = scaled(values, dtype)
    back = rounded.float() * scale
    largest = values.abs().argmax()
    torch.testing.assert_close(back[largest], values[largest], rtol=1e-5, atol=0)
    step = 2.0**-4 if dtype == torch.float8_e4m3fn else 2.0**-3
    assert ((back - values).abs() <= step * values.abs() + 2.0**-9 * scale).all()


def test_loss_and_gradients_are_close_to_those_of_bf16() -> None:
    plain, rounded = tiny_model(), tiny_model()
    assert use_fp8(rounded) == 14
    losses = [loss_of(model) for model in (plain, rounded)]
    assert 0 < abs(float((losses[0] - losses[1]).detach())) < 0.02
    for loss in losses:
        loss.backward()
    for (name, one), other in zip(plain.named_parameters(), rounded.parameters(), strict=True):
        assert other.grad is not None, name
        assert cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0) > 0.97, name


def test_it_trains_as_bf16_does() -> None:
    reached = []
    for change in (lambda model: 0, use_fp8):
        model = tiny_model()
        change(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
        reached.append(float(loss.detach()))
    assert reached[0] < 2.0
    assert reached[1] == pytest.approx(reached[0], abs=0.25)


def test_rows_that_16_does_not_divide_take_the_ordinary_product() -> None:
    plain, changed = tiny_model(), tiny_model()
    use_fp8(changed)
    ids = torch.arange(10)[None]
    assert torch.equal(plain(input_ids=ids).logits, changed(input_ids=ids).logits)


def test_devices_without_fp8_are_refused() -> None:
    with pytest.raises(EnvironmentUnusableError, match=r"train\.precision: fp8 on a CPU; expected a GPU"):
        require_fp8(torch.device("cpu"))
    with pytest.raises(EnvironmentUnusableError, match="fp8 on a CPU"):
        set_up(tiny_spec(train={"precision": "fp8"}), 64, 1, torch.device("cpu"))


def test_a_sweep_without_gpus_cannot_ask_for_it() -> None:
    with pytest.raises(ValueError, match=r"fp8.*resources\.gpus"):
        tiny_spec(train={"precision": "fp8"}, resources={"gpus": 0})
