"""One trial in this process: training inside named phases, energy beside it, a record at the end.

        idle        load        context_idle   eval      warmup      train       eval
    |-- bare --|-- build, data --|-- ready --|- before -|- thrown -|- budget -|- after -|
    ^ sampler is running from before the first phase until after the last

The trial only stamps its phases with CLOCK_MONOTONIC; the sampler, in another process, stamps its samples with the same
clock. Between two phases it is told to read at once (`energy.edges`); nothing talks to it inside a measured phase.
`train_trial` is the part that runs in the trial's process (`ranked` has the others of a trial on several devices);
`assemble_record` joins its outcome with the power trace.
Without Ray:

    python -m rayscale.trial --sweep F.yaml --tokens 500000 --repetition 0 --out DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.attempt import PhaseLog, TrialJob, TrialOutcome, assemble_record, bell_of, explain_failure, train_budget
from rayscale.design import Trial, plan_sweep
from rayscale.energy.deviceset import devices_in, join_devices
from rayscale.environment import cache_directory
from rayscale.errors import InputError, RayscaleError
from rayscale.ledger import Failure
from rayscale.outcome import device_of, environment_of, evaluation_of, quantized_of, training_of
from rayscale.ranked import die_with_parent, forked_rank, import_training, open_member, show_device, spawned_rank
from rayscale.record import Record
from rayscale.spec import ResourcesSpec
from rayscale.specfile import load_spec
from rayscale.storage import LocalStorage
from rayscale.team import Team

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def train_trial(job: TrialJob, log: PhaseLog, team: Team) -> TrialOutcome:
    """Run the phases of one attempt.

    Args:
        job: The attempt.
        log: Receives phases and progress.
        team: The trial's other ranks, if it has any.

    Returns:
        Everything but energy.

    Raises:
        rayscale.training.session.Diverged: If the loss became NaN or infinite.
        InputError: If model or data cannot be used as declared.
        RankFailed: If another rank ended or failed.
    """
    idle, started_at = job.trial.spec.energy.idle, datetime.now(UTC).isoformat()
    with log.phase("idle"):
        time.sleep(idle)
    with log.phase("load"), team.together("load") as others:
        import_s = import_training()
        session = open_member(job, team.place)
    with log.phase("context_idle"):
        time.sleep(idle)
    with log.phase("eval"), team.together("evaluate"):
        before = session.evaluate()
    with log.phase("warmup"), team.together("warmup"):
        session.warmup()
        session.synchronize()
    trained = train_budget(session, job.trunk, log, team.together)
    with log.phase("eval"), team.together("evaluate"):
        after = session.evaluate()
    with team.together("count"):
        nonzero = session.nonzero_params()
    training = training_of(session, trained, log, import_s, nonzero)
    evaluation = quantized_of(session, evaluation_of(before, after, log), log, team.together)
    device = device_of(job, session, [others[rank] for rank in sorted(others)])
    return TrialOutcome(started_at, log.phases, device, training, evaluation, environment_of(job, session))


def run_in_child(job: TrialJob, go: Connection) -> None:
    """Entry point of a forked trial process: wait for the sampler, train, leave `outcome.json` or `failure.json`.

    Args:
        job: The attempt.
        go: Pipe to the slot, which says that the sampler is running, and is told that the outcome is written.
    """
    die_with_parent(os.getppid())
    _redirect_output(job.directory / "output.log")
    show_device(job, 0)
    with (job.directory / "log.jsonl").open("a", encoding="utf-8") as file:
        log = PhaseLog(file, bell_of(job))
        try:
            with Team(job, forked_rank, lambda failure: _fail(job, log, failure)) as team:
                if not _told_to_go(go):
                    return
                outcome = train_trial(job, log, team)
        except BaseException as error:
            traceback.print_exc()
            _fail(job, log, explain_failure(error))
            return
        LocalStorage(job.directory).write("outcome.json", outcome.to_json().encode())
        log.write("done")
    go.send_bytes(b"done")


def _told_to_go(go: Connection) -> bool:
    try:
        go.recv_bytes()
    except EOFError:
        return False  # the slot is gone
    return True


def _fail(job: TrialJob, log: PhaseLog, failure: Failure) -> None:
    log.write("failed", reason=failure.reason, detail=failure.detail)
    LocalStorage(job.directory).write("failure.json", json.dumps(asdict(failure), indent=1).encode())


def _redirect_output(path: Path) -> None:
    """Send this process's stdout and stderr, C libraries included, to a file."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    # A forked child inherits the parent's Python-level streams, which may have been replaced.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


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
        with (
            (job.directory / "log.jsonl").open("w", encoding="utf-8") as file,
            Team(job, spawned_rank, lambda failure: _tell(job.directory, failure)) as team,
        ):
            outcome = train_trial(job, PhaseLog(file, bell_of(job)), team)
    finally:
        stats = sampler.stop()
    record = assemble_record(job, outcome, stats, [])
    LocalStorage(job.directory).write("record.json", record.to_json().encode())
    return record


def _tell(out: Path, failure: Failure) -> None:
    print(f"{out}: the trial failed: {failure.reason}: {failure.detail}", file=sys.stderr)


def choose_device(resources: ResourcesSpec) -> str | None:
    """Pick the GPUs for one trial.

    Args:
        resources: Those of the sweep.

    Returns:
        UUIDs of the first visible GPUs, joined; None for the CPU.

    Raises:
        InputError: If GPUs are asked for that are not there.
    """
    from rayscale.energy.reader import gpu_devices

    found = gpu_devices() if resources.gpus != 0 else []
    if resources.needs_gpus and len(found) < resources.world:
        there = "no NVIDIA GPU is" if not found else f"{len(found)} NVIDIA GPU{'s are' if len(found) > 1 else ' is'}"
        raise InputError(
            f"resources.gpus: {resources.gpus} asked for, but {there} visible here; expected as many, or gpus: auto "
            "or 0"
        )
    return join_devices(gpu.uuid for gpu in found[: resources.world])


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
        _tell(args.out, explain_failure(error))
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
    from rayscale.training.bench import together_rate
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
    device_uuid = choose_device(trial.spec.resources)
    if device_uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices_in(device_uuid))
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
            tflops_bench=together_rate(len(devices_in(device_uuid)), trial.spec.threads * trial.spec.world),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
