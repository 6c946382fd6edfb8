"""What a trial's process tells when it is done: training, evaluation, device and surroundings, as parts of a record."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from rayscale.attempt import PhaseLog, Together, TrialJob
from rayscale.environment import cpu_name
from rayscale.record import Device, Evaluation, Training

if TYPE_CHECKING:
    from rayscale.training.session import EvalResult, Session, TrainResult


def training_of(
    session: Session, trained: TrainResult, log: PhaseLog, import_s: float, nonzero_params: int
) -> Training:
    """Describe what was trained.

    Args:
        session: After training.
        trained: What it did.
        log: Its phases.
        import_s: Time that imports took. Units: s.
        nonzero_params: Parameters that are not zero now.

    Returns:
        The part of the record.
    """
    facts, world = session.describe(), session.train_feed.world
    return Training(
        steps=trained.steps,
        trained_tokens=trained.trained_tokens,
        processed_tokens=trained.processed_tokens,
        epochs=trained.epochs,
        params=facts.params,
        matmul_params=facts.matmul_params,
        train_loss=trained.train_loss,
        loss_digest=trained.loss_digest,
        flops=trained.flops,
        flops_6nd=trained.flops_6nd,
        flops_formula=trained.flops_formula,
        matmul_flops=trained.matmul_flops,
        trainable_params=session.setup.treated.trainable_params,
        nonzero_params=nonzero_params,
        teacher_flops=trained.teacher_flops,
        world_size=world,
        parallel=session.spec.train.parallel if world > 1 else None,
        precision=facts.precision,
        threads=facts.threads,
        import_s=import_s,
        build_s=session.build_s,
        data_s=session.data_s,
        compile_s=session.compile_s,
        warmup_s=sum(phase.duration_s for phase in log.phases if phase.name == "warmup") - session.compile_s,
    )


def evaluation_of(before: EvalResult, after: EvalResult, log: PhaseLog) -> Evaluation:
    """Describe what was evaluated.

    Args:
        before: Before training.
        after: After it.
        log: Its phases.

    Returns:
        The part of the record.
    """
    return Evaluation(
        tokens=after.tokens,
        loss_before=before.loss,
        loss=after.loss,
        perplexity=after.perplexity,
        bits_per_byte=after.bits_per_byte,
        eval_s=log.phases[-1].duration_s,
        perplexity_before=before.perplexity,
        bits_per_byte_before=before.bits_per_byte,
        eval_before_s=next(phase.duration_s for phase in log.phases if phase.name == "eval"),
        flops=after.flops,
    )


def quantized_of(session: Session, plain: Evaluation, log: PhaseLog, together: Together) -> Evaluation:
    """Evaluate once more with quantised layers, in a phase of its own; that is then what the trial reached.

    Args:
        session: After training.
        plain: The evaluation without.
        log: Receives the phase.
        together: Has the other ranks do the same.

    Returns:
        The evaluation that counts; the plain one where nothing was to be quantised.
    """
    if session.spec.eval.quantize == "none":
        return plain
    with together("quantize"):
        done = session.quantize()
    if done is None:
        return plain
    with log.phase("eval_quantized"), together("evaluate"):
        found = session.evaluate()
    return plain.model_copy(
        update={
            "loss": found.loss,
            "perplexity": found.perplexity,
            "bits_per_byte": found.bits_per_byte,
            "eval_s": log.phases[-1].duration_s,
            "quantized": f"{done.kind}: {done.kernel}",
            "quantized_bytes": done.weight_bytes,
            "loss_unquantized": plain.loss,
        }
    )


def device_of(job: TrialJob, session: Session, others: list[tuple[str | None, str | None]]) -> Device:
    """Describe where a trial trained, as its processes saw it.

    Args:
        job: The attempt.
        session: That of rank 0.
        others: UUID and name of the GPU of each further rank, by rank; None on a CPU.

    Returns:
        The part of the record: several GPUs are one device with all their UUIDs, and rates that are sums.
    """
    facts, host = session.describe(), socket.gethostname()
    seen = [(facts.device_uuid, facts.device_name), *others]
    where = [uuid or f"{job.slot}@{host}" for uuid, _ in seen]
    return Device(
        kind="cuda" if job.device_uuid else "cpu",
        uuid="+".join(where) if job.device_uuid else where[0],
        name=_together([name for _, name in seen if name]) or cpu_name(),
        host=host,
        tflops_bench=job.tflops_bench,
        peak_tflops=None if facts.peak_tflops is None else facts.peak_tflops * (len(seen) if job.device_uuid else 1),
        peak_source=facts.peak_source,
        ranks=tuple(where) if len(seen) > 1 else (),
    )


def _together(names: list[str]) -> str:
    """Write `2 x NVIDIA A10G`; the name alone of a single one."""
    counts = {name: names.count(name) for name in names}
    return " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def environment_of(job: TrialJob, session: Session) -> dict[str, Any]:
    """Describe what a trial's result may depend on beside its settings.

    Args:
        job: The attempt.
        session: Its training.

    Returns:
        Plain values.
    """
    facts = session.describe()
    return {
        "data_source": job.data.source,
        "data_fingerprint": job.data.fingerprint,
        "tokenizer_fingerprint": job.data.tokenizer_fingerprint,
        "entropy_nats": job.data.entropy_nats,
        "data_revision": job.data.revision,
        "model_revision": facts.revision,
        "training": facts.settings,
        "pid": os.getpid(),
    }
