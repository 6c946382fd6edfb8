"""What happens in a sweep, told to listeners: the live view, the MLflow mirror, the run's own summary.

Tune lets an exception in a callback abort the whole sweep; so every listener is guarded here, and only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune

from rayscale.sweep.searcher import POSTPONED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptEnd:
    """The end of an attempt as the slot reported it.

    Attributes:
        trial_key: The trial.
        device: The slot.
        completed: Whether a record was accepted.
        attempt: Number of the attempt; None if the slot died.
        reason: Failure code, None if completed.
        detail: Failure in words, None if completed.
        verdict: Quality of the record.
        perplexity: Held-out perplexity.
        train_s: Duration of the training phase. Units: s.
        energy_j: Energy of the training phase. Units: J.
        energy_estimated: Whether it is an estimate.
    """

    trial_key: str
    device: str
    completed: bool
    attempt: int | None = None
    reason: str | None = None
    detail: str | None = None
    verdict: str | None = None
    perplexity: float | None = None
    train_s: float | None = None
    energy_j: float | None = None
    energy_estimated: bool | None = None


class Listener(Protocol):
    """Somebody who wants to know."""

    def started(self, trial_key: str, device: str) -> None:
        """An attempt starts."""

    def ended(self, end: AttemptEnd) -> None:
        """An attempt ended."""


class SweepCallback(tune.Callback):
    """Translates Tune's events."""

    def __init__(self, listeners: list[Listener]) -> None:
        """Tell these listeners, in this order."""
        self._listeners = listeners

    def __reduce__(self) -> tuple[type[SweepCallback], tuple[list[Listener]]]:
        """Leave the listeners out when Tune pickles its own state, which is never restored."""
        return SweepCallback, ([],)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that an attempt starts."""
        self._tell(lambda listener: listener.started(trial.config["trial_key"], trial.config["device"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell what the slot reported; an attempt that was handed back unbegun will be told when it begins."""
        result = trial.last_result or {}
        if result.get("outcome") not in (None, POSTPONED):  # None: it waited for a device that is gone
            self._tell(lambda listener: listener.ended(_attempt_end(trial.config, result)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that the slot itself died."""
        error = trial.get_error()
        detail = str(error).strip().splitlines()[-1] if error and str(error).strip() else "its process ended"
        result = {"outcome": "failed", "reason": "slot_died", "detail": detail}
        self._tell(lambda listener: listener.ended(_attempt_end(trial.config, result)))

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                tell(listener)
            except Exception:
                logger.exception("a listener of the sweep failed; the sweep goes on")


def _attempt_end(config: dict[str, Any], result: dict[str, Any]) -> AttemptEnd:
    known = ("attempt", "reason", "detail", "verdict", "perplexity", "train_s", "energy_j", "energy_estimated")
    return AttemptEnd(
        trial_key=config["trial_key"],
        device=config["device"],
        completed=result.get("outcome") == "completed",
        **{name: result.get(name) for name in known},
    )
