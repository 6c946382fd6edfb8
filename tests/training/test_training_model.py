from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import TINY_LLAMA, tiny_spec
from transformers.integrations import sdpa_attention

from rayscale.errors import InputError
from rayscale.training.model import CAUSAL_ATTENTION, build_model, choose_attention, random_config


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
