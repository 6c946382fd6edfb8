"""What the searcher has to do with Tune's loop beyond suggesting: hear of starts, stop what waits for a lost device."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from rayscale.sweep.searcher import BlockSearcher


class FleetScheduler(FIFOScheduler):
    """Runs attempts in the order of the searcher, except those that it has abandoned: Tune would wait for ever."""

    def __init__(self, searcher: BlockSearcher) -> None:
        """Look after what `searcher` abandons."""
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Stop the abandoned attempts that have not begun; those that run end with their node.

        Args:
            tune_controller: Tune's loop.

        Returns:
            The oldest attempt that waits.
        """
        if self._searcher.abandoned:
            for trial in tune_controller.get_trials():
                if trial.trial_id in self._searcher.abandoned and trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
            self._searcher.abandoned.clear()
        return super().choose_trial_to_run(tune_controller)


class StartNotice(Callback):
    """Tells the searcher that an attempt has begun."""

    def __init__(self, searcher: BlockSearcher) -> None:
        """Tell `searcher`."""
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass it on."""
        self._searcher.attempt_started(trial.trial_id)
