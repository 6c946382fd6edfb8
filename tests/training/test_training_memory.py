"""The memory planner: its sum is what autograd really keeps, and a measured row corrects it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import tiny_session, tiny_spec

from rayscale.errors import InputError
from rayscale.spec import TrainSpec
from rayscale.training.flops import shape_from_config
from rayscale.training.memory import (
    MemoryNeed,
    choose_rows,
    corrected,
    largest_micro_batch,
    memory_limit,
    memory_need,
    memory_sentence,
)
from rayscale.training.model import build_model

TINYLLAMA = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
}


def need_of(config: dict[str, Any], precision: str = "bf16", length: int = 2048, **changes: Any) -> MemoryNeed:
    options = {"sequence_length": length, "precision": precision, "checkpointing": False, "cuda": True, **changes}
    return memory_need(config, shape_from_config(config, 64), **options)


def saved_bytes(config: dict[str, Any], precision: str, layers: int) -> int:
    """Count what autograd keeps of the body for one row of 16 tokens, weights and their copies aside."""
    train = {"precision": precision, "threads": 1}
    spec = tiny_spec(model={"config": {**config, "num_hidden_layers": layers, "vocab_size": 64}}, train=train)
    module = build_model(spec, 64, 0, "cpu").module
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    matrices = {shape for p in module.parameters() for shape in (tuple(p.shape), tuple(p.shape)[::-1])}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in matrices:
            kept[storage.data_ptr()] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        module.base_model(input_ids=torch.zeros((1, 16), dtype=torch.long), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-pure"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 72, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 104},
        {
            "hidden_size": 40,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 200,
            "head_dim": 22,
        },
    ],
)
def test_a_block_keeps_what_the_sum_says(precision: str, sizes: dict[str, int]) -> None:
    real = saved_bytes(sizes, precision, 3) - saved_bytes(sizes, precision, 2)
    rows = [need_of({**sizes, "num_hidden_layers": n}, precision, 16).per_row for n in (2, 3)]
    assert rows[1] - rows[0] == real


def test_tinyllama_is_as_measured_by_hand() -> None:
    """research/training.md 1.3: 17.6 GB of state, 107.7 KB per token and block under autocast, 87.2 in pure bf16."""
    need = need_of(TINYLLAMA)
    assert need.weights + need.gradients + need.moments == 16 * 1_100_048_384
    assert need.copies == 2 * 1_034_420_224
    assert (need.per_row / 2048 - 4 * 4 * 2048) / 22 == pytest.approx(107_700, rel=1e-3)
    pure = need_of(TINYLLAMA, "bf16-pure")
    assert pure.weights + pure.gradients + pure.moments == 8 * 1_100_048_384
    assert pure.copies == 0
    assert (pure.per_row / 2048 - 4 * 2 * 2048) / 22 == pytest.approx(87_200, rel=1e-3)


def test_the_planner_fills_the_cards_of_the_research() -> None:
    need, pure = need_of(TINYLLAMA), need_of(TINYLLAMA, "bf16-pure")
    assert largest_micro_batch(need, 32, memory_limit(141 * 10**9)) == 16
    assert largest_micro_batch(need, 32, memory_limit(80 * 10**9)) == 8
    assert largest_micro_batch(need, 32, memory_limit(24 * 10**9)) is None
    assert largest_micro_batch(pure, 32, memory_limit(24 * 10**9)) == 2
    saving = need_of(TINYLLAMA, checkpointing=True)
    assert saving.per_row < need.per_row / 7


@given(st.integers(1, 64), st.floats(1e9, 1e12))
def test_the_choice_divides_the_batch_and_fits(batch: int, limit: float) -> None:
    need = need_of(TINYLLAMA, "bf16-pure")
    rows = largest_micro_batch(need, batch, limit)
    if rows is None:
        assert need.total(1) > limit
        return
    assert batch % rows == 0
    assert need.total(rows) <= limit
    assert all(need.total(more) > limit for more in range(rows + 1, batch + 1) if batch % more == 0)


@given(st.integers(1, 8), st.floats(0.5, 2.0))
def test_a_measured_peak_replaces_the_activations(rows: int, factor: float) -> None:
    need = need_of(TINYLLAMA)
    truth = int(need.per_row * factor)
    there = {
        name: size for name, size in need.parts(rows).items() if name in ("weights", "gradients", "copies", "head")
    }
    found = corrected(need, sum(there.values()) + rows * truth, rows)
    assert (found.per_row, found.measured) == (truth, True)
    assert found.moments == need.moments


def test_a_nonsense_peak_does_not_promise_endless_room() -> None:
    need = need_of(TINYLLAMA)
    assert corrected(need, 0, 1).per_row == need.per_row // 8


def test_the_parts_make_the_sum() -> None:
    need = need_of(TINYLLAMA)
    assert need.total(4) == sum(need.parts(4).values())
    sentence = memory_sentence(need, 4)
    assert sentence.startswith(f"{need.total(4) / 1e9:.1f} GB with micro-batches of 4 (by arithmetic): weights 4.40 +")


def test_settings_choose_the_micro_batch() -> None:
    need = need_of(TINYLLAMA)
    assert choose_rows(TrainSpec(batch_size=8), None, None).rows == 8
    assert choose_rows(TrainSpec(batch_size=8, micro_batch_size=2), need, 1.0).rows == 2
    automatic = TrainSpec(batch_size=32, micro_batch_size="auto")
    chosen = choose_rows(automatic, need, 74e9)
    assert (chosen.rows, chosen.reason[:6]) == (8, "auto: ")
    with pytest.raises(InputError, match=r"train.micro_batch_size: auto: one row takes 2\d.* expected at most 20 GB"):
        choose_rows(automatic, need, 20e9)
    with pytest.raises(InputError, match="cannot be added up"):
        choose_rows(automatic, None, 20e9)


def test_half_of_this_machine_is_for_a_trial() -> None:
    assert 1e8 < memory_limit(None) < 1e14


def test_auto_on_the_cpu_takes_the_whole_small_batch(tmp_path: Any) -> None:
    session = tiny_session(tmp_path, tiny_spec(train={"batch_size": 6, "micro_batch_size": "auto"}))
    assert session.train_feed.budget.micro_batch_size == 6
    settings = session.describe().settings
    assert settings["micro_batch_reason"].startswith("auto: ")
    assert settings["memory_peak_bytes"] is None
