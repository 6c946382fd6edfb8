"""One attempt in a slot: fork, sample, wait, join the power trace, accept or refuse. No Ray in here.

    slot      fork ── start sampler ── go ─────────── wait ──────────── stop sampler ── record.json | failure.json
    child      └ (blocked) ─────────────┴ idle load ... train eval ┘
    sampler                └ samples ──────────────────────────────────────┘

A trial that crashes, is killed, hangs or diverges leaves a failure with its reason; the slot goes on.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rayscale.attempt import TrialJob, TrialOutcome, assemble_record
from rayscale.design import Trial
from rayscale.ledger import Failure, Ledger
from rayscale.record import Reason, Record
from rayscale.spec import EnergySpec
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.trial import run_in_child

if TYPE_CHECKING:
    from rayscale.energy.sampler import SamplerStats
    from rayscale.training.data import PreparedData

LIVENESS_PERIOD_S = 1.0
"""How often the slot looks after its sampler: a dead one is noticed within 2 s."""


EXIT_TIMEOUT_S = 10.0
"""How long a child that is done may take to go."""


class SamplerLink(Protocol):
    """A sampler in another process."""

    def start(self, spec: EnergySpec, device_uuid: str | None, pid: int, directory: Path) -> None:
        """Begin to sample; returns after the first sample."""

    def stop(self) -> SamplerStats | None:
        """End sampling and complete the trace; None if the sampler is dead."""

    def alive(self) -> bool:
        """Whether the sampler still answers."""

    def temperature_c(self) -> float | None:
        """Return the device's last temperature. Units: degrees Celsius."""


