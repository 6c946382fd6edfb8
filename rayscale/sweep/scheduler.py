"""What the searcher has to do with Tune's loop beyond suggesting: hear of starts, hand slots on, forget what is over.

Tune by itself looks at all trials in each of its steps, and requests a placement group and an actor for every attempt
that waits, only to take them back when the slot of the attempt before is free. Here an attempt that is staged behind a
running one is *held*: it counts as staged, so that Tune keeps the slot's actor for it, and nothing is requested.

    added ── slot of its device busy? ──▶ held ── the one before completed ──▶ takes its slot
                       │                        └─ the slot died ────────────▶ gets a new slot
                       └── no ──▶ Tune requests a slot

Finished attempts are forgotten in batches. So a step's work does not grow with the number of trials.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

from rayscale.sweep.searcher import BlockSearcher

KEPT = 200
"""Finished attempts that Tune may remember before they are forgotten together."""
USED = ("_staged_trials", "_actor_cache", "_actor_manager", "_trial_to_actor", "_pending_trials_list")
"""What is used of Tune's loop beyond its interface to schedulers; without it attempts are staged as Tune does it."""
REMEMBERED = ("_stopped_trials", "_failed_trials", "_trials_to_cache", "_live_trials")
"""Sets of Tune's loop that hold attempts for good."""


class FleetScheduler(FIFOScheduler):
    """Runs attempts in the order of the searcher, except those that it has abandoned: Tune would wait for ever."""

    def __init__(self, searcher: BlockSearcher) -> None:
        """Look after what `searcher` abandons."""
        super().__init__()
        self._searcher = searcher
        self._resources: dict[str, Any] = {}
        self._latest: dict[str, Trial] = {}
        self._held: dict[str, tuple[Trial, Trial]] = {}
        self._waiting: deque[Trial] = deque()
        self._forget_at = KEPT
        self._touched: tuple[list[Any], list[Any]] = ([], [])

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Hold an attempt whose device has a slot that is busy with the one before.

        Args:
            tune_controller: Tune's loop.
            trial: The attempt.
        """
        loop = _unwrapped(tune_controller)
        device = str(trial.config["device"])
        trial.placement_group_factory = self._same_object(device, trial.placement_group_factory)
        before, self._latest[device] = self._latest.get(device), trial
        if before is None or before.is_finished() or not all(hasattr(loop, name) for name in USED):
            self._waiting.append(trial)
            return
        self._held[device] = trial, before
        trial.init_local_path()  # Tune does it where it requests a slot, and asks for the path at the end
        loop._staged_trials.add(trial)
        loop._actor_cache.increase_max(trial.placement_group_factory)
        self._touched[0].append(before.placement_group_factory)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let the attempt that was held behind this one take its slot.

        Args:
            tune_controller: Tune's loop.
            trial: What has completed.
            result: Its last result.
        """
        self._touched[0].append(trial.placement_group_factory)
        held = self._behind(trial)
        if held is not None:
            self._waiting.appendleft(held)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Let the attempt that was held behind this one have a slot of its own, since this slot is dead.

        Args:
            tune_controller: Tune's loop.
            trial: What has failed.
        """
        held = self._behind(trial)
        if held is not None:
            self._request(_unwrapped(tune_controller), held)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Take note that an attempt is stopped before it began.

        Args:
            tune_controller: Tune's loop.
            trial: The attempt.
        """
        held, _ = self._held.get(str(trial.config["device"]), (None, None))
        if held is trial:
            del self._held[str(trial.config["device"])]
            _unstage(_unwrapped(tune_controller), trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Stop the abandoned attempts that have not begun; those that run end with their node.

        Args:
            tune_controller: Tune's loop.

        Returns:
            The oldest attempt that waits for a slot.
        """
        loop = _unwrapped(tune_controller)
        if self._searcher.abandoned:
            for trial in list(loop.get_trials()):
                if trial.trial_id in self._searcher.abandoned and trial.status == Trial.PENDING:
                    loop.stop_trial(trial)
            self._searcher.abandoned.clear()
        self._forget(loop)
        self._tidy(loop)
        self._look_after_one(loop)
        has_slot = getattr(loop, "_trial_to_actor", {})
        while self._waiting and (self._waiting[0].status != Trial.PENDING or self._waiting[0] in has_slot):
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None

    def _same_object(self, device: str, resources: Any) -> Any:
        """Give all attempts of a device one object: Tune looks its resources up often, and comparing two is slow."""
        if self._resources.get(device) != resources:
            self._resources[device] = resources
        return self._resources[device]

    def _behind(self, trial: Trial) -> Trial | None:
        """Return the attempt that is held behind this one, and hold it no longer."""
        device = str(trial.config["device"])
        held, before = self._held.get(device, (None, None))
        if before is not trial:
            return None
        del self._held[device]
        return held

    def _request(self, loop: Any, trial: Trial) -> None:
        _unstage(loop, trial)
        loop._pending_trials_list.append(trial)

    def _look_after_one(self, loop: Any) -> None:
        """See to one held attempt per step, so that none waits for ever behind one that ended unheard."""
        if self._held:
            device = next(iter(self._held))
            held, before = self._held.pop(device)
            if before.is_finished():
                self._request(loop, held)
            else:
                self._held[device] = held, before

    def _tidy(self, loop: Any) -> None:
        """Drop the empty lists that Tune keeps for every device's resources and goes through in every step.

        It makes one of them in the step in which an attempt is added, after this; so they are dropped a step later.
        """
        requests = getattr(getattr(loop, "_actor_manager", None), "_resource_request_to_pending_actors", {})
        cached = getattr(getattr(loop, "_actor_cache", None), "_cached_objects", {})
        for resources, lists in itertools.product(self._touched[1], (requests, cached)):
            if resources in lists and not lists[resources]:
                del lists[resources]
        self._touched = ([], self._touched[0])

    def _forget(self, loop: Any) -> None:
        """Have Tune forget what is over: it would keep some 60 KB for each, and go through all of them."""
        trials = loop.get_trials()
        if len(trials) < self._forget_at:
            return
        has_slot = getattr(loop, "_trial_to_actor", {})
        over = {trial for trial in trials if trial.is_finished() and trial not in has_slot}
        trials[:] = [trial for trial in trials if trial not in over]
        for name in REMEMBERED:
            getattr(loop, name, set()).difference_update(over)
        for trial in over:
            getattr(loop, "_trial_metadata", {}).pop(trial.trial_id, None)
        self._forget_at = len(trials) + KEPT


def _unwrapped(tune_controller: Any) -> Any:
    """Return Tune's loop itself; schedulers are given a wrapper that warns of most names."""
    return getattr(tune_controller, "_tune_controller", tune_controller)


def _unstage(loop: Any, trial: Trial) -> None:
    """Take back what was said about a held attempt."""
    if trial in loop._staged_trials:
        loop._staged_trials.remove(trial)
        loop._actor_cache.decrease_max(trial.placement_group_factory)


class StartNotice(TrialProgressCallback):
    """Tells the searcher that an attempt has begun.

    It takes the place of Tune's printer of results, which would remember every attempt for good.
    """

    def __init__(self, searcher: BlockSearcher) -> None:
        """Tell `searcher`."""
        super().__init__()
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass it on."""
        self._searcher.attempt_started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], *args: Any, **info: Any
    ) -> None:
        """Print nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Print nothing."""

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Print nothing."""
