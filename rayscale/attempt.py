"""One attempt of a trial: what is handed to the process that runs it, what comes back, and how it becomes a record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rayscale.design import Trial
from rayscale.environment import host_facts, versions
from rayscale.errors import RayscaleError
from rayscale.ledger import Failure
from rayscale.record import (
    Device,
    EnergyResult,
    Evaluation,
    Phase,
    PhaseName,
    Quality,
    Reason,
    Record,
    Settling,
    Training,
)
from rayscale.sharing import TrunkLink, sharing_of

if TYPE_CHECKING:
    from rayscale.energy.edges import EdgeBell
    from rayscale.energy.sampler import SamplerStats
    from rayscale.energy.trace import Trace
    from rayscale.training.data import PreparedData
    from rayscale.training.session import Session, StepLog, TrainResult


@dataclass(frozen=True)
class TrialJob:
    """One attempt of a trial, as it is handed to the process that runs it.

    Attributes:
        sweep: Name of the sweep.
        trial: The trial; its spec has the condition applied.
        attempt: Number of the attempt, from 1.
        directory: Where the attempt writes.
        data: The prepared corpus.
        device_uuid: UUID of the GPU to train on, several joined by `+`; None trains on the CPU.
        slot: Name of the slot, e.g. `cpu:0`.
        tflops_bench: Cached matrix-product rate of the device. Units: TFLOP/s.
        binding: What holds the trial's block on the device: `device`, `node`, `by`; None without a slot.
        trunk: What it shares with the other budgets of its block; None: nothing.
    """

    sweep: str
    trial: Trial
    attempt: int
    directory: Path
    data: PreparedData
    device_uuid: str | None
    slot: str
    tflops_bench: float | None
    binding: dict[str, str] | None = None
    trunk: TrunkLink | None = None


@dataclass(frozen=True)
class TrialOutcome:
    """What the training process knows when it is done; the energy is not known to it."""

    started_at: str
    phases: list[Phase]
    device: Device
    training: Training
    evaluation: Evaluation
    environment: dict[str, Any]

    def to_json(self) -> str:
        """Write the outcome as JSON text."""
        parts: dict[str, Any] = {"started_at": self.started_at, "environment": self.environment}
        parts["phases"] = [phase.model_dump() for phase in self.phases]
        for name in ("device", "training", "evaluation"):
            parts[name] = getattr(self, name).model_dump()
        return json.dumps(parts)

    @classmethod
    def from_json(cls, text: str) -> TrialOutcome:
        """Read what `to_json` wrote."""
        parts = json.loads(text)
        return cls(
            started_at=parts["started_at"],
            phases=[Phase(**phase) for phase in parts["phases"]],
            device=Device(**parts["device"]),
            training=Training(**parts["training"]),
            evaluation=Evaluation(**parts["evaluation"]),
            environment=parts["environment"],
        )


@dataclass
class PhaseLog:
    """Stamps phases and writes `log.jsonl` as it goes, so that a live view and a post-mortem can read it."""

    file: TextIO
    bell: EdgeBell | None = None
    """Tells the sampler of the edges between phases; None: nobody does."""
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, name: PhaseName, tokens: tuple[int, int] | None = None) -> Iterator[None]:
        """Stamp one phase; the log line is written and the sampler is told outside the window.

        Args:
            name: The phase.
            tokens: Targets trained before and after it, where it is a part of the training.
        """
        self.write("phase", name=name)
        if self.bell is not None:
            # one ring ends a phase and begins the next; the counter's tick takes 0.2 s, so only `train` gets it
            self.bell.ring(tick="train" in (name, *(phase.name for phase in self.phases[-1:])))
        start = time.monotonic()
        yield
        self.phases.append(Phase(name=name, start=start, end=time.monotonic(), tokens=tokens))

    def step(self, log: StepLog) -> None:
        """Write a progress line of the training loop."""
        self.write(
            "step",
            step=log.step,
            steps=log.steps,
            tokens=log.tokens,
            loss=log.loss,
            tokens_per_s=log.tokens_per_s,
        )

    def write(self, event: str, **values: Any) -> None:
        """Append one line: the event, its CLOCK_MONOTONIC time, its values."""
        self.file.write(json.dumps({"event": event, "t": time.monotonic(), **values}) + "\n")
        self.file.flush()


Together = Callable[[str], AbstractContextManager[object]]
"""Has the other ranks of a trial do something while the context lasts."""


def _by_itself(_: str) -> AbstractContextManager[object]:
    return nullcontext()


def train_budget(
    session: Session, trunk: TrunkLink | None, log: PhaseLog, together: Together = _by_itself
) -> TrainResult:
    """Train on the trial's budget within `train`; where a trunk is shared, in parts between which states are moved.

    Args:
        session: Warm, at step 0.
        trunk: What is shared; None: nothing.
        log: Receives the phases and progress.
        together: Has the other ranks train; they share no trunk.

    Returns:
        What was trained.
    """
    if trunk is None:
        with log.phase("train"), together("train"):
            trained = session.train(log.step)
            session.synchronize()
        return trained
    with log.phase("load"):
        _take_trunk(session, trunk, log)
        session.synchronize()
    budget, branch = session.train_feed.budget, session.branch_step
    done = session.steps_done * budget.step_tokens
    if trunk.keep is not None and branch > 0:
        if session.steps_done < branch:
            with log.phase("train", (done, branch * budget.step_tokens)):
                session.advance(log.step, branch)
                session.synchronize()
        with log.phase("load"):
            session.keep_trunk(trunk.keep, trunk.identity)
        done = branch * budget.step_tokens
    with log.phase("train", (done, budget.tokens)):
        trained = session.train(log.step)
        session.synchronize()
    return trained


def _take_trunk(session: Session, trunk: TrunkLink, log: PhaseLog) -> None:
    """Go on from the smaller budget's state; without one that can be used the trial trains all of its budget itself."""
    if trunk.start is None:
        return
    try:
        session.take_trunk(trunk.start, trunk.identity)
    except (OSError, ValueError) as error:
        log.write("trunk", detail=str(error))


