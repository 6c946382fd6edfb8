"""Head and loss: equal to the reference, without the memory of a full matrix of logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.training.body import direct_body, model_body
from rayscale.training.loss import (
    SplitModel,
    backward_chunked,
    choose_loss,
    chunk_rows,
    evaluated_losses,
    fused_loss,
    split_model,
)
from rayscale.training.model import build_model
from rayscale.training.order import IGNORED

ROWS, WIDTH, VOCAB = 96, 16, 4000


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation gave, forward and backward. Units: B."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.largest = max(self.largest, tensor.nbytes)
        return result


class Problem:
    """A last state, a head and targets of which some are ignored."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        head = torch.nn.Linear(WIDTH, VOCAB, bias=False, dtype=dtype)
        self.split = SplitModel(lambda inputs: inputs.float(), head)
        self.hidden = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
        self.targets = torch.randint(0, VOCAB, (ROWS,))
        self.targets[-7:] = IGNORED

    def solve(self, way: Callable[[Problem], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Return loss, both gradients and the largest tensor on the way."""
        with LargestTensor() as seen:
            loss = way(self)
            if loss.requires_grad:
                loss.backward()
        gradients = self.hidden.grad, self.split.head.weight.grad
        self.hidden.grad = self.split.head.weight.grad = None
        return loss.detach(), *gradients, seen.largest  # type: ignore[return-value]


def reference(problem: Problem) -> torch.Tensor:
    logits = problem.split.head(problem.hidden).float()
    return torch.nn.functional.cross_entropy(logits, problem.targets, ignore_index=IGNORED, reduction="sum") / 89


def chunked(rows: int) -> Callable[[Problem], torch.Tensor]:
    return lambda problem: backward_chunked(problem.split.head, problem.hidden, problem.targets, 89, rows)


def fused(problem: Problem) -> torch.Tensor:
    return fused_loss(problem.split, problem.hidden, problem.targets, 89, torch.float32)


@pytest.mark.parametrize("way", [chunked(5), chunked(16), chunked(ROWS), chunked(1000), fused])
def test_loss_and_gradients_equal_the_reference(way: Callable[[Problem], torch.Tensor]) -> None:
    problem = Problem()
    loss, hidden, weight, _ = problem.solve(way)
    expected, expected_hidden, expected_weight, _ = problem.solve(reference)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden, expected_hidden, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(weight, expected_weight, rtol=1e-5, atol=1e-8)
    assert torch.count_nonzero(hidden[-7:]) == 0


def test_no_tensor_is_as_large_as_the_logits() -> None:
    problem = Problem()
    logits = 4 * ROWS * VOCAB
    assert problem.solve(reference)[3] == logits
    head = problem.split.head.weight.nbytes
    assert problem.solve(chunked(8))[3] == max(head, logits // 12)
    assert problem.solve(fused)[3] < logits


def test_evaluation_takes_chunks_too() -> None:
    problem = Problem()
    with torch.no_grad(), LargestTensor() as seen:
        losses = evaluated_losses(problem.split, problem.hidden, problem.targets, 8)
    assert seen.largest == 4 * 8 * VOCAB
    assert torch.count_nonzero(losses[-7:]) == 0
    torch.testing.assert_close(losses.sum() / 89, reference(problem).detach(), rtol=1e-6, atol=0)


def test_chunks_hold_64_mib_of_logits_at_most() -> None:
    assert chunk_rows(32_000) * 32_000 * 4 <= 64 * 2**20 < (chunk_rows(32_000) + 1) * 32_000 * 4
    assert chunk_rows(10**9) == 1


def test_a_step_in_chunks_is_a_step(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = (tiny_session(cache, tiny_spec(), tokens=700) for _ in range(2))
    assert whole.engine.loss_path == "chunked"
    expected = whole.train(lambda _: None).losses
    monkeypatch.setattr("rayscale.training.engine.chunk_rows", lambda _: 7)
    torch.testing.assert_close(pieces.train(lambda _: None).losses, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(pieces.evaluate().loss, whole.evaluate().loss, rtol=1e-5, atol=0)


GRANITE = {**TINY_LLAMA, "model_type": "granite"}


@pytest.mark.parametrize(
    ("config", "splits"),
    [
        (TINY_LLAMA, True),
        ({**TINY_LLAMA, "tie_word_embeddings": True}, True),
        (GRANITE, True),
        ({**GRANITE, "logits_scaling": 8.0}, False),
    ],
)
def test_only_plain_heads_are_split_off(config: dict[str, Any], splits: bool) -> None:
    module = build_model(tiny_spec(model={"config": config}), 64, 0, "cpu").module
    split = split_model(module)
    assert (split is not None) == splits
    assert module.training
    assert choose_loss(split, "cpu") == ("chunked" if splits else "full")
    assert choose_loss(split, "cuda") == ("linear_cross_entropy" if splits else "full")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_direct_body_gives_the_bits_of_the_models_own(precision: str) -> None:
    tokens, found = torch.randint(0, 64, (3, 16)), []
    for way in (model_body, direct_body):
        module = build_model(tiny_spec(), 64, 0, "cpu").module
        body = way(module)
        assert body is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden = body(tokens)
        hidden.sum().backward()
        found.append([hidden.detach(), *(weight.grad for weight in module.base_model.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_bodies_that_may_do_more_are_left_to_the_model() -> None:
    window = {**TINY_LLAMA, "model_type": "mistral", "sliding_window": 8}
    for config in (GRANITE, window):
        assert direct_body(build_model(tiny_spec(model={"config": config}), 64, 0, "cpu").module) is None


def test_a_model_with_scaled_logits_trains_on_its_own_logits(cache: Path) -> None:
    spec = tiny_spec(model={"config": {**GRANITE, "logits_scaling": 8.0}})
    session = tiny_session(cache, spec, tokens=700)
    batch = session.train_feed.batch(0)
    logits = session.engine.model(input_ids=batch.micro_batches[0][0]).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.micro_batches[0][1].flatten())
    assert session._step(0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert session.describe().settings["loss"] == "full"
