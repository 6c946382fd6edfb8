"""The searcher against a simulated Tune: order within blocks, one block per slot, retries, the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from rayscale.design import Plan, plan_sweep
from rayscale.specfile import parse_spec
from rayscale.sweep.devices import FixedFleet, SlotDevice
from rayscale.sweep.searcher import POSTPONED, BlockSearcher

SPEC = """\
name: x
design: {{factors: {{tokens: {levels}}}, repetitions: {repetitions}}}
model: {{config: {{}}}}
data: {{synthetic: {{}}, sequence_length: 8}}
"""


def make_plan(levels: int, repetitions: int) -> Plan:
    return plan_sweep(parse_spec(SPEC.format(levels=list(range(1, levels + 1)), repetitions=repetitions), "x.yaml"))


def slots(count: int) -> FixedFleet:
    return FixedFleet(tuple(SlotDevice(f"cpu:{index}", None, f"CPU {index}") for index in range(count)))


def simulate(
    searcher: BlockSearcher, slot_count: int, outcome: Callable[[str, int], str], seed: int = 0
) -> list[tuple[str, str, bool]]:
    """Drive the searcher as Tune does: ask while allowed, end the first attempt of a random busy slot.

    Returns the attempts in the order in which they ended: slot, trial key, whether it was the last try.
    """
    rng = random.Random(seed)
    out: dict[str, list[tuple[str, dict[str, Any]]]] = {f"cpu:{index}": [] for index in range(slot_count)}
    ended: list[tuple[str, str, bool]] = []
    cut_off: set[str] = set()  # what a slot died in and no later slot has closed
    counter = 0
    for _ in range(10_000):
        finished = False
        while sum(map(len, out.values())) < 2 * slot_count:
            config = searcher.suggest(f"t{counter}")
            if not isinstance(config, dict):
                finished = config == Searcher.FINISHED
                break
            out[config["device"]].append((f"t{counter}", config))
            counter += 1
            if len(out[config["device"]]) == 1:
                searcher.attempt_started(f"t{counter - 1}")
        assert all(len(queue) <= 2 for queue in out.values())
        busy = [name for name, queue in out.items() if queue]
        if not busy:
            assert finished
            return ended
        queue = out[rng.choice(busy)]
        trial_id, config = queue.pop(0)
        for waiting, _ in queue:
            searcher.attempt_started(waiting)
        key = config["trial_key"]
        if config["after"] in cut_off:
            cut_off.remove(config["after"])
            searcher.on_trial_complete(trial_id, {"outcome": POSTPONED})
            continue
        ended.append((config["device"], key, config["last_try"]))
        kind = outcome(key, sum(k == key for _, k, _ in ended))
        if kind == "error":
            cut_off.add(key)
        searcher.on_trial_complete(trial_id, {"outcome": kind} if kind != "error" else None, error=kind == "error")
    pytest.fail("the searcher never finished")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_blocks_run_in_order_on_one_slot_each(levels: int, repetitions: int, slot_count: int, seed: int) -> None:
    plan = make_plan(levels, repetitions)
    searcher = BlockSearcher(plan.blocks(), slots(slot_count), max_attempts=2)
    ended = simulate(searcher, slot_count, lambda key, n: "completed", seed)
    assert sorted(key for _, key, _ in ended) == sorted(trial.trial_key for trial in plan.trials)
    for block in plan.blocks():
        keys = [trial.trial_key for trial in block]
        assert [key for _, key, _ in ended if key in keys] == keys
        assert len({slot for slot, key, _ in ended if key in keys}) == 1


def test_every_slot_gets_work() -> None:
    plan = make_plan(3, 8)
    ended = simulate(BlockSearcher(plan.blocks(), slots(4), 1), 4, lambda key, n: "completed")
    assert {slot for slot, _, _ in ended} == {"cpu:0", "cpu:1", "cpu:2", "cpu:3"}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.data())
def test_what_a_dead_slot_was_doing_comes_before_what_was_staged(
    levels: int, repetitions: int, slot_count: int, max_attempts: int, data: st.DataObject
) -> None:
    plan = make_plan(levels, repetitions)
    deadly = data.draw(st.sets(st.sampled_from([trial.trial_key for trial in plan.trials])))
    ended = simulate(
        BlockSearcher(plan.blocks(), slots(slot_count), max_attempts),
        slot_count,
        lambda key, n: "error" if key in deadly else "completed",
        data.draw(st.integers(0, 99)),
    )
    for block in plan.blocks():
        expected = [t.trial_key for t in block for _ in range(max_attempts if t.trial_key in deadly else 1)]
        assert [key for _, key, _ in ended if key in expected] == expected


@pytest.mark.parametrize("kind", ["failed", "error"])
def test_a_failed_attempt_is_tried_again_on_its_slot_and_then_given_up(kind: str) -> None:
    plan = make_plan(3, 4)
    bad = plan.trials[1].trial_key
    ended = simulate(
        BlockSearcher(plan.blocks(), slots(2), max_attempts=3), 2, lambda key, n: kind if key == bad else "completed"
    )
    tries = [(slot, last) for slot, key, last in ended if key == bad]
    assert [last for _, last in tries] == [False, False, True]
    assert len({slot for slot, _ in tries}) == 1
    assert len(ended) == 12 + 2


def test_a_second_try_that_works_ends_the_matter() -> None:
    plan = make_plan(2, 2)
    bad = plan.trials[0].trial_key
    ended = simulate(
        BlockSearcher(plan.blocks(), slots(1), 2), 1, lambda key, n: "failed" if key == bad and n == 1 else "completed"
    )
    assert sum(key == bad for _, key, _ in ended) == 2
    assert len(ended) == 5
