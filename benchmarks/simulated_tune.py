"""Tune's real loop over a simulated Ray: 100 nodes x 8 GPUs, trials that end when a simulated clock says so.

All that runs in the driver is the real code: our searcher, scheduler and callbacks, Tune's `TuneController`, Ray's
actor, event and placement-group managers. Replaced are the names by which those managers reach Ray itself: futures,
actors and placement groups are entries of one heap here. So what is measured is the driver's own work per trial; what
Ray's C++ core adds (messages to the head, processes) is not in it.

    Tune ── ray.wait ──▶ heap of (time, future) ── earliest ──▶ Tune      the clock jumps there
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

START_S = 5.0
"""Simulated start of a slot. Units: s."""
RESET_S = 0.1
"""Simulated reset of a slot. Units: s."""

Outcome = Callable[[dict[str, Any]], tuple[float, dict[str, Any]]]
"""From an attempt's config to its duration in s and what its slot reports."""


@dataclass(eq=False)
class Future:
    """What stands for an `ObjectRef`: its value is there once the clock has reached it."""

    value: Any = None


@dataclass
class SimulatedRay:
    """Futures, actors and placement groups on a simulated clock, under the names that Ray's managers use.

    Attributes:
        outcome: How long an attempt takes and what it reports.
        now: The clock. Units: s.
        calls: How often each of Ray's functions was asked for.
        most_waited_for: The most futures that `ray.wait` was given.
    """

    outcome: Outcome
    now: float = 0.0
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_waited_for: int = 0
    _due: list[tuple[float, int, Future]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _ended: dict[Future, None] = field(default_factory=dict)
    _waiting: dict[str, deque[Group]] = field(default_factory=lambda: defaultdict(deque))
    _holding: dict[str, Group | None] = field(default_factory=dict)

    def later(self, seconds: float, value: Any) -> Future:
        """Make a future that is there after some simulated seconds."""
        future = Future(value)
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), future))
        return future

    # -- what Ray's managers call -------------------------------------------------------------------------------------

    def wait(self, futures: list[Future], num_returns: int, timeout: float | None) -> tuple[list[Future], list[Future]]:
        """Stand for `ray.wait`: with time to wait, the clock jumps to the next event."""
        self.calls["wait"] += 1
        self.most_waited_for = max(self.most_waited_for, len(futures))
        wanted = set(futures)
        if timeout != 0:
            for future in [one for one in self._ended if one not in wanted]:
                del self._ended[future]  # given up meanwhile
            if not self._ended and self._due:
                self.now = max(self.now, self._due[0][0])
        while self._due and self._due[0][0] <= self.now:
            self._ended[heapq.heappop(self._due)[2]] = None
        ready = list(itertools.islice((one for one in self._ended if one in wanted), num_returns))
        return ready, []

    def get(self, future: Future) -> Any:
        """Stand for `ray.get`."""
        self.calls["get"] += 1
        self._ended.pop(future, None)
        return future.value() if callable(future.value) else future.value

    def cancel(self, future: Future) -> None:
        """Stand for `ray.cancel`."""
        self._ended.pop(future, None)

    def kill(self, actor: object) -> None:
        """Stand for `ray.kill`."""
        self.calls["kill"] += 1

    def remote(self, cls: type) -> ActorClass:
        """Stand for `ray.remote` on a class."""
        return ActorClass(self)

    def is_initialized(self) -> bool:
        """Stand for `ray.is_initialized`."""
        return True

    def group(self, bundles: list[dict[str, float]], strategy: str = "PACK", *args: Any, **kwargs: Any) -> Group:
        """Stand for `placement_group`: it is there when the device that its first bundle names is free."""
        self.calls["group"] += 1
        key = next(name for name in bundles[0] if ":" in name)
        made = Group(key)
        if self._holding.get(key) is None:
            self._hold(key, made)
        else:
            self._waiting[key].append(made)
        return made

    def _hold(self, key: str, group: Group) -> None:
        self._holding[key] = group
        heapq.heappush(self._due, (self.now + RESET_S, next(self._numbers), group.future))

    def remove_group(self, group: Group) -> None:
        """Stand for `remove_placement_group`: the next one that waits for the device gets it."""
        self.calls["remove_group"] += 1
        waiting = self._waiting[group.key]
        if self._holding.get(group.key) is not group:
            waiting.remove(group)
        elif waiting:
            self._hold(group.key, waiting.popleft())
        else:
            self._holding[group.key] = None


