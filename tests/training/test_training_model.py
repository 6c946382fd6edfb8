from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import TINY_LLAMA, tiny_spec
from transformers import AutoConfig
from transformers.integrations import sdpa_attention

from rayscale.errors import InputError
from rayscale.spec.trial import PRESETS
from rayscale.training.body import keep_angles
from rayscale.training.model import _PLAIN, CAUSAL_ATTENTION, build_model, choose_attention, random_config


def config_spec(**changes: Any) -> Any:
    return tiny_spec(model={"config": {**TINY_LLAMA, **changes}})


def attention_calls(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run a forward pass and record how torch's attention was called."""
    calls: list[dict[str, Any]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model(input_ids=torch.randint(0, 64, (2, 16)), use_cache=False)
    return calls


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (build_model(tiny_spec(), 64, seed, "cpu").module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_attention_is_causal_without_a_mask_and_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_model(tiny_spec(), 64, 0, "cpu")
    assert built.attention == CAUSAL_ATTENTION
    calls = attention_calls(built.module, monkeypatch)
    assert len(calls) == 2
    for call in calls:
        assert call["attn_mask"] is None
        assert call["is_causal"] is True
        assert call["enable_gqa"] is True


def test_logits_equal_those_of_eager_attention() -> None:
    built = build_model(tiny_spec(), 64, 0, "cpu").module.eval()
    tokens = torch.randint(0, 64, (3, 16))
    with torch.no_grad():
        ours = built(input_ids=tokens).logits
        built.set_attn_implementation("eager")
        theirs = built(input_ids=tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_target_sees_its_future() -> None:
    built = build_model(tiny_spec(), 64, 0, "cpu").module.eval()
    tokens = torch.randint(0, 64, (1, 16))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 64
    with torch.no_grad():
        before, after = built(input_ids=tokens).logits, built(input_ids=changed).logits
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def small_config(kind: str) -> dict[str, Any]:
    """Return a tiny config of an architecture; expert counts where it has them."""
    default = AutoConfig.for_model(kind)
    known = set(default.to_dict()) | set(default.attribute_map)
    special = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    experts = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    fields = {**special, **experts, "shared_expert_intermediate_size": 16, "head_dim": 8, "num_key_value_heads": 2}
    fields = {**TINY_LLAMA, **fields}
    return {name: value for name, value in fields.items() if name in known} | {"model_type": kind}


@pytest.mark.parametrize("kind", _PLAIN)
def test_every_architecture_without_masks_is_plainly_causal(kind: str) -> None:
    built = build_model(tiny_spec(model={"config": small_config(kind)}), 64, 0, "cpu")
    assert (built.attention, built.attention_note) == (CAUSAL_ATTENTION, None)
    module, tokens = built.module.eval(), torch.randint(0, 64, (2, 16))
    with torch.no_grad():
        ours = module(input_ids=tokens, use_cache=False).logits
        module.set_attn_implementation("eager")
        theirs = module(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mistral", "sliding_window": 8}, "sliding_window 8 is shorter than the rows (16)"),
        ({"model_type": "opt"}, "the masks of `opt` are not known to be plainly causal"),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
            "not every layer attends to the whole past: sliding_attention",
        ),
    ],
)
def test_masks_are_kept_for_a_reason_that_is_recorded(changes: dict[str, Any], reason: str) -> None:
    fields = {**TINY_LLAMA, **changes}
    if changes["model_type"] == "opt":
        fields = {
            "model_type": "opt",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "ffn_dim": 64,
        }
        fields["word_embed_proj_dim"] = 32
    built = build_model(tiny_spec(model={"config": fields}), 64, 0, "cpu")
    assert (built.attention, built.attention_note) == ("sdpa", reason)


def test_presets_are_shapes_by_name() -> None:
    config = random_config(tiny_spec(model={"config": None, "preset": "tinyllama-1.1b"}), 64)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (32000, 2048, 22)
    tiny = random_config(tiny_spec(model={"preset": "tiny", "config": {"num_hidden_layers": 2}}), 64)
    assert (tiny.hidden_size, tiny.num_hidden_layers, tiny.vocab_size) == (128, 2, 64)
    spec = tiny_spec(model={"config": None, "preset": "tiny"})
    assert spec.with_setting("model.preset", "tinyllama-1.1b").model.fields == dict(PRESETS["tinyllama-1.1b"])


def test_pure_bf16_halves_the_weights() -> None:
    built = build_model(tiny_spec(train={"precision": "bf16-pure"}), 64, 0, "cpu").module
    assert {parameter.dtype for parameter in built.parameters()} == {torch.bfloat16}
    assert built.model.rotary_emb.inv_freq.dtype == torch.float32


def test_checkpointing_changes_memory_not_gradients() -> None:
    batch, gradients, kept = torch.randint(0, 64, (2, 16)), [], []
    for checkpointing in (False, True):
        module = build_model(tiny_spec(train={"checkpointing": checkpointing}), 64, 0, "cpu").module
        saved: list[int] = []

        def note(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = module(input_ids=batch, use_cache=False).logits.logsumexp(-1).sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
        kept.append(sum(saved))
    assert kept[1] < kept[0] / 3
    torch.testing.assert_close(gradients[1], gradients[0])


def test_models_with_windows_keep_the_masks_of_transformers() -> None:
    window = {**TINY_LLAMA, "model_type": "mistral", "sliding_window": 8}
    spec = tiny_spec(model={"config": window})
    assert choose_attention(random_config(spec, 64), 16) == "sdpa"
    assert choose_attention(random_config(spec, 64), 8) == CAUSAL_ATTENTION
    mixed = {**TINY_LLAMA, "model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}
    mixed["sliding_window"] = 8
    assert choose_attention(random_config(tiny_spec(model={"config": mixed}), 64), 8) == "sdpa"


def test_context_and_vocabulary_follow_the_data() -> None:
    config = random_config(tiny_spec(data={"sequence_length": 4096}), 77)
    assert (config.vocab_size, config.max_position_embeddings, config.use_cache) == (77, 4096, False)
    assert random_config(config_spec(vocab_size=128), 64).vocab_size == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 3}, r"model\.config\.hiden_size: unknown key; did you mean `hidden_size`\?"),
        ({"hidden_size": "big"}, r"model\.config: .*hidden_size"),
        ({"model_type": "lama"}, r"model\.config: .*lama"),
        ({"vocab_size": 8}, r"vocab_size 8, but the data has 64 tokens"),
        ({"max_position_embeddings": 8}, r"max_position_embeddings 8; expected >= data\.sequence_length 16"),
        ({"num_attention_heads": 5}, r"model\.config: .*multiple"),
    ],
)
def test_bad_configs_are_explained_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        random_config(config_spec(**changes), 64)
    assert all("\n" not in problem for problem in caught.value.problems)


