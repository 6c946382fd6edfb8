"""Run a sweep: what is planned and has no record yet, on Ray Tune, until everything is done or has failed.

Tune schedules; the ledger is the truth. A new run never restores Tune's state: it plans again and leaves out what has a
record. So continuing after a crash, adding repetitions and adding levels are the same operation.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.design import Plan, Trial
from rayscale.environment import cache_directory, git_revision, host_facts, versions
from rayscale.errors import InputError
from rayscale.ledger import INTERRUPTED, Failure, Ledger
from rayscale.sweep.bindings import BlockKeeper
from rayscale.sweep.devices import SAMPLER_CPUS, Fleet
from rayscale.sweep.session import open_session, ray_output
from rayscale.sweep.stopping import Stopping, open_stopping

if TYPE_CHECKING:
    from rayscale.sweep.events import Listener
    from rayscale.training.data import PreparedData

logger = logging.getLogger(__name__)


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


def run_sweep(
    plan: Plan,
    ledger: Ledger,
    listeners: list[Listener],
    say: Callable[[str], None],
    address: str | None = None,
    wait_s: float = 0.0,
) -> RunSummary:
    """Run what is left of a sweep; the caller holds the ledger's lock.

    Args:
        plan: The plan.
        ledger: The ledger; its stored plan is replaced by this one.
        listeners: Told of every start and end.
        say: Shows a line to the user.
        address: A running Ray cluster to use (`auto`, `HOST:PORT`); None starts Ray on this machine.
        wait_s: Longest wait for the first device of a cluster. Units: s.

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
    session = open_session(plan, ledger, address, say, wait_s)
    keeper = BlockKeeper(plan, ledger, say)
    interrupted = False
    try:
        with ThreadPoolExecutor(1) as pool:
            corpora = pool.submit(_prepare_corpora, todo, ledger, say)  # while Ray starts
            with ray_output(ledger.root / "ray.log"), session as fleet:
                work = _Work(plan, ledger, todo, fleet, corpora.result())
                _fit(work, listeners, stopping, keeper)
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
    before -= len(keeper.withdrawn - {trial.trial_key for trial in todo})
    completed = len(plan.trials) - len(left) - before
    return RunSummary(len(plan.trials), before, completed, failed, interrupted, stopped)


@dataclass(frozen=True)
class _Work:
    """What is to do, where, on which corpora (by fingerprint)."""

    plan: Plan
    ledger: Ledger
    todo: list[Trial]
    fleet: Fleet
    corpora: frozenset[str]

    def slot_parameters(self) -> dict[str, Any]:
        """Return what every slot is told once."""
        root = str(self.ledger.root.absolute())
        return {"ledger_location": self.ledger.location if self.ledger.remote else root, "corpora": self.corpora}


def _fit(work: _Work, listeners: list[Listener], gate: Stopping, keeper: BlockKeeper) -> None:
    """Let Tune run the trials."""
    from ray import tune

    from rayscale.sweep.events import SweepCallback
    from rayscale.sweep.scheduler import FleetScheduler, StartNotice
    from rayscale.sweep.searcher import ATTEMPTS_OUT, BlockSearcher
    from rayscale.sweep.slot import Slot

    spec = work.plan.spec
    blocks = Plan(spec, tuple(work.todo)).blocks()
    searcher = BlockSearcher(blocks, work.fleet, spec.resources.max_attempts, gate, keeper)
    scratch = tempfile.mkdtemp(prefix="rayscale-tune-")
    keep_credentials_private()
    # Tune logs a traceback for a dead slot; the listeners tell it in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Slot, **work.slot_parameters()), _resources_of(spec.resources.cpus)
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=FleetScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=ATTEMPTS_OUT * work.fleet.capacity,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=scratch,  # Tune's own snapshot is of no use to us
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[StartNotice(searcher), SweepCallback(listeners)],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep_credentials_private() -> None:
    """Take the AWS keys off the list of variables that Tune copies into its actors' runtime environments.

    Ray writes those into its logs in clear. Nodes have credentials of their own: a role, or the environment in which
    Ray was started there.
    """
    from ray.tune.execution import class_cache

    copied: set[str] = getattr(class_cache, "ENV_VARS_TO_PROPAGATE", set())
    copied.difference_update([name for name in copied if name.startswith("AWS_")])


def _resources_of(cpus: int) -> Callable[[dict[str, Any]], Any]:
    """Say what a slot reserves: its device by name, its CPUs, and a bundle beside it for the sampler."""
    from ray.tune import PlacementGroupFactory

    def resources(config: dict[str, Any]) -> PlacementGroupFactory:
        slot = {"CPU": float(cpus), **config["claims"]}
        return PlacementGroupFactory([slot, {"CPU": SAMPLER_CPUS}], strategy="STRICT_PACK")

    return resources


def _prepare_corpora(todo: list[Trial], ledger: Ledger, say: Callable[[str], None]) -> frozenset[str]:
    """Prepare the corpora of all trials; refuse what they cannot use before any of them starts.

    Returns:
        Their fingerprints.
    """
    from rayscale.training.data import check_budget, prepare
    from rayscale.training.treatments.applying import check_treatments

    prepared: dict[str, PreparedData] = {}
    for trial in todo:
        check_treatments(trial.spec)
        identity = trial.spec.data.model_dump_json() + trial.spec.model.model_dump_json()
        if identity not in prepared:
            prepared[identity] = prepare(trial.spec, cache_directory(), say)
        check_budget(prepared[identity], trial.spec, trial.tokens)
    _check_same_corpus(prepared, ledger)
    return frozenset(one.fingerprint for one in prepared.values())


def _check_same_corpus(prepared: dict[str, PreparedData], ledger: Ledger) -> None:
    """Refuse to mix trials trained on different text in one sweep."""
    fingerprints = {one.fingerprint for one in prepared.values()}
    if len(fingerprints) != 1:
        return  # the data itself is a factor
    fingerprint = fingerprints.pop()
    for record in ledger.records():
        found = record.environment.get("data_fingerprint")
        if found not in (None, fingerprint):
            raise InputError(
                f"{ledger}: finished trials were trained on corpus {found[:12]}, now it is {fingerprint[:12]} "
                "(other text, tokenizer or Python version); give the sweep another name or --storage"
            )


def _close_open_attempts(left: list[Trial], ledger: Ledger, detail: str) -> None:
    """Give every attempt that nobody works on any more its reason."""
    begun = ledger.begun()
    for trial in (trial for trial in left if trial.trial_key in begun):
        for attempt in ledger.attempts(trial.trial_key):
            if ledger.failure(trial.trial_key, attempt) is None:
                failure = Failure(INTERRUPTED, detail, datetime.now(UTC).isoformat())
                ledger.write_failure(trial.trial_key, attempt, failure)


def _last_failure(trial: Trial, ledger: Ledger) -> Failure | None:
    attempts = ledger.attempts(trial.trial_key)
    return ledger.failure(trial.trial_key, attempts[-1]) if attempts else None
