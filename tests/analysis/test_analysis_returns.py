"""Pareto fronts and marginal returns: definitions by brute force, intervals by coverage, edge cases by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.marginal import fieller, marginal_return
from rayscale.analysis.pareto import bought, on_front, pareto_points
from rayscale.analysis.returns_text import returns_text
from rayscale.analysis.returns_tree import parse_spend, purchases, returns_trees
from rayscale.analysis.table import ledger_frame
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import ReportSpec, SweepSpec

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8)


@given(points)
def test_the_front_is_what_no_other_point_dominates(found: list[tuple[int, int]]) -> None:
    loss, resource = (np.array(values, dtype=float) for values in zip(*found, strict=True))
    expected = [not any(other[0] <= me[0] and other[1] <= me[1] and other != me for other in found) for me in found]
    assert on_front(loss, resource).tolist() == expected


def blocks(means: list[float], sd: float, n: int = 10, seed: int = 0) -> np.ndarray:
    """Draw blocks whose column means are exactly `means`."""
    noise = np.random.default_rng(seed).normal(0, sd, (n, len(means)))
    return np.array(means) + noise - noise.mean(axis=0)


def test_points_near_the_front_are_marked() -> None:
    """b is a hair worse than a; c is worse than a by far; d is cheap and bad: on the front."""
    loss = blocks([3.0, 3.001, 3.5, 4.0], 0.01)
    energy = blocks([10.0, 10.01, 12.0, 1.0], 0.1, seed=1)
    found = {point.label: point for point in pareto_points(["a", "b", "c", "d"], loss, energy)}
    assert [label for label, point in found.items() if point.overlaps] == ["b"]
    assert found["d"].on_front
    assert not found["c"].on_front
    assert not found["c"].overlaps
    assert found["c"].front_share == 0
    assert 0 < found["b"].front_share < 1
    assert found["d"].front_share == 1


def test_an_exact_resource_still_decides() -> None:
    """FLOPs have no spread: equal FLOPs and a clearly larger loss is off the front without overlap."""
    loss = blocks([3.0, 3.5], 0.01)
    flops = np.full_like(loss, 1e12)
    found = pareto_points(["a", "b"], loss, flops)
    assert [(point.on_front, point.overlaps) for point in found] == [(True, False), (False, False)]


def test_what_an_amount_buys() -> None:
    found = pareto_points(["low", "mid", "bad"], blocks([4.0, 3.0, 5.0], 0.01), blocks([1.0, 5.0, 4.0], 0.2, seed=2))
    assert bought(found, 0.1).label is None
    assert bought(found, 2.0).label == "low"
    assert bought(found, 4.5).label == "low"  # `bad` is paid for, but worse
    rich = bought(found, 50.0)
    assert (rich.label, rich.sure) == ("mid", True)
    assert not bought(found, rich.resource + 1e-9).sure  # type: ignore[operator]


def test_fieller_covers_the_ratio_as_often_as_it_says() -> None:
    """400 samples of 8 correlated pairs: the 95 % interval misses at most 36 times (binomial p < 1e-3 beyond)."""
    rng = np.random.default_rng(7)
    misses = 0
    for _ in range(400):
        shared = rng.normal(0, 1, 8)
        found = fieller(2.0 + shared + rng.normal(0, 0.5, 8), 8.0 + shared + rng.normal(0, 1.5, 8))
        assert found.ci is not None
        misses += not found.ci[0] <= 0.25 <= found.ci[1]
    assert 6 <= misses <= 36


def test_fieller_with_an_exact_denominator_is_the_t_interval() -> None:
    gain = np.array([0.1, 0.2, 0.15, 0.12])
    found = fieller(gain, np.full(4, 2.0))
    half = 3.182446305284263 * gain.std(ddof=1) / 2  # t(.975, 3); sqrt(4) = 2
    assert found.ci == pytest.approx(((gain.mean() - half) / 2, (gain.mean() + half) / 2), rel=1e-12)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_marginal_return_has_the_unit_of_loss_per_resource(nat: float, joule: float) -> None:
    loss = (blocks([4.0], 0.05)[:, 0], blocks([3.0], 0.05, seed=3)[:, 0])
    spent = (blocks([1.0], 0.05, seed=4)[:, 0], blocks([5.0], 0.2, seed=5)[:, 0])
    base = marginal_return(("a", "b"), loss, spent)
    scaled = marginal_return(("a", "b"), (loss[0] * nat, loss[1] * nat), (spent[0] * joule, spent[1] * joule))
    assert scaled.ratio.value == pytest.approx(base.ratio.value * nat / joule, rel=1e-9)  # type: ignore[operator]
    assert scaled.ratio.ci == pytest.approx([end * nat / joule for end in base.ratio.ci or ()], rel=1e-6)


def test_no_interval_where_the_resource_does_not_grow_surely() -> None:
    gain = np.array([0.1, 0.2, 0.15])
    assert fieller(gain, np.array([1.0, -1.0, 0.5])).ci is None
    assert fieller(gain, np.array([1.0, -1.0, 0.0])).value is None
    assert fieller(gain[:1], np.array([2.0])).ci is None


Specs = Callable[..., SweepSpec]
Records = Callable[..., list[Record]]


def test_the_trees_of_a_sweep(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec(report={"grid_g_per_kwh": 400, "price_per_kwh": 0.3})
    frame = ledger_frame(make_records(spec), report=spec.report)
    tree = returns_trees(frame, spec, estimated=True)
    assert set(tree["pareto"]) == {"energy", "time", "flops", "carbon", "cost"}
    energy = tree["marginal"]["energy"]
    assert (energy["unit"], energy["n_blocks"], energy["energy_estimated"]) == ("kJ", 4, True)
    assert not tree["pareto"]["time"]["energy_estimated"]
    step = energy["steps"]["500000|1000000"]
    assert step["return"] == pytest.approx(step["gain_nats"] / step["spent"], rel=1e-12)
    assert step["ci"][0] < step["return"] < step["ci"][1]
    tree["purchases"] = purchases(tree["pareto"], [parse_spend("1kWh"), parse_spend("1J")])
    assert tree["purchases"][0]["label"] == "2000000"
    assert tree["purchases"][1]["label"] is None
    text = returns_text(tree)
    assert "*estimated*" in text
    assert "pays for no condition" in text
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_is_said_without_money_blocks_or_levels(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec()
    frame = ledger_frame(make_records(spec), report=ReportSpec())
    tree = returns_trees(frame, spec, estimated=False)
    assert set(tree["pareto"]) == {"energy", "time", "flops"}
    with pytest.raises(InputError, match="cost: not available"):
        purchases(tree["pareto"], [parse_spend("3")])
    assert returns_trees(frame.head(3), spec, estimated=False) == {}
    single = make_spec({"tokens": [1000]})
    assert returns_trees(ledger_frame(make_records(single)), single, estimated=False) == {}
    assert returns_text({}) == ""


def test_steps_hold_the_other_factors(make_spec: Specs, make_records: Records) -> None:
    spec = make_spec({"tokens": [1000, 4000], "train.precision": ["fp32", "bf16"]}, 3)
    steps = returns_trees(ledger_frame(make_records(spec)), spec, estimated=False)["marginal"]["time"]["steps"]
    assert list(steps) == [f"tokens=1000,train.precision={p}|tokens=4000,train.precision={p}" for p in ("fp32", "bf16")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2kJ", ("energy", 2.0)),
        ("0.5 kWh", ("energy", 1800.0)),
        ("3.6e6J", ("energy", 3600.0)),
        ("90s", ("time", 1.5)),
        ("1h", ("time", 60.0)),
        ("1e15FLOP", ("flops", 1000.0)),
        ("2kg", ("carbon", 2000.0)),
        ("3", ("cost", 3.0)),
    ],
)
def test_amounts(text: str, expected: tuple[str, float]) -> None:
    name, amount = parse_spend(text)
    assert name == expected[0]
    assert amount == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("text", ["", "kJ", "2 parsec", "-1kJ", "1.2.3J", "0J", "1e999J"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--spend"):
        parse_spend(text)
