"""Slots handed on, attempts forgotten, and a step's work that does not grow with the number of trials."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.search import Searcher
from ray.tune.utils.object_cache import _ObjectCache

from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.specfile import parse_spec
from rayscale.sweep.devices import FixedFleet, SlotDevice
from rayscale.sweep.events import AttemptEnd
from rayscale.sweep.progress import Progress
from rayscale.sweep.scheduler import KEPT, REMEMBERED, USED, FleetScheduler
from rayscale.sweep.searcher import BlockSearcher

SPEC = """\
name: x
design: {{factors: {{tokens: [1, 2]}}, repetitions: {repetitions}}}
model: {{config: {{}}}}
data: {{synthetic: {{}}, sequence_length: 8}}
"""


@dataclass(eq=False)
class Attempt:
    """What the scheduler sees of a Tune trial."""

    trial_id: str
    config: dict[str, Any]
    status: str = "PENDING"
    prepared: bool = False

    @property
    def placement_group_factory(self) -> str:
        return str(self.config["device"])

    @placement_group_factory.setter
    def placement_group_factory(self, value: str) -> None:
        assert value == self.config["device"]

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")

    def init_local_path(self) -> None:
        self.prepared = True


@dataclass
class Loop:
    """What the scheduler uses of Tune's loop, with the same rules for keeping a slot's actor."""

    scheduler: FleetScheduler
    trials: list[Attempt] = field(default_factory=list)
    requested: list[Attempt] = field(default_factory=list)
    _staged_trials: set[Attempt] = field(default_factory=set)
    _actor_cache: _ObjectCache = field(default_factory=_ObjectCache)
    _trial_to_actor: dict[Attempt, str] = field(default_factory=dict)
    _pending_trials_list: list[Attempt] = field(default_factory=list)
    _stopped_trials: set[Attempt] = field(default_factory=set)
    _live_trials: set[Attempt] = field(default_factory=set)
    _trial_metadata: dict[str, str] = field(default_factory=dict)
    _actor_manager: Any = field(
        default_factory=lambda: SimpleNamespace(_resource_request_to_pending_actors=defaultdict(list))
    )

    def get_trials(self) -> list[Attempt]:
        return self.trials

    def add(self, trial: Attempt) -> None:
        self.trials.append(trial)
        self._live_trials.add(trial)
        self._trial_metadata[trial.trial_id] = "9 KB"
        self.scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]
        self._pending_trials_list.append(trial)

    def step(self) -> list[Attempt]:
        """Give slots to those that wait; returns those that begin."""
        began = []
        chosen = self.scheduler.choose_trial_to_run(self)
        for trial in [chosen, *self._pending_trials_list] if chosen else list(self._pending_trials_list):
            if trial.status != "PENDING" or trial in self._trial_to_actor:
                continue
            kept = self._actor_cache.pop_cached_object(trial.placement_group_factory)
            if kept is None and trial in self._staged_trials:
                continue
            if kept is None:
                self.requested.append(trial)
            elif trial in self._staged_trials:
                self._staged_trials.remove(trial)
                self._actor_cache.decrease_max(trial.placement_group_factory)
            self._trial_to_actor[trial] = kept or f"slot of {trial.config['device']}"
            trial.status = "RUNNING"
            began.append(trial)
        self._pending_trials_list.clear()
        return began

    def end(self, trial: Attempt, error: bool = False) -> None:
        if error:
            self.scheduler.on_trial_error(self, trial)  # type: ignore[arg-type]
        else:
            self.scheduler.on_trial_complete(self, trial, {})  # type: ignore[arg-type]
        trial.status = "ERROR" if error else "TERMINATED"
        self._live_trials.discard(trial)
        self._stopped_trials.add(trial)
        actor = self._trial_to_actor.pop(trial)
        if not error:
            self._actor_cache.cache_object(trial.placement_group_factory, actor)

    def stop_trial(self, trial: Attempt) -> None:
        self.scheduler.on_trial_remove(self, trial)  # type: ignore[arg-type]
        trial.status = "TERMINATED"


def two_on_one_device() -> tuple[Loop, Attempt, Attempt]:
    loop = Loop(FleetScheduler(SimpleNamespace(abandoned=set())))  # type: ignore[arg-type]
    first, second = Attempt("a", {"device": "gpu:1"}), Attempt("b", {"device": "gpu:1"})
    loop.add(first)
    assert loop.step() == [first]
    loop.add(second)
    return loop, first, second


def test_a_staged_attempt_takes_the_slot_of_the_one_before_without_a_request() -> None:
    loop, first, second = two_on_one_device()
    assert loop.step() == []
    assert second.prepared
    loop.end(first)
    assert loop.step() == [second]
    assert loop.requested == [first]
    assert not loop._staged_trials


def test_behind_a_dead_slot_a_new_one_is_requested() -> None:
    loop, first, second = two_on_one_device()
    loop.end(first, error=True)
    assert loop.step() == [second]
    assert loop.requested == [first, second]
    assert not loop._staged_trials
    assert loop._actor_cache.total_max_objects == 0


def test_an_attempt_behind_one_that_ended_unheard_is_not_forgotten() -> None:
    loop, first, second = two_on_one_device()
    first.status = "ERROR"  # none of the scheduler's methods was called
    assert [*loop.step(), *loop.step()] == [second]


def test_a_held_attempt_of_a_lost_device_is_stopped() -> None:
    loop, _, second = two_on_one_device()
    loop.scheduler._searcher.abandoned.add("b")
    assert loop.step() == []
    assert second.status == "TERMINATED"
    assert not loop._staged_trials
    assert loop._actor_cache.total_max_objects == 0


def test_without_what_it_uses_of_tune_attempts_are_staged_as_tune_does_it() -> None:
    scheduler = FleetScheduler(SimpleNamespace(abandoned=set()))  # type: ignore[arg-type]
    loop = SimpleNamespace(get_trials=lambda: trials)
    trials = [Attempt("a", {"device": "gpu:1"}), Attempt("b", {"device": "gpu:1"})]
    for trial in trials:
        scheduler.on_trial_add(loop, trial)  # type: ignore[arg-type]
    assert scheduler.choose_trial_to_run(loop) is trials[0]
    trials[0].status = "RUNNING"
    assert scheduler.choose_trial_to_run(loop) is trials[1]


def test_the_installed_tune_has_what_is_used() -> None:
    source = inspect.getsource(TuneController.__init__)
    assert [name for name in (*USED, *REMEMBERED, "_trial_metadata") if f"self.{name}" not in source] == []


def run(plan: Plan, directory: Path, devices: int) -> Loop:
    """Drive searcher, scheduler and live state to the end of a sweep, as Tune does."""
    fleet = FixedFleet(tuple(SlotDevice(f"gpu:{index}", None, "") for index in range(devices)))
    searcher = BlockSearcher(plan.blocks(), fleet, 2)
    loop, progress = Loop(FleetScheduler(searcher)), Progress(plan, Ledger(directory))
    running: list[Attempt] = []
    names = itertools.count()
    for _ in range(5 * len(plan.trials)):
        while isinstance(config := searcher.suggest(name := f"t{next(names)}"), dict):
            loop.add(Attempt(name, config))
        if config == Searcher.FINISHED and not running:
            return loop
        for trial in loop.step():
            searcher.attempt_started(trial.trial_id)
            progress.started_attempt(trial.config["trial_key"], trial.config["device"])
            running.append(trial)
        trial = running.pop(0)
        loop.end(trial)
        searcher.on_trial_complete(trial.trial_id, {"outcome": "completed"})
        progress.ended_attempt(AttemptEnd(trial.config["trial_key"], trial.config["device"], True, energy_j=1.0))
    pytest.fail("the sweep never ended")


def operations(plan: Plan, directory: Path, devices: int) -> float:
    """Count the bytecode operations per trial in our own part of the loop: unlike times, the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if "rayscale/sweep" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(plan, directory, devices)
    finally:
        sys.settrace(before)
    return count / len(plan.trials)


def planned(trials: int) -> Plan:
    return plan_sweep(parse_spec(SPEC.format(repetitions=trials // 2), "x.yaml"))


def test_the_work_per_trial_does_not_grow_with_the_number_of_trials(tmp_path: Path) -> None:
    few, many = (operations(planned(trials), tmp_path, 8) for trials in (100, 2000))
    assert many <= 1.5 * few


def test_the_work_per_trial_hardly_grows_with_the_number_of_devices(tmp_path: Path) -> None:
    few, many = (operations(planned(600), tmp_path, devices) for devices in (8, 64))
    assert many <= 1.5 * few


def test_tune_remembers_a_bounded_number_of_attempts(tmp_path: Path) -> None:
    loop = run(planned(2000), tmp_path, 8)
    assert len(loop.trials) <= KEPT + 2 * 8
    assert len(loop._stopped_trials) <= KEPT + 2 * 8
    assert len(loop._trial_metadata) <= KEPT + 2 * 8
