"""The simulated Ray keeps Ray's promises: results in the order of time, one placement group per device."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulated_tune import Actor, Future, Group, SimulatedRay


def ray_of(seconds: float = 60.0) -> SimulatedRay:
    return SimulatedRay(lambda config: (seconds, {"outcome": "completed", "trial_key": config["trial_key"]}))


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_what_ends_first_is_ready_first_and_the_clock_never_goes_back(seconds: list[float]) -> None:
    sim = ray_of()
    waiting = [sim.later(one, one) for one in seconds]
    got, clock = [], []
    while waiting:
        (ready,), _ = sim.wait(waiting, 1, 0.1)
        waiting.remove(ready)
        got.append(sim.get(ready))
        clock.append(sim.now)
    assert got == sorted(seconds)
    assert all(earlier <= later for earlier, later in itertools.pairwise(clock))


def test_without_time_to_wait_the_clock_stands_still() -> None:
    sim = ray_of()
    future = sim.later(1.0, None)
    assert sim.wait([future], 1, 0) == ([], [])
    assert sim.now == 0.0


def test_a_device_is_held_by_one_group_at_a_time() -> None:
    sim = ray_of()
    first, second = (sim.group([{"CPU": 1.0, "gpu:GPU-1": 1.0}, {"CPU": 0.1}]) for _ in range(2))
    assert _ready(sim, first, second) == [first.future]
    sim.remove_group(first)
    assert _ready(sim, second) == [second.future]


def test_an_actor_reports_what_the_outcome_says_of_its_latest_config() -> None:
    sim = ray_of(60.0)
    actor = Actor(sim, {"trial_key": "a"})
    sim.wait([actor.reset.remote({"trial_key": "b"})], 1, 0.1)
    future = actor.train.remote()
    sim.wait([future], 1, 0.1)
    result = sim.get(future)
    assert (result["trial_key"], result["done"], round(sim.now)) == ("b", True, 60)


def _ready(sim: SimulatedRay, *groups: Group) -> list[Future]:
    ready, _ = sim.wait([group.ready() for group in groups], len(groups), 0.1)
    return ready
