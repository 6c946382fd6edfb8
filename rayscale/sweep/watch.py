"""Looking after the sampler while a trial runs: a lost one is noticed, replaced, and its gap told.

    sampler's process ends        its descriptor wakes the slot at once
    stopped, hung, thread dead    silent for `SILENCE_S`: noticed by a look every `LOOK_S`

Both are written to the attempt's log with their times (`sampler_lost`, `sampler_restarted`, CLOCK_MONOTONIC), so that
what is claimed here can be checked afterwards. The energy rules find the gap in the trace itself.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rayscale.energy.sumtrace import newest_reading
from rayscale.record import Reason
from rayscale.spec import EnergySpec

if TYPE_CHECKING:
    from rayscale.energy.reader import Reading
    from rayscale.energy.sampler import SamplerStats

LOOK_S = 0.25
"""How often the slot looks at its sampler's heartbeat: a comparison of two numbers in its own memory."""


class SamplerLink(Protocol):
    """A sampler in another process."""

    @property
    def process(self) -> int | None:
        """A descriptor that becomes readable when the sampler's process ends; None where there is none."""

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        """Begin to sample, with another sampler if this one is lost; returns after the first sample."""

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace; None if it did not sample."""

    def alive(self) -> bool:
        """Whether the sampler still takes polls; must not disturb it."""

    def last(self) -> Reading | None:
        """Return the newest poll of the device's sensor; None where there is no sensor (an estimate)."""

    def close(self) -> None:
        """End sampling for good."""


def log_event(directory: Path, event: str, **values: object) -> float:
    """Append one line to an attempt's log, beside those of the trial's process.

    Args:
        directory: The attempt's directory.
        event: Name of the event.
        values: Further JSON values.

    Returns:
        The line's CLOCK_MONOTONIC time, in s.
    """
    now = time.monotonic()
    line = json.dumps({"event": event, "t": now, **values}) + "\n"
    # Opened for appending and written at once: lines of two processes do not mix.
    with (directory / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)
    return now


@dataclass
class SamplerWatch:
    """Watches the sampler of one attempt.

    Attributes:
        sampler: The sampler.
        spec: How it samples.
        device_uuid: What it samples.
        pid: The trial's process.
        directory: The attempt's directory.
        notes: Reasons for the verdict, found so far.
    """

    sampler: SamplerLink
    spec: EnergySpec
    device_uuid: str | None
    pid: int
    directory: Path
    notes: list[Reason] = field(default_factory=list)
    _given_up: bool = False

    def descriptors(self) -> list[int]:
        """Return what to wait for beside the trial: it wakes when the sampler's process ends."""
        process = None if self._given_up else self.sampler.process
        return [] if process is None else [process]

    def look(self) -> None:
        """Replace the sampler if it is lost."""
        if not self._given_up and not self.sampler.alive():
            self._replace()

    def _replace(self) -> None:
        last = _last_sample_s(self.directory)
        noticed = log_event(self.directory, "sampler_lost", last_sample=last)
        try:
            self.sampler.start(self.spec, self.device_uuid, self.pid, self.directory)
        except Exception as error:  # Ray's, the driver's, the file system's: the trial goes on without power
            self._given_up = True
            detail = f"the power sampler was lost and did not come back: {first_line(error)}"
            self.notes.append(Reason(code="sampler_died", detail=detail, verdict="invalid"))
            return
        back = log_event(self.directory, "sampler_restarted")
        gap = "" if last is None else f"; no samples for {back - last:.2f} s"
        detail = f"the power sampler was lost during the trial and replaced within {back - noticed:.2f} s{gap}"
        self.notes.append(Reason(code="sampler_restarted", detail=detail))


def _last_sample_s(directory: Path) -> float | None:
    try:
        reading = newest_reading(directory)
    except (OSError, ValueError):
        return None
    return reading.t if reading else None


def first_line(error: Exception) -> str:
    """Return an error's first line, or its kind where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
