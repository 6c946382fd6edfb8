"""Tiny sweeps for the training tests: seconds become milliseconds, the code paths stay the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayscale.spec import SweepSpec
from rayscale.training.data import prepare
from rayscale.training.session import Session, open_session

TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}


def tiny_spec(**sections: dict[str, Any]) -> SweepSpec:
    """Return a sweep of a two-layer model on a Markov source; sections are merged over the defaults."""
    tree: dict[str, dict[str, Any]] = {
        "design": {"factors": {"tokens": [200]}, "repetitions": 2, "seed": 7},
        "model": {"config": TINY_LLAMA},
        "data": {"synthetic": {"vocab_size": 64, "tokens": 20_000, "branching": 4}, "sequence_length": 16},
        "train": {"batch_size": 4, "learning_rate": 1e-2, "threads": 1},
        "eval": {"tokens": 500, "batch_size": 8},
    }
    for name, settings in sections.items():
        tree[name] = {**tree.get(name, {}), **settings}
    return SweepSpec.model_validate({"name": "tiny", **tree})


def text_spec(**data: Any) -> SweepSpec:
    """Return a sweep on text."""
    spec = tiny_spec()
    tree = spec.model_dump(exclude_unset=True)
    tree["data"] = {"tokenizer": "bytes", "sequence_length": 16, "held_out": 0.2, **data}
    return SweepSpec.model_validate(tree)


def tiny_session(cache: Path, spec: SweepSpec, tokens: int = 200, repetition: int = 0, seed: int = 3) -> Session:
    """Prepare data and open a session on the CPU."""
    data = prepare(spec, cache)
    return open_session(spec, data, tokens=tokens, seed=seed, repetition=repetition, device="cpu")
