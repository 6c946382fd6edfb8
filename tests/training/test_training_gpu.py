"""What only a GPU can show: no hidden waits, the fused loss, the planner's sum. Skips with its reason elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import tiny_spec

from rayscale.training.data import prepare
from rayscale.training.loss import SplitModel, fused_loss
from rayscale.training.order import IGNORED
from rayscale.training.session import Session, open_session

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable NVIDIA GPU here"),
]

LARGER = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
    "vocab_size": 32000,
}


def session_on_gpu(cache: Path, tokens: int = 8192, **train: Any) -> Session:
    data = {"synthetic": {"vocab_size": 4096, "tokens": 100_000}, "sequence_length": 512}
    train = {"batch_size": 4, "precision": "bf16", "compile": "off", **train}
    spec = tiny_spec(model={"config": LARGER}, data=data, train=train, eval={"tokens": 2048, "batch_size": 4})
    return open_session(spec, prepare(spec, cache), tokens=tokens, seed=1, repetition=0, device="cuda")


def test_a_step_never_waits_for_the_gpu(cache: Path) -> None:
    session = session_on_gpu(cache)
    session.warmup()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            session._step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert session.engine.loss_path == "linear_cross_entropy"


def test_training_on_the_gpu_learns_exactly_its_budget(cache: Path) -> None:
    session = session_on_gpu(cache, tokens=20_000)
    before = session.evaluate()
    session.warmup()
    result = session.train(lambda _: None)
    assert (result.trained_tokens, session.evaluate().loss < before.loss) == (20_000, True)


def test_the_fused_loss_equals_the_reference_in_bf16() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(256, 8000, bias=False, device="cuda")
    hidden = torch.randn(2048, 256, device="cuda", requires_grad=True)
    targets = torch.randint(0, 8000, (2048,), device="cuda")
    targets[-9:] = IGNORED
    with torch.autocast("cuda", torch.bfloat16):
        logits = head(hidden)
    torch.nn.functional.cross_entropy(logits.float(), targets).backward()
    expected, hidden.grad, head.weight.grad = (hidden.grad, head.weight.grad), None, None
    fused_loss(SplitModel(lambda x: x, head), hidden, targets, 2039, torch.bfloat16).backward()
    for ours, theirs in zip((hidden.grad, head.weight.grad), expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-pure"])
def test_the_planners_sum_is_near_the_measured_peak(cache: Path, precision: str) -> None:
    torch.cuda.empty_cache()
    session = session_on_gpu(cache, precision=precision)
    session.warmup()
    torch.cuda.reset_peak_memory_stats()
    session.train(lambda _: None)
    need = session.setup.need
    assert need is not None
    planned = need.total(4) - need.context
    assert 0.7 * planned < torch.cuda.max_memory_allocated() < 1.15 * planned


def test_auto_measures_one_row(cache: Path) -> None:
    session = session_on_gpu(cache, batch_size=32, micro_batch_size="auto")
    settings = session.describe().settings
    assert "activations measured" in settings["micro_batch_reason"]
    assert 32 % settings["micro_batch_size"] == 0
