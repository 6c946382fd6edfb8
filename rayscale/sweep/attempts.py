"""One attempt in a slot: fork, sample, wait, join the power trace, accept or refuse. No Ray in here.

    slot      fork ── start sampler ── go ─────────── wait ──────────── stop sampler ── record.json | failure.json
    child      └ (blocked) ─────────────┴ idle load ... train eval ┘
    sampler                └ samples ──────────────────────────────────────┘

A trial that crashes, is killed, hangs or diverges leaves a failure with its reason; the slot goes on.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING

from rayscale.attempt import TrialJob, TrialOutcome, assemble_record
from rayscale.design import Plan, Trial
from rayscale.ledger import Failure, Ledger
from rayscale.record import Reason, Record, Settling
from rayscale.sharing import link_trunk
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.settling import DeviceState, Settler, unsettled
from rayscale.sweep.watch import LOOK_S, SamplerLink, SamplerWatch, first_line, log_event
from rayscale.training.shipping import fetch_bundles, send_bundle
from rayscale.trial import run_in_child

if TYPE_CHECKING:
    from rayscale.energy.sampler import SamplerStats
    from rayscale.training.data import PreparedData

EXIT_TIMEOUT_S = 10.0
"""How long a child that is done may take to go."""


@dataclass
class SlotHost:
    """What a slot keeps between trials.

    Attributes:
        ledger: The sweep's ledger.
        forks: The preloaded fork server.
        sampler: The slot's sampler.
        device: Where the slot trains.
        tflops_bench: Matrix-product rate of the device.
        plan: The sweep's plan; None knows of no other trials of a block.
        block_start: The device at the start of each block, for settling.
    """

    ledger: Ledger
    forks: ForkServer
    sampler: SamplerLink
    device: SlotDevice
    tflops_bench: float | None
    plan: Plan | None = None
    block_start: dict[int, DeviceState] = field(default_factory=dict)


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


@dataclass(frozen=True)
class _Watched:
    """What the slot saw of an attempt: why it failed, reasons for the verdict, the wait before, the sampler's word."""

    failure: Failure | None
    notes: list[Reason] = field(default_factory=list)
    settling: Settling | None = None
    stats: SamplerStats | None = None


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
        binding=host.device.document(),
        trunk=link_trunk(host.ledger, host.plan, trial, data.fingerprint, host.device.uuid or host.device.name),
    )
    if job.device_uuid or trial.spec.train.compile == "on":  # what a CPU compiles only where it is told to
        fetch_bundles(host.ledger.storage)
    here, there = host.forks.pipe()
    process = host.forks.fork(run_in_child, job, there)
    there.close()
    try:
        watched = _supervise(host, job, process, here)
        if watched.failure is None:
            result = _accept(host, job, watched, last_try=last_try)
        else:
            result = AttemptResult(trial.trial_key, attempt, None, watched.failure)
        if result.failure:
            host.ledger.publish_attempt(trial.trial_key, attempt)
            host.ledger.write_failure(trial.trial_key, attempt, result.failure)
    finally:
        here.close()
        _await_exit(process)
    return result


def _unpinned(device: SlotDevice) -> list[Reason]:
    """Flag a block that nothing holds on its device."""
    if device.binding != "best effort":
        return []
    detail = f"node {device.node} does not advertise its GPUs by identity, so the block may have changed device"
    return [Reason(code="device_not_pinned", detail=detail)]


