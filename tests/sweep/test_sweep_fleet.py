"""Devices that come and go: what the searcher does with blocks, against a simulated Tune and a simulated ledger."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher
from test_sweep_searcher import make_plan

from rayscale.design import Plan, Trial
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.searcher import BlockSearcher


def device(name: str, kind: str = "cpu") -> SlotDevice:
    return SlotDevice(name, None, name, kind, "host", "resource")


class MovingFleet:
    """Devices that a test adds and takes away."""

    capacity = 64

    def __init__(self, *names: str) -> None:
        self.now = tuple(map(device, names))

    def devices(self) -> tuple[SlotDevice, ...]:
        return self.now

    def may_grow(self) -> bool:
        return True

    def join(self, name: str, kind: str = "cpu") -> None:
        self.now = (*self.now, device(name, kind))

    def leave(self, name: str) -> None:
        self.now = tuple(one for one in self.now if one.name != name)


class World:
    """Tune, slots and the ledger in one: attempts run in the order in which they were staged."""

    def __init__(self, plan: Plan, fleet: MovingFleet, seed: int, max_attempts: int = 2) -> None:
        self.plan, self.fleet, self.rng = plan, fleet, random.Random(seed)
        self.records: dict[str, str] = {}
        self.completions: dict[str, list[str]] = defaultdict(list)
        self.returned: set[int] = set()
        self.out: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self.searcher = BlockSearcher(plan.blocks(), fleet, max_attempts, keeper=self)
        self.count = 0

    # -- keeper

    def blocks_begun(self) -> dict[int, str]:
        return {}

    def blocks_done(self) -> list[str]:
        return []

    def take_back(self, block: int, device: str) -> list[Trial]:
        trials = [trial for trial in self.plan.trials if trial.block == block]
        if all(trial.trial_key in self.records for trial in trials):
            return []
        self.returned.add(block)
        for trial in trials:
            self.records.pop(trial.trial_key, None)
        return trials

    # -- Tune

    def suggest_all(self) -> bool:
        """Ask as long as there is an answer; return whether the searcher has finished."""
        while isinstance(config := self.searcher.suggest(f"t{self.count}"), dict):
            queue = self.out[config["device"]]
            queue.append((f"t{self.count}", config))
            assert len(queue) <= 2
            if len(queue) == 1:
                self.searcher.attempt_started(f"t{self.count}")
            self.count += 1
        for trial_id in self.searcher.abandoned:  # the scheduler stops what had not begun
            for queue in self.out.values():
                queue[:] = [one for one in queue if one[0] != trial_id]
            self.searcher.on_trial_complete(trial_id)
        self.searcher.abandoned.clear()
        return config == Searcher.FINISHED

    def end_one(self, name: str, outcome: str) -> None:
        """End what runs on a device: `completed`, `failed`, `error`."""
        trial_id, config = self.out[name].pop(0)
        if outcome == "completed":
            self.records[config["trial_key"]] = name
            self.completions[config["trial_key"]].append(name)
        for waiting, _ in self.out[name]:
            self.searcher.attempt_started(waiting)
        result = None if outcome == "error" else {"outcome": outcome}
        self.searcher.on_trial_complete(trial_id, result, error=outcome == "error")

    def busy(self) -> list[str]:
        return [name for name, queue in self.out.items() if queue]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 10_000), st.integers(1, 2))
def test_whatever_comes_and_goes_each_block_ends_whole_on_one_device(
    levels: int, repetitions: int, seed: int, max_attempts: int
) -> None:
    plan, fleet = make_plan(levels, repetitions), MovingFleet("d0", "d1", "d2")
    world = World(plan, fleet, seed, max_attempts)
    for step in range(5_000):
        finished = world.suggest_all()
        busy = world.busy()
        if not busy:
            assert finished
            break
        event = world.rng.random()
        name = world.rng.choice(busy)
        if event < 0.06 and len(fleet.now) > 1 and step < 1_000:
            if world.rng.random() < 0.5:
                world.end_one(name, "error")  # often told before the node is known to be dead
            fleet.leave(name)
        elif event < 0.1 and step < 1_000:
            fleet.join(f"d{step + 3}")
        else:
            world.end_one(name, "completed")
    assert set(world.records) == {trial.trial_key for trial in plan.trials}
    for block in plan.blocks():
        assert len({world.records[trial.trial_key] for trial in block}) == 1
        if block[0].block not in world.returned:
            assert all(len(world.completions[trial.trial_key]) == 1 for trial in block)


def test_a_lost_device_gives_its_block_back_before_blocks_that_nobody_began() -> None:
    plan, fleet = make_plan(3, 6), MovingFleet("a", "b")
    world = World(plan, fleet, 0)
    world.suggest_all()
    world.end_one("b", "completed")
    world.suggest_all()
    mine = next(trial.block for trial in plan.trials if trial.trial_key in world.records)
    fleet.leave("b")
    for _ in range(3):  # a finishes its own block first
        world.suggest_all()
        world.end_one("a", "completed")
    world.suggest_all()
    running = world.out["a"][0][1]["trial_key"]
    assert next(trial for trial in plan.trials if trial.trial_key == running).block == mine
    assert world.returned == {mine}
    assert world.records.keys().isdisjoint(trial.trial_key for trial in plan.blocks()[mine])


def test_what_is_done_again_has_all_its_attempts_again() -> None:
    plan, fleet = make_plan(1, 1), MovingFleet("a", "b")
    world = World(plan, fleet, 0, max_attempts=2)
    world.suggest_all()
    first = world.busy()[0]
    world.end_one(first, "failed")
    fleet.leave(first)
    for _ in range(2):
        world.suggest_all()
        world.end_one(world.busy()[0], "failed")
    assert world.suggest_all()
    assert world.returned == {0}


def test_what_waited_for_a_lost_device_is_abandoned() -> None:
    fleet = MovingFleet("a", "b")
    world = World(make_plan(3, 4), fleet, 0)
    world.suggest_all()
    staged = [trial_id for trial_id, _ in world.out["b"]]
    assert len(staged) == 2
    fleet.leave("b")
    world.searcher.suggest("next")
    assert world.searcher.abandoned == set(staged)


def test_a_joining_device_gets_the_next_block_at_once() -> None:
    fleet = MovingFleet("a")
    world = World(make_plan(2, 4), fleet, 0)
    world.suggest_all()
    fleet.join("b")
    world.suggest_all()
    assert len(world.out["b"]) == 2


def test_blocks_are_spread_over_devices_and_over_types() -> None:
    plan, fleet = make_plan(1, 8), MovingFleet()
    for name, kind in (("a1", "A10G"), ("a2", "A10G"), ("l1", "L4"), ("l2", "L4")):
        fleet.join(name, kind)
    searcher = BlockSearcher(plan.blocks(), fleet, 1)
    kinds = {one.name: one.kind for one in fleet.now}
    first = [searcher.suggest(f"t{index}") for index in range(4)]
    names = [config["device"] for config in first if isinstance(config, dict)]
    assert len(set(names)) == 4
    assert {kinds[name] for name in names[:2]} == {"A10G", "L4"}  # both types before either has two
    assert {kinds[name] for name in names[2:]} == {"A10G", "L4"}


def test_without_any_device_the_run_waits_as_long_as_the_fleet_says() -> None:
    fleet = MovingFleet()
    searcher = BlockSearcher(make_plan(1, 1).blocks(), fleet, 1)
    assert searcher.suggest("t0") is None
    fleet.join("a")
    assert isinstance(searcher.suggest("t1"), dict)


def test_a_run_without_hope_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = MovingFleet()
    monkeypatch.setattr(fleet, "may_grow", lambda: False)
    assert BlockSearcher(make_plan(1, 1).blocks(), fleet, 1).suggest("t0") == Searcher.FINISHED


@pytest.mark.parametrize("present", [True, False])
def test_a_block_that_an_earlier_run_began_goes_on_where_it_began_or_from_its_start(present: bool) -> None:
    plan = make_plan(3, 4)

    class Begun(World):
        """Block 2 was begun on `old` by an earlier run: its first trial has a record."""

        def blocks_begun(self) -> dict[int, str]:
            self.records[plan.blocks()[2][0].trial_key] = "old"
            return {2: "old"}

    fleet = MovingFleet(*(("old", "new") if present else ("new",)))
    world = Begun(plan, fleet, 0)
    world.suggest_all()
    if present:  # before any block that nobody began
        assert world.out["old"][0][1]["trial_key"] in {trial.trial_key for trial in plan.blocks()[2]}
    for _ in range(100):
        if world.suggest_all():
            break
        world.end_one(world.busy()[0], "completed")
    where = {world.records[trial.trial_key] for trial in plan.blocks()[2]}
    assert where == ({"old"} if present else {"new"})
    assert world.returned == (set() if present else {2})
