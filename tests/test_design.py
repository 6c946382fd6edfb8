"""The plan: grid, order, seeds, keys; the same everywhere, nested, randomised."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.design import Plan, plan_sweep, williams_square
from rayscale.errors import InputError
from rayscale.spec import SweepSpec
from rayscale.specfile import parse_spec


def with_design(
    text: str, levels: list[int], repetitions: int, order: str = "randomized_blocks", seed: int = 7
) -> Plan:
    text = text.replace("[512, 1024]", str(levels)).replace("repetitions: 2", f"repetitions: {repetitions}")
    return plan_sweep(parse_spec(text.replace("seed: 7", f"seed: 7\n  order: {order}"), "x.yaml"))


def order_of(plan: Plan) -> list[list[int]]:
    return [[trial.tokens for trial in block] for block in plan.blocks()]


def test_the_plan_of_one_seed_is_the_same_on_every_machine(tiny_text: str) -> None:
    """Typed-in values: they must not change with Python, numpy or a refactoring, else ledgers are orphaned."""
    plan = with_design(tiny_text, [512, 1024, 2048], 3)
    assert order_of(plan) == FROZEN_ORDER
    assert [trial.seed for trial in plan.trials[::3]] == FROZEN_SEEDS
    assert plan.trials[0].trial_key == FROZEN_KEY


FROZEN_ORDER = [[1024, 512, 2048], [2048, 1024, 512], [2048, 512, 1024]]
FROZEN_SEEDS = [227371283, 533289635, 2113817797]
FROZEN_KEY = "e58800c93d4649f2"


def test_every_block_holds_every_condition_once(tiny_text: str) -> None:
    for order in ("randomized_blocks", "fixed", "latin_square"):
        plan = with_design(tiny_text, [1, 2, 3, 4], 9, order)
        assert [trial.run_order for trial in plan.trials] == list(range(36))
        assert all(sorted(block) == [1, 2, 3, 4] for block in order_of(plan))


def test_trials_of_a_repetition_share_the_seed_and_no_other_does(tiny_text: str) -> None:
    plan = with_design(tiny_text, [1, 2, 3], 40)
    seeds = [{trial.seed for trial in block} for block in plan.blocks()]
    assert all(len(found) == 1 for found in seeds)
    assert len(set.union(*seeds)) == 40


def test_more_repetitions_and_levels_leave_what_was_there(tiny_text: str) -> None:
    small = with_design(tiny_text, [512, 1024], 5)
    longer = with_design(tiny_text, [512, 1024], 7)
    wider = with_design(tiny_text, [512, 1024, 4096], 5)
    keys = {trial.trial_key for trial in small.trials}
    assert [trial.trial_key for trial in longer.trials[:10]] == [trial.trial_key for trial in small.trials]
    assert len({trial.trial_key for trial in longer.trials} - keys) == 4
    assert keys < {trial.trial_key for trial in wider.trials}
    assert [[t for t in block if t != 4096] for block in order_of(wider)] == order_of(small)


def test_random_orders_are_uniform(tiny_text: str) -> None:
    """Chi-square over the 6 orders of 3 levels in 1200 blocks stays below its 0.999 quantile (df 5)."""
    counts = Counter(tuple(block) for block in order_of(with_design(tiny_text, [1, 2, 3], 1200)))
    assert set(counts) == set(itertools.permutations([1, 2, 3]))
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 20.5


@pytest.mark.parametrize("count", range(1, 9))
def test_williams_squares_balance_position_and_carry_over(count: int) -> None:
    rows = williams_square(count)
    positions = Counter((place, c) for row in rows for place, c in enumerate(row))
    neighbours = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert len(positions) == count**2
    assert len(set(positions.values())) == 1
    assert len(neighbours) == count * (count - 1)
    assert len(set(neighbours.values())) <= 1


def test_a_latin_square_sweep_is_balanced_over_its_cycle(tiny_text: str) -> None:
    blocks = order_of(with_design(tiny_text, [1, 2, 3], 6, "latin_square"))
    positions = Counter((place, level) for block in blocks for place, level in enumerate(block))
    assert set(positions.values()) == {2}


def test_further_factors_cross_and_change_the_settings(tiny_text: str) -> None:
    text = tiny_text.replace("[512, 1024]}", "[512, 1024], train.batch_size: [2, 4]}")
    plan = plan_sweep(parse_spec(text, "x.yaml"))
    assert len(plan.trials) == 8
    assert {(trial.tokens, trial.spec.train.batch_size) for trial in plan.blocks()[0]} == {
        (512, 2),
        (512, 4),
        (1024, 2),
        (1024, 4),
    }


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("learning_rate: 1.0e-2", "learning_rate: 2.0e-2", True),
        ("hidden_size: 32", "hidden_size: 64", True),
        ("tokens: 20_000", "tokens: 30_000", True),
        ("eval: {tokens: 512}", "eval: {tokens: 256}", True),
        ("idle: 40ms", "idle: 50ms", True),
        ("cpus: 1", "cpus: 2", True),
        ("seed: 7", "seed: 8", True),
        ("name: tiny", "name: other", False),
        ("analysis: {dv: [pee", "analysis: {dv: [mfu, pee", False),
        ("gpus: 0", "gpus: 0, max_attempts: 5, time_limit: 1h", False),
        ("name: tiny", "name: tiny\ntracking: {uri: 'http://x'}\nreport: {pue: 1.2}", False),
        ("batch_size: 4", "batch_size: 4, weight_decay: 0.1", False),  # the default, written out
        ("learning_rate: 1.0e-2", "learning_rate: 0.01", False),
    ],
)
def test_the_key_changes_with_what_changes_the_result_only(tiny_text: str, old: str, new: str, changes: bool) -> None:
    assert old in tiny_text
    before = plan_sweep(parse_spec(tiny_text, "x.yaml")).trials[0]
    after = {trial.trial_key for trial in plan_sweep(parse_spec(tiny_text.replace(old, new, 1), "x.yaml")).trials}
    assert (before.trial_key not in after) is changes


@settings(max_examples=30, deadline=None)
@given(levels=st.sets(st.integers(1, 10**7), min_size=1, max_size=6), repetitions=st.integers(1, 12))
def test_keys_are_unique(levels: set[int], repetitions: int) -> None:
    spec: SweepSpec = parse_spec(_TEXT.format(levels=sorted(levels), repetitions=repetitions), "x.yaml")
    plan = plan_sweep(spec)
    assert len({trial.trial_key for trial in plan.trials}) == len(plan.trials) == len(levels) * repetitions


_TEXT = """\
name: x
design: {{factors: {{tokens: {levels}}}, repetitions: {repetitions}}}
model: {{config: {{}}}}
data: {{synthetic: {{}}, sequence_length: 8}}
"""


WSD = {"schedule": "wsd", "share_prefix": True}


@pytest.mark.parametrize("order", ["randomized_blocks", "fixed", "latin_square"])
def test_budgets_that_share_a_trunk_follow_each_other_ascending(tiny_spec: SweepSpec, order: str) -> None:
    tree = tiny_spec.model_dump(exclude_unset=True)
    factors = {"tokens": [512, 1024, 2048], "train.learning_rate": [0.01, 0.02]}
    tree["design"] = {**tree["design"], "factors": factors, "order": order, "repetitions": 12}
    plan = plan_sweep(SweepSpec.model_validate({**tree, "train": {**tree["train"], **WSD}}))
    for block in plan.blocks():
        assert [trial.tokens for trial in block] == 2 * [512, 1024, 2048]
        rates = [trial.condition["train.learning_rate"] for trial in block]
        assert len(set(rates[:3])) == len(set(rates[3:])) == 1
    if order == "randomized_blocks":  # which trunk comes first stays random
        assert len({block[0].condition["train.learning_rate"] for block in plan.blocks()}) == 2


def test_sharing_enters_a_trial_key_only_where_it_is_on(tiny_spec: SweepSpec) -> None:
    tree = tiny_spec.model_dump(exclude_unset=True)
    tree["train"] = {**tree["train"], "schedule": "wsd"}

    def keys(**train: object) -> list[str]:
        spec = SweepSpec.model_validate({**tree, "train": {**tree["train"], **train}})
        return sorted(trial.trial_key for trial in plan_sweep(spec).trials)

    assert keys() == keys(share_prefix=False)
    assert not set(keys()) & set(keys(share_prefix=True))


def test_sharing_needs_wsd(tiny_text: str) -> None:
    text = tiny_text.replace("learning_rate: 1.0e-2", "share_prefix: true")
    with pytest.raises(InputError, match="needs schedule wsd"):
        parse_spec(text, "tiny.yaml")