def test_pretrained_weights_are_loaded_and_the_stated_shape_is_checked(tmp_path: Path) -> None:
    original = build_model(config_spec(vocab_size=64), 64, 5, "cpu").module
    original.save_pretrained(tmp_path)
    model: dict[str, Any] = {"pretrained": str(tmp_path), "config": {"model_type": "llama", "hidden_size": 32}}
    loaded = build_model(tiny_spec(model=model), 64, 0, "cpu")
    assert torch.equal(loaded.module.lm_head.weight, original.lm_head.weight)
    assert loaded.module.dtype == torch.float32
    assert (loaded.attention, loaded.revision) == (CAUSAL_ATTENTION, None)
    model["config"] = {"hidden_size": 33, "num_hidden_layers": 7}
    with pytest.raises(InputError, match="has 32, the sweep file states 33") as caught:
        build_model(tiny_spec(model=model), 64, 0, "cpu")
    assert len(caught.value.problems) == 2


def test_pickled_weights_and_missing_models_are_refused(tmp_path: Path) -> None:
    original = build_model(config_spec(vocab_size=64), 64, 5, "cpu").module
    original.config.save_pretrained(tmp_path)
    torch.save(original.state_dict(), tmp_path / "pytorch_model.bin")
    for name in (str(tmp_path), str(tmp_path / "gone")):
        with pytest.raises(InputError, match=f"model.pretrained: {re.escape(name)}: cannot be loaded"):
            build_model(tiny_spec(model={"pretrained": name, "config": {}}), 64, 0, "cpu")


def test_our_attention_is_the_one_of_transformers() -> None:
    from transformers import AttentionInterface

    choose_attention(random_config(tiny_spec(), 64), 16)
    assert AttentionInterface()[CAUSAL_ATTENTION] is sdpa_attention.sdpa_attention_forward


def test_angles_are_computed_once_and_stay_the_same() -> None:
    module, tokens = build_model(tiny_spec(), 64, 0, "cpu").module.eval(), torch.randint(0, 64, (2, 16))
    plain, calls = module(input_ids=tokens, use_cache=False).logits, 0
    compute = module.model.rotary_emb.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return compute(*args, **kwargs)

    module.model.rotary_emb.forward = counted
    assert keep_angles(module)
    assert all(torch.equal(module(input_ids=tokens, use_cache=False).logits, plain) for _ in range(3))
    assert calls == 1
    module(input_ids=tokens[:, :9], use_cache=False)
    assert calls == 2


def test_angles_that_depend_on_more_than_the_position_are_not_kept() -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    module = build_model(config_spec(rope_parameters=scaled), 64, 0, "cpu").module
    assert not keep_angles(module)
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 64, "n_positions": 64}
    assert not keep_angles(build_model(tiny_spec(model={"config": gpt2}), 64, 0, "cpu").module)