def assemble_record(
    job: TrialJob,
    outcome: TrialOutcome,
    stats: SamplerStats | None,
    notes: list[Reason],
    settling: Settling | None = None,
) -> Record:
    """Join what was trained with what was drawn.

    Args:
        job: The attempt.
        outcome: What the training process wrote.
        stats: What the sampler said when it stopped; None if it died.
        notes: Further reasons for the verdict, e.g. that the temperature had not settled.
        settling: The wait before the first phase; None if nothing could be waited for.

    Returns:
        The record; energy is null with a reason when the trace cannot be read.
    """
    notes = [*notes, *_wrong_device(job, outcome), *(job.trunk.reasons if job.trunk else ())]
    trace, energy, quality = _measured(job, outcome, stats, notes)
    return Record(
        sweep=job.sweep,
        trial_key=job.trial.trial_key,
        condition=job.trial.condition,
        repetition=job.trial.repetition,
        block=job.trial.block,
        run_order=job.trial.run_order,
        seed=job.trial.seed,
        attempt=job.attempt,
        started_at=outcome.started_at,
        device=outcome.device,
        phases=outcome.phases,
        training=outcome.training,
        evaluation=outcome.evaluation,
        energy=energy,
        quality=quality,
        settling=settling,
        sharing=sharing_of(job.trunk, job.trial, trace, outcome.phases, energy) if job.trunk else None,
        # Looked up here and not by the trial: a slot does it once, a forked trial would do it each time.
        environment={
            "versions": dict(versions()),
            **host_facts(),
            **outcome.environment,
            **({"binding": job.binding} if job.binding else {}),
        },
    )


def _measured(
    job: TrialJob, outcome: TrialOutcome, stats: SamplerStats | None, notes: list[Reason]
) -> tuple[Trace | None, EnergyResult, Quality]:
    """Measure and judge an attempt; several devices each by itself."""
    from rayscale.energy.deviceset import devices_in
    from rayscale.energy.measure import energy_result, unavailable
    from rayscale.energy.quality import judge
    from rayscale.energy.sums import measure_devices
    from rayscale.energy.trace import read_trace

    spec, phases, steps = job.trial.spec.energy, outcome.phases, outcome.training.steps
    if job.device_uuid and len(devices_in(job.device_uuid)) > 1:
        return None, *measure_devices(job.directory, job.device_uuid, phases, spec, stats, steps, notes)
    trace: Trace | None = None
    try:
        trace = read_trace(job.directory)
        energy = energy_result(trace, phases, spec, stats)
    except (OSError, ValueError, RayscaleError) as error:
        energy = unavailable(phases, f"no readable power trace: {error}")
    return trace, energy, judge(trace, phases, energy, spec, stats, steps=steps, extra=tuple(notes))


def _wrong_device(job: TrialJob, outcome: TrialOutcome) -> list[Reason]:
    if job.device_uuid is None or outcome.device.uuid == job.device_uuid:
        return []
    detail = f"trained on {outcome.device.uuid}, sampled {job.device_uuid}"
    return [Reason(code="wrong_device", detail=detail, verdict="invalid")]


class RankFailed(RayscaleError):  # noqa: N818 (an outcome of the attempt)
    """Another rank of the trial ended or failed."""

    def __init__(self, failure: Failure) -> None:
        """Keep why.

        Args:
            failure: Its reason, and which rank it was.
        """
        self.failure = failure
        super().__init__(f"{failure.reason}: {failure.detail}")


def bell_of(job: TrialJob) -> EdgeBell:
    """Make the bell that tells an attempt's sampler of the edges between phases.

    Args:
        job: The attempt.
    """
    from rayscale.energy.deviceset import places
    from rayscale.energy.edges import EdgeBell

    return EdgeBell(*places(job.directory, job.device_uuid))


def explain_failure(error: BaseException) -> Failure:
    """Name why an attempt failed.

    Args:
        error: What the training raised.

    Returns:
        The failure with a stable reason code.
    """
    if isinstance(error, RankFailed):
        return error.failure
    kind = type(error).__name__
    if kind == "Diverged":
        reason = "diverged"
    elif isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "out of memory" in str(error).lower():
        reason = "out_of_memory"
    elif isinstance(error, RayscaleError):
        reason = "bad_input"
    else:
        reason = "crashed"
    text = str(error).strip().splitlines()
    detail = text[0] if text else "no message"
    if reason == "crashed":
        detail = f"{kind}: {detail}"
    return Failure(reason, detail, datetime.now(UTC).isoformat())
