"""Fixtures that all tests share. Nothing here needs a GPU, a network or a hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayscale.spec import SweepSpec
from rayscale.specfile import parse_spec

TINY = """\
name: tiny
design:
  factors: {tokens: [512, 1024]}
  repetitions: 2
  seed: 7
model:
  config: {model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
           intermediate_size: 64}
data:
  synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}
  sequence_length: 32
train: {batch_size: 4, learning_rate: 1.0e-2}
eval: {tokens: 512}
energy: {period: 20ms, idle: 40ms}
resources: {gpus: 0, cpus: 1}
analysis: {dv: [pee, joules_per_token, perplexity]}
"""
"""A sweep whose trials take a fraction of a second: 4 trials of a 20 K parameter model on a Markov source."""


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Keep prepared data in one place for the session, away from the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSCALE_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()


@pytest.fixture
def tiny_text() -> str:
    """The tiny sweep as YAML text."""
    return TINY


@pytest.fixture
def tiny_spec() -> SweepSpec:
    """The tiny sweep."""
    return parse_spec(TINY, "tiny.yaml")


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The tiny sweep as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path
