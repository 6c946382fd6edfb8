"""RMSNorm with its own backward pass: the bits of transformers forward, its gradients to rounding backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_helpers import tiny_session, tiny_spec
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rayscale.training.norms import lean_norms


def norm_of(width: int = 48) -> LlamaRMSNorm:
    module = LlamaRMSNorm(width, eps=1e-5)
    torch.manual_seed(1)
    with torch.no_grad():
        module.weight.copy_(torch.randn(width))
    return module


def test_the_result_is_bit_equal_and_the_gradients_agree() -> None:
    theirs, ours = norm_of(), norm_of()
    assert lean_norms(ours) == 1
    assert torch.equal(theirs.weight, ours.weight)  # the trial before the replacement leaves no trace
    x = torch.randn(3, 7, 48)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    results = [module(value) for module, value in zip((theirs, ours), inputs, strict=True)]
    assert torch.equal(*results)
    gradient = torch.randn(3, 7, 48)
    for result in results:
        result.backward(gradient)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


def test_the_gradients_are_those_of_the_function() -> None:
    module = norm_of(6)
    lean_norms(module)
    apply = module.forward.__closure__[0].cell_contents
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 6), (6,)))
    assert torch.autograd.gradcheck(lambda a, b: apply(a, b, 1e-3), (x, weight))


def test_heads_that_lie_across_memory_are_normed_too() -> None:
    """Qwen3 norms each head of a transposed tensor; its gradient cannot be viewed as rows."""
    theirs, ours = norm_of(16), norm_of(16)
    lean_norms(ours)
    x = torch.randn(2, 5, 4, 16)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    gradient = torch.randn(2, 4, 5, 16)
    for module, value in zip((theirs, ours), inputs, strict=True):
        module(value).transpose(1, 2).backward(gradient)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradient() -> None:
    module = norm_of()
    lean_norms(module)
    module.weight.requires_grad_(False)
    x = torch.randn(2, 48, requires_grad=True)
    module(x).sum().backward()
    assert module.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("module", [GemmaRMSNorm(16), norm_of().to(torch.bfloat16), torch.nn.LayerNorm(16)])
def test_other_norms_stay_as_they_are(module: torch.nn.Module) -> None:
    assert lean_norms(module) == 0
    assert "forward" not in vars(module)


def test_a_session_in_fp32_on_a_cpu_uses_it(tmp_path: Path) -> None:
    def replaced(**train: object) -> int:
        session = tiny_session(tmp_path, tiny_spec(train=train))
        return sum("forward" in vars(module) for module in session.engine.model.modules() if "Norm" in str(module))

    assert replaced() > 0
    assert replaced(precision="bf16-pure") == 0
