"""Progress of a training loop: when to log, how fast it is, and the first loss that is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rayscale.training.order import Budget
from rayscale.training.results import Diverged, StepLog

if TYPE_CHECKING:
    import torch


class ProgressLog:
    """Decides when to log, computes speeds, and looks at every loss once for divergence."""

    def __init__(self, budget: Budget, period: float, on_log: Callable[[StepLog], None], first: int = 0) -> None:
        """Begin.

        Args:
            budget: The budget.
            period: Time between logs, in s.
            on_log: Receives them.
            first: Index of the first step.
        """
        self._budget, self._period, self._on_log = budget, period, on_log
        self._begin = self._last = time.monotonic()
        self._last_tokens, self._checked = first * budget.step_tokens, first

    def due(self, now: float) -> bool:
        """Whether it is time to log.

        Args:
            now: CLOCK_MONOTONIC, in s.
        """
        return now - self._last >= self._period

    def check(self, step: int, losses: torch.Tensor) -> None:
        """Look at the losses that nobody has looked at yet.

        Args:
            step: Index of the last step taken.
            losses: Of all steps.

        Raises:
            Diverged: If one is NaN or infinite.
        """
        for index, loss in enumerate(losses[self._checked : step + 1].tolist(), start=self._checked):
            if not math.isfinite(loss):
                raise Diverged(index, index * self._budget.step_tokens)
        self._checked = step + 1

    def log(self, step: int, loss: float, now: float) -> None:
        """Tell how far training is.

        Args:
            step: Index of the last step taken.
            loss: Its loss.
            now: CLOCK_MONOTONIC, in s.
        """
        tokens = step * self._budget.step_tokens + self._budget.targets(step)
        speed = (tokens - self._last_tokens) / max(now - self._last, 1e-9)
        self._last, self._last_tokens = now, tokens
        self._on_log(StepLog(step + 1, self._budget.steps, tokens, loss, speed, now - self._begin))
