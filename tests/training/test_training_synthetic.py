from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.errors import InputError
from rayscale.spec import SyntheticSpec
from rayscale.training.synthetic import entropy_rate, generate


def empirical_entropy(stream: np.ndarray, vocab: int, order: int) -> float:
    """Return the plug-in (conditional) entropy of a stream in nats."""
    joint = np.zeros((vocab if order else 1, vocab))
    context = stream[:-1] if order else np.zeros(len(stream) - 1, dtype=int)
    np.add.at(joint, (context, stream[1:]), 1)
    share = joint / joint.sum()
    conditional = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1)
    return -float((share[joint > 0] * np.log(conditional[joint > 0])).sum())


@pytest.mark.parametrize("kind", ["markov", "zipf"])
def test_declared_entropy_is_that_of_the_stream(kind: Literal["markov", "zipf"]) -> None:
    source = SyntheticSpec(kind=kind, vocab_size=32, branching=4, tokens=200_000)
    stream = generate(source, 200_000, part=0)
    assert empirical_entropy(stream, 32, kind == "markov") == pytest.approx(entropy_rate(source), rel=0.01)


@given(st.integers(2, 300), st.integers(2, 20), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_token_has_distinct_successors_and_is_reached(vocab: int, branching: int, seed: int) -> None:
    source = SyntheticSpec(vocab_size=vocab, branching=min(vocab, branching), seed=seed)
    stream = generate(source, 2000, part=0)
    assert stream.max() < vocab
    followers: dict[int, set[int]] = {}
    for a, b in zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True):
        followers.setdefault(a, set()).add(b)
    assert max(map(len, followers.values())) <= source.branching


def test_streams_are_reproducible_and_parts_differ() -> None:
    source = SyntheticSpec(vocab_size=64)
    first, again, other = (generate(source, 500, part) for part in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_successors_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"branching: expected at most vocab_size = 4, got 8"):
        generate(SyntheticSpec(vocab_size=4, branching=8), 10, part=0)
