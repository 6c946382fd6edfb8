"""What the compiler sees: attention without a mask, causal, grouped; and a step that never waits for the device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.environment import cache_directory
from rayscale.spec import SweepSpec
from rayscale.training import compiling
from rayscale.training.compiling import choose_compile, compile_blocks, compile_facts, use_shared_cache
from rayscale.training.flops import shape_from_config
from rayscale.training.model import build_model

ATTENTION = torch.nn.functional.scaled_dot_product_attention
TINYLLAMA = {"preset": "tinyllama-1.1b"}


class Graphs:
    """A compiler backend that keeps the graphs and runs them as they are."""

    def __init__(self) -> None:
        self.seen: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.seen.append(graph)
        return graph.forward

    def attention_calls(self) -> list[dict[str, Any]]:
        """Return the keyword arguments of every attention in the graphs."""
        nodes = [node for graph in self.seen for node in graph.graph.nodes]
        return [dict(node.kwargs) for node in nodes if node.target is ATTENTION]


@pytest.mark.parametrize("scope", ["whole model", "block by block"])
def test_compiled_attention_has_no_mask_is_causal_and_grouped(scope: str) -> None:
    torch._dynamo.reset()
    module, graphs = build_model(tiny_spec(), 64, 0, "cpu").module, Graphs()
    tokens = torch.randint(0, 64, (2, 16))
    expected = module(input_ids=tokens, use_cache=False).logits
    if scope == "whole model":
        run = torch.compile(module, backend=graphs, fullgraph=True, dynamic=False)
    else:
        assert compile_blocks(module, backend=graphs, fullgraph=True) == 2
        run = module
    found = run(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected)
    calls = graphs.attention_calls()
    assert calls
    for call in calls:
        assert call.get("attn_mask") is None
        assert call["is_causal"] is True
        assert call["enable_gqa"] is True
    torch._dynamo.reset()


def test_transformers_own_attention_gets_a_mask_when_compiled() -> None:
    """The trap that our name avoids; should this test fail one day, transformers has mended it."""
    torch._dynamo.reset()
    module, graphs = build_model(tiny_spec(), 64, 0, "cpu").module, Graphs()
    module.set_attn_implementation("sdpa")
    torch.compile(module, backend=graphs, dynamic=False)(input_ids=torch.randint(0, 64, (2, 16)), use_cache=False)
    assert any(call.get("attn_mask") is not None for call in graphs.attention_calls())
    torch._dynamo.reset()


class Waits(TorchDispatchMode):
    """Counts operations that would bring a number to the host and so wait for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("train", [{}, {"batch_size": 4, "micro_batch_size": 2}, {"precision": "bf16"}], ids=str)
def test_a_step_never_waits_for_the_device(cache: Path, train: dict[str, Any]) -> None:
    session = tiny_session(cache, tiny_spec(train={"threads": 1, **train}), tokens=700)
    losses = torch.zeros(4)
    with Waits() as waits:
        for step in range(4):
            losses[step] = session._step(step)
    assert waits.count == 0
    with Waits() as waits:
        losses[0].item()
    assert waits.count == 1


def test_warm_up_compiles_training_and_evaluation(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs, plain = Graphs(), tiny_session(cache, tiny_spec(), tokens=700)
    expected = plain.train(lambda _: None)
    monkeypatch.setattr("rayscale.training.session.compile_blocks", lambda m: compile_blocks(m, backend=graphs))
    session = tiny_session(cache, tiny_spec(train={"compile": "on", "threads": 1}), tokens=700)
    before = session.evaluate()
    assert not graphs.seen
    session.warmup()
    compiled = len(graphs.seen)
    assert compiled
    found = session.train(lambda _: None)
    after = session.evaluate()
    assert len(graphs.seen) == compiled, "something was compiled inside a measured phase"
    assert session.compile_s > 0
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert after.loss < before.loss
    facts = session.describe().settings["compile"]
    assert facts["on"]
    assert len(facts["cache_key"]) == 16
    torch._dynamo.reset()


def large(repetitions: int, **train: Any) -> SweepSpec:
    design = {"factors": {"tokens": [500_000, 1_000_000, 2_000_000]}, "repetitions": repetitions}
    data = {"synthetic": {}, "sequence_length": 2048}
    tree = {"name": "x", "design": design, "model": TINYLLAMA, "data": data, "train": train}
    return SweepSpec.model_validate(tree)


def test_compile_is_decided_by_what_it_saves_and_costs() -> None:
    shape = shape_from_config(large(1).model.fields or {}, 32000)
    tokens = 3_500_000
    choice = choose_compile(large(50), shape, "cuda", 989.0)
    saved = 7.314e9 * tokens * 50 / 989e12 * (1 / compiling.MFU_EAGER - 1 / compiling.MFU_COMPILED)
    assert choice.saves_s == pytest.approx(saved, rel=1e-3)
    assert choice.costs_s == 40 + 150 * 6
    assert not choice.on
    assert "would not repay" in choice.reason
    slower = choose_compile(large(50), shape, "cuda", 125.0)
    assert slower.on
    assert "repays" in slower.reason


def test_compile_is_never_chosen_on_a_cpu_or_an_unknown_device() -> None:
    shape = shape_from_config(TINY_LLAMA, 64)
    assert choose_compile(large(10**6), shape, "cpu", 1e-6).reason == "auto: never on a CPU"
    unknown = choose_compile(large(10**6), shape, "cuda", None)
    assert (unknown.on, unknown.saves_s) == (False, None)
    assert choose_compile(large(1, compile="on"), shape, "cpu", None).on
    assert not choose_compile(large(10**6, compile="off"), shape, "cuda", 1.0).on
    assert compile_facts(unknown, None)["cache_hits"] is None


def test_all_levels_of_a_sweep_decide_alike() -> None:
    shape = shape_from_config(TINY_LLAMA, 64)
    spec = large(3)
    assert choose_compile(spec, shape, "cuda", 1.0) == choose_compile(
        spec.with_setting("train.learning_rate", 1.0), shape, "cuda", 1.0
    )


def test_compiled_kernels_are_kept_per_node_software_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path))
    environ: dict[str, str] = {}
    key = use_shared_cache("NVIDIA H200", environ)
    assert environ == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor" / key)}
    assert use_shared_cache("NVIDIA A10G", environ) != key
    assert environ["TORCHINDUCTOR_CACHE_DIR"].endswith(key), "what is set stays"


def test_the_default_that_torch_writes_into_the_environment_is_not_the_users_choice() -> None:
    environ = {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), "torchinductor_me"))}
    key = use_shared_cache(None, environ)
    assert environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache_directory() / "inductor" / key)
