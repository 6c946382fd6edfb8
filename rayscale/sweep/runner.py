"""Run a sweep: what is planned and has no record yet, on Ray Tune, until everything is done or has failed.

Tune schedules; the ledger is the truth. A new run never restores Tune's state: it plans again and leaves out what has a
record. So continuing after a crash, adding repetitions and adding levels are the same operation.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.design import Plan, Trial
from rayscale.environment import cache_directory, git_revision, host_facts, versions
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import INTERRUPTED, Failure, Ledger
from rayscale.sweep.devices import SlotDevice, local_slots
from rayscale.sweep.stopping import Stopping, open_stopping

if TYPE_CHECKING:
    from rayscale.sweep.events import Listener
    from rayscale.training.data import PreparedData

logger = logging.getLogger(__name__)

DRIVER_CPUS = 1
"""Logical CPUs that Ray is given beyond the slots', for tasks of its own."""


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        planned: Trials of the plan.
        before: Trials that were completed before this run.
        completed: Trials completed by this run.
        failed: Keys of trials that still have no record, with their last failure.
        interrupted: Whether the user stopped it.
        stopped: Which look of `design.stop` ended the sweep, or which cap of `budget`, in words.
    """

    planned: int
    before: int
    completed: int
    failed: dict[str, Failure | None] = field(default_factory=dict)
    interrupted: bool = False
    stopped: str | None = None


def unfinished(plan: Plan, ledger: Ledger) -> list[Trial]:
    """List the planned trials without a record, in run order.

    Args:
        plan: The plan.
        ledger: The ledger.

    Returns:
        What is left to do.
    """
    completed = ledger.completed()
    return [trial for trial in plan.trials if trial.trial_key not in completed]


def run_sweep(plan: Plan, ledger: Ledger, listeners: list[Listener], say: Callable[[str], None]) -> RunSummary:
    """Run what is left of a sweep; the caller holds the ledger's lock.

    Args:
        plan: The plan.
        ledger: The ledger; its stored plan is replaced by this one.
        listeners: Told of every start and end.
        say: Shows a line to the user.

    Returns:
        What happened. Ctrl-C gives a summary with `interrupted`, not an exception.

    Raises:
        InputError: If the corpus cannot serve the budgets, or is not the one the ledger's trials were trained on, or
            the stop rule was changed after a look.
        EnvironmentUnusableError: If the devices asked for are not there.
    """
    todo = unfinished(plan, ledger)
    before = len(plan.trials) - len(todo)
    stopping = open_stopping(plan, ledger, say)
    environment = {"versions": dict(versions()), **host_facts(), "git_revision": git_revision(Path.cwd())}
    ledger.write_plan(plan, environment, stopping.planned)
    if why := stopping.stopped():
        by_rule = ledger.stopped(plan) is not None
        say(f"the stop rule ended this sweep; {len(todo)} trials are not needed ({why})" if by_rule else why)
        return RunSummary(len(plan.trials), before, 0, stopped=why)
    if not todo:
        stopping.finish()
        return RunSummary(len(plan.trials), before, 0)
    _close_open_attempts(todo, ledger, "the run that made it was killed")
    slots = local_slots(plan.spec.resources)
    say(f"starting Ray and {len(slots)} trial slot{'s' if len(slots) > 1 else ''} (some 15 s)")
    interrupted = False
    try:
        with ThreadPoolExecutor(1) as pool:
            corpora = pool.submit(_prepare_corpora, todo, ledger, say)  # while Ray starts
            with ray_output(ledger.root / "ray.log"), local_ray(slots, plan):
                corpora.result()
                _fit(plan, ledger, todo, slots, listeners, stopping)
    except KeyboardInterrupt:
        interrupted = True
    left = unfinished(plan, ledger)
    _close_open_attempts(
        left, ledger, "stopped by the user" if interrupted else "the slot ended before the attempt did"
    )
    if not left:
        stopping.finish()
    stopped = None if interrupted else stopping.stopped()
    failed = {} if stopped else {trial.trial_key: _last_failure(trial, ledger) for trial in left}
    return RunSummary(len(plan.trials), before, len(todo) - len(left), failed, interrupted, stopped)


def _fit(
    plan: Plan,
    ledger: Ledger,
    todo: list[Trial],
    slots: list[SlotDevice],
    listeners: list[Listener],
    gate: Stopping,
) -> None:
    """Let Tune run the trials."""
    from ray import tune

    from rayscale.sweep.events import SweepCallback
    from rayscale.sweep.searcher import ATTEMPTS_OUT, BlockSearcher
    from rayscale.sweep.slot import Slot

    blocks = Plan(plan.spec, tuple(todo)).blocks()
    searcher = BlockSearcher(blocks, slots, plan.spec.resources.max_attempts, gate)
    scratch = tempfile.mkdtemp(prefix="rayscale-tune-")
    # Tune logs a traceback for a dead slot; the listeners tell it in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Slot, ledger_location=ledger.location if ledger.remote else str(ledger.root.absolute())), _resources_of(plan)
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=ATTEMPTS_OUT * len(slots),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=plan.spec.name,
                storage_path=scratch,  # Tune's own snapshot is of no use to us
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[SweepCallback(listeners)],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources_of(plan: Plan) -> Callable[[dict[str, Any]], Any]:
    """Say what a slot reserves: its device by name, its CPUs, and a bundle beside it for the sampler."""
    from ray.tune import PlacementGroupFactory

    from rayscale.sweep.sampler_actor import SAMPLER_CPUS

    def resources(config: dict[str, Any]) -> PlacementGroupFactory:
        slot = {"CPU": float(plan.spec.resources.cpus), config["device"]: 1.0}
        if config["device_uuid"]:
            slot["GPU"] = 1.0
        return PlacementGroupFactory([slot, {"CPU": SAMPLER_CPUS}], strategy="STRICT_PACK")

    return resources


class _LateFile(io.TextIOBase):
    """A text file that is made when the first thing is written to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        """Append text."""
        with self._path.open("a", encoding="utf-8") as file:
            return file.write(text)