@dataclass
class SlotHost:
    """What a slot keeps between trials.

    Attributes:
        ledger: The sweep's ledger.
        forks: The preloaded fork server.
        sampler: The slot's sampler.
        device: Where the slot trains.
        tflops_bench: Matrix-product rate of the device.
        block_temperature_c: Temperature at the start of each block, for settling.
    """

    ledger: Ledger
    forks: ForkServer
    sampler: SamplerLink
    device: SlotDevice
    tflops_bench: float | None
    block_temperature_c: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended.

    Attributes:
        trial_key: The trial.
        attempt: Number of the attempt.
        record: The accepted record; None if the attempt failed.
        failure: Why it failed; None if it was accepted.
    """

    trial_key: str
    attempt: int
    record: Record | None
    failure: Failure | None


def run_attempt(host: SlotHost, trial: Trial, data: PreparedData, *, last_try: bool) -> AttemptResult:
    """Run one attempt and write its outcome to the ledger.

    Args:
        host: The slot.
        trial: The trial.
        data: Its corpus.
        last_try: Accept a record with an invalid energy (flagged) instead of asking for another attempt.

    Returns:
        The accepted record, or the failure.
    """
    attempt = host.ledger.new_attempt(trial.trial_key)
    job = TrialJob(
        sweep=host.ledger.name,
        trial=trial,
        attempt=attempt,
        directory=host.ledger.attempt_directory(trial.trial_key, attempt),
        data=data,
        device_uuid=host.device.uuid,
        slot=host.device.name,
        tflops_bench=host.tflops_bench,
    )
    here, there = host.forks.pipe()
    process = host.forks.fork(run_in_child, job, there)
    there.close()
    try:
        failure, notes, stats = _supervise(host, job, process, here)
        if failure is None:
            result = _accept(host, job, stats, notes, last_try=last_try)
        else:
            result = AttemptResult(trial.trial_key, attempt, None, failure)
        if result.failure:
            host.ledger.write_failure(trial.trial_key, attempt, result.failure)
    finally:
        here.close()
        _await_exit(process)
    return result


def _await_exit(process: ForkServerProcess) -> None:
    """See to it that the device is free before the next trial."""
    process.join(EXIT_TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()


def _supervise(
    host: SlotHost, job: TrialJob, process: ForkServerProcess, go: Connection
) -> tuple[Failure | None, list[Reason], SamplerStats | None]:
    """Sample while the child trains."""
    pid = process.pid
    if pid is None:
        return _failure("crashed", "the trial process did not start"), [], None
    try:
        host.sampler.start(job.trial.spec.energy, job.device_uuid, pid, job.directory)
    except Exception as error:
        return _failure("no_sampler", f"the power sampler did not start: {_first_line(error)}"), [], None
    notes = _settle(host, job)
    go.send_bytes(b"go")
    failure, watch_notes = _wait(host, job, process, go)
    return failure, [*notes, *watch_notes], host.sampler.stop()


def _wait(
    host: SlotHost, job: TrialJob, process: ForkServerProcess, done: Connection
) -> tuple[Failure | None, list[Reason]]:
    """Wait until the child is done or gone; look after the time limit and the sampler.

    The child says when its outcome is written; the time that its memory takes to be freed is not waited for here.
    """
    limit = job.trial.spec.resources.time_limit
    deadline = time.monotonic() + limit
    notes: list[Reason] = []
    while not wait([process.sentinel, done], min(LIVENESS_PERIOD_S, max(deadline - time.monotonic(), 0.01))):
        if time.monotonic() >= deadline:
            process.kill()
            return _failure("time_limit", f"killed after {limit:g} s (resources.time_limit)"), notes
        if not host.sampler.alive():
            notes.append(_restart_sampler(host, job, process))
    return _child_failure(job, process), notes


def _restart_sampler(host: SlotHost, job: TrialJob, process: ForkServerProcess) -> Reason:
    """Bring a dead sampler back for the rest of the attempt; the gap shows in the coverage."""
    try:
        host.sampler.start(job.trial.spec.energy, job.device_uuid, process.pid or 0, job.directory)
    except Exception as error:
        detail = f"the power sampler died and did not come back: {_first_line(error)}"
        return Reason(code="sampler_died", detail=detail, verdict="invalid")
    return Reason(code="sampler_restarted", detail="the power sampler died during the trial and was restarted")


def _child_failure(job: TrialJob, process: ForkServerProcess) -> Failure | None:
    """Explain a child that left no outcome; None if it left one."""
    if (job.directory / "outcome.json").exists():
        return None
    process.join()
    exitcode = process.exitcode
    try:
        return Failure(**json.loads((job.directory / "failure.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass
    if exitcode is not None and exitcode < 0:
        hint = "; the kernel kills processes when memory runs out" if exitcode == -9 else ""
        return _failure("killed", f"the trial process was killed by signal {-exitcode}{hint}")
    return _failure("crashed", f"the trial process ended with exit code {exitcode}; see {job.directory / 'output.log'}")


def _settle(host: SlotHost, job: TrialJob) -> list[Reason]:
    """Wait until the device is back near its temperature at the block's start."""
    spec = job.trial.spec.energy.settle
    now = host.sampler.temperature_c()
    if now is None:
        return []
    reference = host.block_temperature_c.setdefault(job.trial.block, now)
    deadline = time.monotonic() + spec.timeout
    while now is not None and now > reference + spec.max_rise_c:
        if time.monotonic() > deadline:
            detail = f"{now:.0f} C after {spec.timeout:g} s, {now - reference:.0f} C above the block's start"
            return [Reason(code="temperature_not_settled", detail=detail)]
        time.sleep(0.5)
        now = host.sampler.temperature_c()
    return []


def _accept(
    host: SlotHost, job: TrialJob, stats: SamplerStats | None, notes: list[Reason], *, last_try: bool
) -> AttemptResult:
    """Turn a finished child into a record, if the device and the energy are what they should be."""
    path = job.directory / "outcome.json"
    outcome = TrialOutcome.from_json(path.read_text(encoding="utf-8"))
    key, attempt = job.trial.trial_key, job.attempt
    if job.device_uuid and outcome.device.uuid != job.device_uuid:
        detail = f"trained on {outcome.device.uuid}, sampled {job.device_uuid}"
        return AttemptResult(key, attempt, None, _failure("wrong_device", detail))
    record = assemble_record(job, outcome, stats, notes)
    if record.quality.verdict == "invalid" and not last_try:
        reasons = "; ".join(reason.detail for reason in record.quality.reasons if reason.verdict == "invalid")
        return AttemptResult(key, attempt, None, _failure("invalid_energy", reasons))
    host.ledger.write_record(record)
    path.unlink()
    return AttemptResult(key, attempt, record, None)


def _failure(reason: str, detail: str) -> Failure:
    return Failure(reason, detail, datetime.now(UTC).isoformat())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