class Group:
    """A placement group that claims one device."""

    def __init__(self, key: str) -> None:
        """Claim the device `key`."""
        self.key, self.future = key, Future()

    def ready(self) -> Future:
        """Return the future that is there once the device is."""
        return self.future


class ActorClass:
    """Stands for a remote class."""

    def __init__(self, sim: SimulatedRay) -> None:
        """Belong to `sim`."""
        self._sim = sim

    def options(self, **options: Any) -> ActorClass:
        """Take any options."""
        return self

    def remote(self, *, config: dict[str, Any], **kwargs: Any) -> Actor:
        """Start a slot."""
        self._sim.calls["actor"] += 1
        return Actor(self._sim, config)


class Actor:
    """Stands for a slot's actor."""

    def __init__(self, sim: SimulatedRay, config: dict[str, Any]) -> None:
        """Begin with `config`, the first attempt's."""
        self._sim, self._config = sim, config
        self.__ray_ready__ = SimpleNamespace(remote=lambda: sim.later(START_S, None))
        self.train = SimpleNamespace(remote=self._train)
        self.get_auto_filled_metrics = SimpleNamespace(remote=lambda **kwargs: None)
        self.reset = SimpleNamespace(remote=self._reset)
        self.stop = SimpleNamespace(remote=lambda: sim.later(RESET_S, None))

    def _train(self) -> Future:
        self._sim.calls["train"] += 1
        seconds, reported = self._sim.outcome(self._config)
        return self._sim.later(seconds, {**reported, **_added_by_tune(self._config, seconds), "done": True})

    def _reset(self, config: dict[str, Any], **kwargs: Any) -> Future:
        self._config = config
        return self._sim.later(RESET_S, True)


def _added_by_tune(config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Add what `Trainable.train` adds to every result."""
    now = datetime.now()
    return {
        "training_iteration": 1,
        "trial_id": "default",
        "date": now.strftime("%Y-%m-%d_%H-%M-%S"),
        "timestamp": int(now.timestamp()),
        "time_this_iter_s": seconds,
        "time_total_s": seconds,
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "node_ip": "127.0.0.1",
        "config": config,
        "time_since_restore": seconds,
        "iterations_since_restore": 1,
    }


@contextmanager
def in_place_of_ray(sim: SimulatedRay) -> Iterator[None]:
    """Let Ray's managers reach `sim` by the names by which they reach Ray."""
    from ray.air.execution._internal import actor_manager, event_manager
    from ray.air.execution.resources import placement_group, request

    stand_in = SimpleNamespace(
        wait=sim.wait,
        get=sim.get,
        cancel=sim.cancel,
        kill=sim.kill,
        remote=sim.remote,
        ObjectRef=Future,
        is_initialized=sim.is_initialized,
        actor=SimpleNamespace(ActorClass=ActorClass),
        util=SimpleNamespace(remove_placement_group=sim.remove_group),
    )
    wanted: list[tuple[Any, str, Any]] = [(module, "ray", stand_in) for module in (actor_manager, event_manager)]
    wanted += [
        (placement_group, "ray", stand_in),
        (placement_group, "remove_placement_group", sim.remove_group),
        (placement_group, "PlacementGroupSchedulingStrategy", SimpleNamespace),
        (request, "placement_group", sim.group),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    try:
        for module, name, value in wanted:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