@contextmanager
def ray_output(path: Path) -> Iterator[None]:
    """Keep what Ray prints out of standard output, which belongs to `--json`.

    Ray prints a paragraph there for every worker that died, whatever `log_to_driver` says; the listeners tell the same
    in one line.

    Args:
        path: Where it goes; made only if something is printed.

    Yields:
        Nothing; standard output of this process goes to the file.
    """
    with redirect_stdout(_LateFile(path)):
        yield


@contextmanager
def local_ray(slots: list[SlotDevice], plan: Plan) -> Iterator[None]:
    """Start Ray on this machine, quiet and on loopback only, and stop it afterwards.

    Args:
        slots: One custom resource is made for each.
        plan: Its spec says how many CPUs a slot gets.

    Yields:
        Nothing; Ray is up.

    Raises:
        EnvironmentUnusableError: If Ray does not start.
    """
    set_ray_environment()
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=len(slots) * (plan.spec.resources.cpus + 1) + DRIVER_CPUS,
            num_gpus=sum(slot.uuid is not None for slot in slots),
            resources={slot.name: 1 for slot in slots},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise EnvironmentUnusableError(f"Ray did not start on this machine: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def set_ray_environment() -> None:
    """Set what Ray reads from the environment; some of it once, when it is first imported."""
    os.environ.update(_RAY_ENVIRONMENT)


_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's only switch that makes all its servers listen on loopback alone
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # csv, json and tensorboard files that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune would wait for the running trials
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "true",
}


def _prepare_corpora(todo: list[Trial], ledger: Ledger, say: Callable[[str], None]) -> None:
    """Prepare the corpora of all trials; refuse what they cannot use before any of them starts."""
    from rayscale.training.data import check_budget, prepare

    prepared: dict[str, PreparedData] = {}
    for trial in todo:
        identity = trial.spec.data.model_dump_json() + trial.spec.model.model_dump_json()
        if identity not in prepared:
            prepared[identity] = prepare(trial.spec, cache_directory(), say)
        check_budget(prepared[identity], trial.spec, trial.tokens)
    _check_same_corpus(prepared, ledger)


def _check_same_corpus(prepared: dict[str, PreparedData], ledger: Ledger) -> None:
    """Refuse to mix trials trained on different text in one sweep."""
    if len(prepared) != 1:
        return  # the data itself is a factor
    fingerprint = next(iter(prepared.values())).fingerprint
    for record in ledger.records():
        found = record.environment.get("data_fingerprint")
        if found not in (None, fingerprint):
            raise InputError(
                f"{ledger}: finished trials were trained on corpus {found[:12]}, now it is {fingerprint[:12]} "
                "(other text, tokenizer or Python version); give the sweep another name or --storage"
            )


def _close_open_attempts(left: list[Trial], ledger: Ledger, detail: str) -> None:
    """Give every attempt that nobody works on any more its reason."""
    for trial in left:
        for attempt in ledger.attempts(trial.trial_key):
            if ledger.failure(trial.trial_key, attempt) is None:
                failure = Failure(INTERRUPTED, detail, datetime.now(UTC).isoformat())
                ledger.write_failure(trial.trial_key, attempt, failure)


def _last_failure(trial: Trial, ledger: Ledger) -> Failure | None:
    attempts = ledger.attempts(trial.trial_key)
    return ledger.failure(trial.trial_key, attempts[-1]) if attempts else None