def _await_exit(process: ForkServerProcess) -> None:
    """See to it that the device is free before the next trial."""
    process.join(EXIT_TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()


def _supervise(host: SlotHost, job: TrialJob, process: ForkServerProcess, go: Connection) -> _Watched:
    """Sample while the child trains."""
    pid = process.pid
    if pid is None:
        return _Watched(_failure("crashed", "the trial process did not start"))
    try:
        host.sampler.start(job.trial.spec.energy, job.device_uuid, pid, job.directory)
    except Exception as error:
        return _Watched(_failure("no_sampler", f"the power sampler did not start: {first_line(error)}"))
    settling = _settle(host, job)
    with contextlib.suppress(OSError):  # the child is gone already; waiting for it tells why
        go.send_bytes(b"go")
    watch = SamplerWatch(host.sampler, job.trial.spec.energy, job.device_uuid, pid, job.directory)
    failure = _wait(job, process, go, watch)
    notes = [*(unsettled(settling, job.trial.spec.energy.settle) if settling else []), *watch.notes]
    notes += _unpinned(host.device)
    return _Watched(failure, notes, settling, host.sampler.stop())


def _wait(job: TrialJob, process: ForkServerProcess, done: Connection, watch: SamplerWatch) -> Failure | None:
    """Wait until the child is done or gone; look after the time limit and the sampler.

    The child says when its outcome is written; the time that its memory takes to be freed is not waited for here.
    """
    limit = job.trial.spec.resources.time_limit
    deadline = time.monotonic() + limit
    child: list[Connection | int] = [process.sentinel, done]
    while not (
        set(wait([*child, *watch.descriptors()], min(LOOK_S, max(deadline - time.monotonic(), 0.01)))) & set(child)
    ):
        if time.monotonic() >= deadline:
            process.kill()
            return _failure("time_limit", f"killed after {limit:g} s (resources.time_limit)")
        watch.look()
    return _child_failure(job, process)


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


def _settle(host: SlotHost, job: TrialJob) -> Settling | None:
    """Wait until the device is back at its block's start; the live view shows the phase *settling* meanwhile."""

    def announce() -> None:
        log_event(job.directory, "phase", name="settling")

    settler = Settler(job.trial.spec.energy.settle, host.sampler.last, announce)
    reference = host.block_start.get(job.trial.block) or _earlier_block_start(host, job)
    if reference is not None:
        return settler.come_back(reference)
    settling = settler.begin_block()
    if settling is not None:
        host.block_start[job.trial.block] = DeviceState(settling.start_c, settling.start_w)
    return settling


def _earlier_block_start(host: SlotHost, job: TrialJob) -> DeviceState | None:
    """Look up the start of a block that an earlier run, or an earlier slot of this device, has begun."""
    trials = host.plan.trials if host.plan else ()
    block = [trial for trial in trials if trial.block == job.trial.block]
    for record in (host.ledger.record(trial.trial_key) for trial in block):
        if record is not None and record.settling is not None and record.device.uuid == host.device.uuid:
            host.block_start[job.trial.block] = DeviceState(record.settling.reference_c, record.settling.reference_w)
    return host.block_start.get(job.trial.block)


def _accept(host: SlotHost, job: TrialJob, watched: _Watched, *, last_try: bool) -> AttemptResult:
    """Turn a finished child into a record, if the device and the energy are what they should be."""
    path = job.directory / "outcome.json"
    outcome = TrialOutcome.from_json(path.read_text(encoding="utf-8"))
    key, attempt = job.trial.trial_key, job.attempt
    if job.device_uuid and outcome.device.uuid != job.device_uuid:
        detail = f"trained on {outcome.device.uuid}, sampled {job.device_uuid}"
        return AttemptResult(key, attempt, None, _failure("wrong_device", detail))
    record = assemble_record(job, outcome, watched.stats, watched.notes, watched.settling)
    if record.quality.verdict == "invalid" and not last_try:
        reasons = "; ".join(reason.detail for reason in record.quality.reasons if reason.verdict == "invalid")
        return AttemptResult(key, attempt, None, _failure("invalid_energy", reasons))
    path.unlink()
    host.ledger.publish_attempt(key, attempt)
    host.ledger.write_record(record)
    send_bundle(host.ledger.storage, outcome.environment["training"]["compile"].get("bundle"))
    if job.trunk:
        job.trunk.release()
    return AttemptResult(key, attempt, record, None)


def _failure(reason: str, detail: str) -> Failure:
    return Failure(reason, detail, datetime.now(UTC).isoformat())
