"""States of trials and sweeps as a ledger tells them: why an attempt failed, how far a sweep is."""

from __future__ import annotations

from dataclasses import dataclass

INTERRUPTED = "interrupted"
"""Reason of an attempt that did not fail: its run was stopped or killed, and the trial is still to do."""

STOP_DECISIONS = ("efficacy", "halfwidth")
"""Decisions of a look that end a sweep early."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        reason: Stable code: `diverged`, `crashed`, `killed`, `out_of_memory`, `time_limit`, `wrong_device`,
            `invalid_energy`, `interrupted`.
        detail: One sentence for the user.
        at: Wall clock, ISO 8601.
    """

    reason: str
    detail: str
    at: str


@dataclass(frozen=True)
class Status:
    """How far a sweep is; counts of trials of the current plan.

    `stopped` says which look of `design.stop` ended it (None: none did); trials not run then are `not_needed`.
    """

    planned: int
    completed: int
    failed: int
    running: int
    pending: int
    suspect: int
    invalid: int
    attempts: int
    not_needed: int = 0
    stopped: str | None = None
