"""Permutation of interactions: brute force, invariances, type-I error, and its place in the tree."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.anova import anova
from rayscale.analysis.permutation import METHOD, interaction_test
from rayscale.analysis.resampling import sign_flip_tests
from rayscale.cli import run_command


def interaction(y: np.ndarray) -> np.ndarray:
    """Mean of the doubly centred tables; y has shape (n, a, b)."""
    centred = y - y.mean(axis=1, keepdims=True) - y.mean(axis=2, keepdims=True) + y.mean(axis=(1, 2), keepdims=True)
    return centred.mean(axis=0)


def test_counts_all_arrangements() -> None:
    y = np.random.default_rng(0).normal(size=(4, 2, 3)) + np.array([[0, 0, 1], [0, 1, 0]])
    orders = list(itertools.product(itertools.permutations(range(2)), itertools.permutations(range(3))))
    observed, reached, total = np.sum(interaction(y) ** 2), 0, 0
    for chosen in itertools.product(orders, repeat=3):
        arranged = np.stack([y[0], *(y[i + 1][np.ix_(*order)] for i, order in enumerate(chosen))])
        reached += np.sum(interaction(arranged) ** 2) >= observed * (1 - 1e-9)
        total += 1
    found = interaction_test(y.reshape(4, 6), (2, 3), (0, 1))
    assert found.exact
    assert found.p == pytest.approx(reached / total, rel=1e-12)


def test_two_by_two_is_the_sign_flip_test_of_the_contrast() -> None:
    y = np.random.default_rng(1).normal(size=(11, 4)) + np.array([0, 0, 0, 1.5])
    contrast = y[:, 0] - y[:, 1] - y[:, 2] + y[:, 3]
    found = interaction_test(y, (2, 2), (0, 1))
    assert found.exact
    assert found.resamples == 2**10
    assert found.p == pytest.approx(sign_flip_tests(contrast[:, None])[0].p)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-150, 1.0, 1e150]), st.sampled_from([0.0, 1e6]))
def test_main_effects_offsets_and_scales_change_nothing(seed: int, scale: float, offset: float) -> None:
    """Not even main effects that every block has of its own."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(4, 2, 3))
    rows, columns = rng.normal(0, 5, (4, 2, 1)), rng.normal(0, 5, (4, 1, 3))
    before = interaction_test(y.reshape(4, 6), (2, 3), (0, 1))
    after = interaction_test(((y + rows + columns + offset) * scale).reshape(4, 6), (2, 3), (0, 1))
    assert before.exact
    assert after.p == before.p


def test_holds_its_level_with_heavy_tails_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(4)
    below = [
        interaction_test(rng.standard_cauchy((8, 6)) + 3 * np.arange(6), (2, 3), (0, 1), 399).p <= 0.05
        for _ in range(400)
    ]
    assert np.mean(below) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    y = rng.normal(0, 0.5, (12, 6)) + np.array([0, 0, 0, 0, 1, 2])
    assert interaction_test(y, (2, 3), (0, 1), 999).p < 0.01


def test_agrees_with_f_on_normal_data_in_three_factors() -> None:
    y = np.random.default_rng(7).normal(size=(30, 12)) + np.tile([0.0, 0.0, 0.0, 0.45], 3)
    effects = {effect.name: effect for effect in anova(y, (3, 2, 2), ("a", "b", "c")).effects}
    for name, axes in (("b:c", (1, 2)), ("a:c", (0, 2)), ("a:b:c", (0, 1, 2))):
        found = interaction_test(y, (3, 2, 2), axes, 4999)
        assert found.p == pytest.approx(effects[name].p_unc, abs=0.03)


def test_many_levels_are_drawn_factor_by_factor() -> None:
    y = np.random.default_rng(2).normal(size=(6, 30)) + np.outer(np.arange(5) - 2, np.arange(6) - 2.5).ravel() * 0.3
    found = interaction_test(y, (5, 6), (0, 1), 499)
    assert (found.exact, found.resamples) == (False, 499)
    assert found.p < 0.01
    noise = interaction_test(np.random.default_rng(3).normal(size=(6, 30)), (5, 6), (0, 1), 499)
    assert noise.p > 0.05


def test_without_any_interaction_p_is_one() -> None:
    y = (np.arange(2)[:, None] + np.array([0.1, 0.7, 0.9])).ravel() + np.random.default_rng(0).normal(size=(5, 1))
    assert interaction_test(y, (2, 3), (0, 1)).p == 1.0


def test_the_command_gives_it_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    rows = [
        (s, tokens, precision, rng.normal() + (tokens == 2000) * (precision == "bf16") * 3)
        for s in range(9)
        for tokens in (1000, 2000)
        for precision in ("fp32", "bf16")
    ]
    path = tmp_path / "two.csv"
    pd.DataFrame(rows, columns=["s", "tokens", "precision", "y"]).to_csv(path, index=False)
    command = ["analyze", str(path), "--dv", "y", "--within", "tokens,precision", "--subject", "s", "--json", "-"]
    assert run_command(command) == 0
    found = json.loads(capsys.readouterr().out)["permutation"]
    assert list(found) == ["tokens", "precision", "tokens:precision"]
    assert found["tokens:precision"]["method"] == METHOD
    assert found["tokens:precision"]["exact"] is True
    assert found["tokens:precision"]["p"] < 0.05
