"""One trial in this process: training inside named phases, energy beside it, a record at the end.

        idle        load        context_idle   eval      warmup      train       eval
    |-- bare --|-- build, data --|-- ready --|- before -|- thrown -|- budget -|- after -|
    ^ sampler is running from before the first phase until after the last

The trial only stamps its phases with CLOCK_MONOTONIC; the sampler, in another process, stamps its samples with the same
clock. Between two phases it is told to read at once (`energy.edges`); nothing talks to it inside a measured phase.
`train_trial` is the part that runs in the trial's process; `assemble_record` joins its outcome with the power trace.
Without Ray:

    python -m rayscale.trial --sweep F.yaml --tokens 500000 --repetition 0 --out DIR
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.attempt import PhaseLog, TrialJob, TrialOutcome, assemble_record, explain_failure, train_budget
from rayscale.design import Trial, plan_sweep
from rayscale.energy.edges import EdgeBell
from rayscale.environment import cache_directory, cpu_name
from rayscale.errors import InputError, RayscaleError
from rayscale.record import Device, Evaluation, Record, Training
from rayscale.specfile import load_spec
from rayscale.storage import LocalStorage

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from rayscale.training.session import EvalResult, Session, TrainResult


def train_trial(job: TrialJob, log: PhaseLog) -> TrialOutcome:
    """Run the phases of one attempt.

    Args:
        job: The attempt.
        log: Receives phases and progress.

    Returns:
        Everything but energy.

    Raises:
        rayscale.training.session.Diverged: If the loss became NaN or infinite.
        InputError: If model or data cannot be used as declared.
    """
    spec = job.trial.spec
    started_at = datetime.now(UTC).isoformat()
    with log.phase("idle"):
        time.sleep(spec.energy.idle)
    with log.phase("load"):
        import_s = import_training()
        from rayscale.training.session import open_session

        session = open_session(
            spec,
            job.data,
            tokens=job.trial.tokens,
            seed=job.trial.seed,
            repetition=job.trial.repetition,
            device="cuda" if job.device_uuid else "cpu",
        )
        session.synchronize()
    with log.phase("context_idle"):
        time.sleep(spec.energy.idle)
    with log.phase("eval"):
        before = session.evaluate()
    with log.phase("warmup"):
        session.warmup()
        session.synchronize()
    trained = train_budget(session, job.trunk, log)
    with log.phase("eval"):
        after = session.evaluate()
    training = _training(session, trained, log, import_s)
    evaluation = _quantized(session, _evaluation(before, after, log), log)
    return TrialOutcome(started_at, log.phases, _device(job, session), training, evaluation, _environment(job, session))


def import_training() -> float:
    """Import all that training needs; in a process forked from a preloaded server that is nothing.

    Returns:
        How long it took. Units: s.
    """
    from rayscale.training.preload import PRELOAD

    start = time.monotonic()
    for name in PRELOAD:
        importlib.import_module(name)
    return time.monotonic() - start


def _training(session: Session, trained: TrainResult, log: PhaseLog, import_s: float) -> Training:
    facts = session.describe()
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
        nonzero_params=session.nonzero_params(),
        teacher_flops=trained.teacher_flops,
        precision=facts.precision,
        threads=facts.threads,
        import_s=import_s,
        build_s=session.build_s,
        data_s=session.data_s,
        compile_s=session.compile_s,
        warmup_s=sum(phase.duration_s for phase in log.phases if phase.name == "warmup") - session.compile_s,
    )


def _evaluation(before: EvalResult, after: EvalResult, log: PhaseLog) -> Evaluation:
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


def _quantized(session: Session, plain: Evaluation, log: PhaseLog) -> Evaluation:
    """Evaluate once more with quantised layers, in a phase of its own; that is then what the trial reached."""
    done = session.quantize()
    if done is None:
        return plain
    with log.phase("eval_quantized"):
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


def _device(job: TrialJob, session: Session) -> Device:
    facts = session.describe()
    host = socket.gethostname()
    return Device(
        kind="cuda" if job.device_uuid else "cpu",
        uuid=facts.device_uuid or f"{job.slot}@{host}",
        name=facts.device_name or cpu_name(),
        host=host,
        tflops_bench=job.tflops_bench,
        peak_tflops=facts.peak_tflops,
        peak_source=facts.peak_source,
    )


def _environment(job: TrialJob, session: Session) -> dict[str, Any]:
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


def run_in_child(job: TrialJob, go: Connection) -> None:
    """Entry point of a forked trial process: wait for the sampler, train, leave `outcome.json` or `failure.json`.

    Args:
        job: The attempt.
        go: Pipe to the slot, which says that the sampler is running, and is told that the outcome is written.
    """
    _die_with_parent()
    _redirect_output(job.directory / "output.log")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = job.device_uuid or ""
    try:
        go.recv_bytes()
    except EOFError:
        return  # the slot is gone
    with (job.directory / "log.jsonl").open("a", encoding="utf-8") as file:
        log = PhaseLog(file, EdgeBell(job.directory))
        try:
            outcome = train_trial(job, log)
        except BaseException as error:
            traceback.print_exc()
            failure = explain_failure(error)
            log.write("failed", reason=failure.reason, detail=failure.detail)
            LocalStorage(job.directory).write("failure.json", json.dumps(asdict(failure), indent=1).encode())
            return
        LocalStorage(job.directory).write("outcome.json", outcome.to_json().encode())
        log.write("done")
    go.send_bytes(b"done")


def _redirect_output(path: Path) -> None:
    """Send this process's stdout and stderr, C libraries included, to a file."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    # A forked child inherits the parent's Python-level streams, which may have been replaced.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the fork server dies, so that no orphan keeps the device busy."""
    import ctypes
    import signal

    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


# -- without Ray ------------------------------------------------------------------------------------------------------


def run_alone(job: TrialJob) -> Record:
    """Run one attempt in this process with a sampler process beside it, and write `record.json`.

    Args:
        job: The attempt.

    Returns:
        The record.
    """
    from rayscale.energy.process import SamplerProcess

    job.directory.mkdir(parents=True, exist_ok=True)
    sampler = SamplerProcess(job.trial.spec.energy, job.device_uuid, os.getpid(), job.directory)
    sampler.start()
    try:
        with (job.directory / "log.jsonl").open("w", encoding="utf-8") as file:
            outcome = train_trial(job, PhaseLog(file, EdgeBell(job.directory)))
    finally:
        stats = sampler.stop()
    record = assemble_record(job, outcome, stats, [])
    LocalStorage(job.directory).write("record.json", record.to_json().encode())
    return record


def choose_device(gpus: Any) -> str | None:
    """Pick the GPU for one trial.

    Args:
        gpus: `resources.gpus` of the sweep: `auto`, 0 or 1.

    Returns:
        UUID of the first visible GPU; None for the CPU.

    Raises:
        InputError: If a GPU is asked for and there is none.
    """
    from rayscale.energy.reader import gpu_devices

    found = gpu_devices() if gpus != 0 else []
    if gpus == 1 and not found:
        raise InputError(
            "resources.gpus: 1 asked for, but no NVIDIA GPU is visible here; expected one, or gpus: auto or 0"
        )
    return found[0].uuid if found else None


def find_trial(path: str, condition: dict[str, str], repetition: int) -> Trial:
    """Find one planned trial by its condition.

    Args:
        path: The sweep file.
        condition: Factor -> level as text; factors with one level may be left out.
        repetition: Index of the repetition.

    Returns:
        The trial.

    Raises:
        InputError: If the sweep has no such trial.
    """
    plan = plan_sweep(load_spec(path))
    wanted = {name: str(level) for name, level in condition.items()}
    matches = [
        trial
        for trial in plan.trials
        if trial.repetition == repetition and all(str(trial.condition.get(k)) == v for k, v in wanted.items())
    ]
    if len(matches) != 1:
        levels = "; ".join(f"{name}: {', '.join(map(str, v))}" for name, v in plan.spec.design.factors.items())
        raise InputError(
            f"{path}: {len(matches)} trials match {wanted} in repetition {repetition}; expected exactly one "
            f"(levels {levels}; repetitions 0 to {plan.spec.design.repetitions - 1})"
        )
    return matches[0]


def main(argv: list[str] | None = None) -> int:
    """Run one trial from the command line.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        Exit code (design 4.2).
    """
    parser = argparse.ArgumentParser(prog="python -m rayscale.trial", description="Run one trial without Ray.")
    parser.add_argument("--sweep", required=True, help="sweep file")
    parser.add_argument("--tokens", required=True, help="level of the factor tokens, e.g. 500000")
    parser.add_argument("--repetition", type=int, default=0)
    parser.add_argument("--factor", action="append", default=[], metavar="NAME=LEVEL", help="level of a further factor")
    parser.add_argument("--out", type=Path, required=True, help="directory for record.json, power.parquet, log.jsonl")
    args = parser.parse_args(argv)
    try:
        record = _run_from_arguments(args)
    except RayscaleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        failure = explain_failure(error)
        print(f"{args.out}: the trial failed: {failure.reason}: {failure.detail}", file=sys.stderr)
        return 1
    train = record.energy.phases["train"]
    energy = "n/a" if train.energy_j is None else f"{train.energy_j:.1f} J"
    print(
        f"{record.trial_key}: {record.training.trained_tokens} tokens in {record.phase_seconds('train'):.2f} s, "
        f"perplexity {record.evaluation.perplexity:.3f}, energy {energy} ({record.energy.method}), "
        f"{record.quality.verdict}; {args.out / 'record.json'}"
    )
    return 0


def _run_from_arguments(args: argparse.Namespace) -> Record:
    from rayscale.quantities import parse_count
    from rayscale.training.bench import tflops_bench
    from rayscale.training.data import check_budget, prepare
    from rayscale.training.treatments.applying import check_treatments

    condition: dict[str, str] = {}
    for pair in args.factor:
        name, separator, level = pair.partition("=")
        if not separator:
            raise InputError(f"--factor {pair}: expected NAME=LEVEL")
        condition[name] = level
    try:
        condition["tokens"] = str(parse_count(args.tokens))
    except ValueError as error:
        raise InputError(f"--tokens: {error}") from None
    trial = find_trial(args.sweep, condition, args.repetition)
    check_treatments(trial.spec)
    device_uuid = choose_device(trial.spec.resources.gpus)
    if device_uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = device_uuid
    data = prepare(trial.spec, cache_directory(), lambda line: print(line, file=sys.stderr))
    check_budget(data, trial.spec, trial.tokens)
    return run_alone(
        TrialJob(
            sweep=trial.spec.name,
            trial=trial,
            attempt=1,
            directory=args.out,
            data=data,
            device_uuid=device_uuid,
            slot="gpu" if device_uuid else "cpu:0",
            tflops_bench=tflops_bench("cuda" if device_uuid else "cpu", trial.spec.threads),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
