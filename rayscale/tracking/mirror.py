"""The mirror: decides, from the ledger alone, which MLflow runs to bring up to date.

    experiment <sweep>
      parent run <sweep>                     tag rayscale.sweep
        tok=500K/rep=00 ... tok=2M/rep=49    tag rayscale.trial_key; created SCHEDULED up front
        tok=500K/mean ... tok=2M/mean        tag rayscale.level

Live calls and `sync` share one path: the state of a trial is read from the ledger, turned into a content, and sent
unless its digest is there already. So a sweep that ran while the server was down is caught up by `sync`, and a second
`sync` sends nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayscale.design import Plan, Trial
from rayscale.ledger import Ledger
from rayscale.tracking.content import RunStatus, StoredFile, end_ms
from rayscale.tracking.parent_content import parent_content, sweep_status
from rayscale.tracking.quiet import mlflow_in_use
from rayscale.tracking.runs import Change, RunStore
from rayscale.tracking.store import artifact_root, resolve_uri
from rayscale.tracking.summary_content import summary_contents
from rayscale.tracking.trial_content import TrialState, trial_content, trial_digest, trial_state


@dataclass(frozen=True)
class SyncReport:
    """What a sync did, in runs."""

    created: int
    updated: int
    unchanged: int


class Mirror:
    """MLflow's picture of one ledger.

    Every method may raise `EnvironmentUnusableError` (MLflow, its database or server fails) or `InputError` (the URI or
    the ledger cannot be used); `guard.GuardedMirror` keeps that from a running sweep.
    """

    def __init__(self, ledger: Ledger, uri: str | None) -> None:
        """Bind; nothing is read, written or imported.

        Args:
            ledger: The ledger.
            uri: The tracking URI; None takes `MLFLOW_TRACKING_URI`, else the sqlite file beside the ledger.
        """
        self._ledger = ledger
        self._given_uri = uri
        self._runs: RunStore | None = None
        self._plan: Plan | None = None
        self._trials: dict[str, Trial] = {}

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self._ledger

    @property
    def uri(self) -> str:
        """Where the mirror lies (see `store.resolve_uri`)."""
        return resolve_uri(self._ledger, self._given_uri, os.environ)

    def ensure_plan(self, plan: Plan) -> None:
        """Show the plan at the start of a run: experiment, parent, and one run per planned trial.

        What is not there is created as SCHEDULED; what an earlier run left behind is brought up to date (an attempt
        that was open when its process died is SCHEDULED again). Runs of trials that left the plan stay as they are.

        Args:
            plan: The plan.
        """
        self._know(plan)
        with self._store() as store:
            states = self._states(plan, active=False)
            self._put_parent(store, plan, states, "RUNNING", with_files=False)
            self._put_planned(store, plan, states)
            for trial in plan.trials:
                self._put_trial(store, plan, trial, states[trial.trial_key])

    def trial_started(self, trial_key: str, attempt: int | None = None) -> None:
        """Show a trial as running.

        Args:
            trial_key: The trial.
            attempt: Number of the attempt; None: the one that the ledger shows, or will show in a moment.
        """
        plan = self._known_plan()
        trial = self._trials.get(trial_key)
        with self._store() as store:
            found = trial_state(self._ledger, trial_key, active=True)
            state = replace(found, attempts=_open_attempt(found) if attempt is None else attempt)
            if trial is not None and state.record is None and state.attempts not in state.failures:
                running = replace(state, status="RUNNING")
                self._put_trial(store, plan, trial, running, start_ms=round(time.time() * 1000))

    def trial_finished(self, trial_key: str) -> None:
        """Show a trial's record, or why its last attempt failed.

        Args:
            trial_key: The trial.
        """
        plan = self._known_plan()
        trial = self._trials.get(trial_key)
        with self._store() as store:
            if trial is not None:
                self._put_trial(store, plan, trial, trial_state(self._ledger, trial_key, active=True))

    def summaries(self, analysis_tree: Mapping[str, Any] | None) -> None:
        """Show mean, spread and interval of every level as one run each.

        Args:
            analysis_tree: The analysis (design 4.6); None takes the ledger's `analysis.json`, if there is one.
        """
        with self._store() as store:
            self._put_summaries(store, self._known_plan(), analysis_tree)

    def attach(self, paths: Sequence[Path]) -> None:
        """Store files with the parent run, such as the report; a file of the same name is replaced.

        Args:
            paths: The files; one that is not there is left out.
        """
        plan = self._known_plan()
        files = tuple(StoredFile(path.name, path.read_bytes()) for path in paths if path.is_file())
        with self._store() as store:
            store.attach(self._parent_id(store, plan), files)

    def close(self, status: RunStatus) -> None:
        """End the parent run; a trial that was interrupted is SCHEDULED again, one that is not needed KILLED.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED` (interrupted).
        """
        plan = self._known_plan()
        with self._store() as store:
            states = self._states(plan, active=False)
            for trial in plan.trials:
                self._put_trial(store, plan, trial, states[trial.trial_key])
            self._put_parent(store, plan, states, status, with_files=True)

    def sync(self) -> SyncReport:
        """Bring everything up to date from the ledger alone; run twice, the second adds nothing.

        Returns:
            How many runs were created, updated and already right.

        Raises:
            InputError: If there is no ledger.
            EnvironmentUnusableError: If MLflow cannot be reached.
        """
        plan = self._know(self._ledger.read_plan())
        active = self._ledger.lock_holder() is not None
        with self._store(reload=True) as store:
            states = self._states(plan, active)
            status = sweep_status(states, active)
            changes: list[Change] = [self._put_parent(store, plan, states, status, with_files=not active)]
            changes += [self._put_trial(store, plan, trial, states[trial.trial_key]) for trial in plan.trials]
            changes += self._put_summaries(store, plan, None)
        count = Counter(changes)
        return SyncReport(count["created"], count["updated"], count["unchanged"])

    # -- parts --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _store(self, reload: bool = False) -> Iterator[RunStore]:
        """Connect at the first use; later uses trust what they know, since this process is the only writer."""
        uri = self.uri
        with mlflow_in_use(uri):
            if self._runs is None:
                self._runs = RunStore(uri, self._ledger.name, artifact_root(self._ledger, uri))
            elif reload:
                self._runs.reload()
            yield self._runs

    def _known_plan(self) -> Plan:
        if self._plan is None:
            return self._know(self._ledger.read_plan())
        return self._plan

    def _know(self, plan: Plan) -> Plan:
        self._plan, self._trials = plan, {trial.trial_key: trial for trial in plan.trials}
        return plan

    def _states(self, plan: Plan, active: bool) -> dict[str, TrialState]:
        stopped = self._ledger.stopped(plan)
        return {trial.trial_key: trial_state(self._ledger, trial.trial_key, active, stopped) for trial in plan.trials}

    def _parent_id(self, store: RunStore, plan: Plan) -> str:
        known = store.run_id("sweep", plan.spec.name)
        if known is None:
            states = self._states(plan, active=False)
            self._put_parent(store, plan, states, "RUNNING", with_files=False)
        return store.run_id("sweep", plan.spec.name) or ""

    def _put_parent(
        self, store: RunStore, plan: Plan, states: Mapping[str, TrialState], status: RunStatus, with_files: bool
    ) -> Change:
        return store.put(parent_content(self._ledger, plan, states, status, with_files))

    def _put_planned(self, store: RunStore, plan: Plan, states: Mapping[str, TrialState]) -> None:
        """Make the runs of trials that nobody has begun, all at once where the store lets us."""
        planned = [trial for trial in plan.trials if states[trial.trial_key].status == "SCHEDULED"]
        contents = [trial_content(self._ledger, trial, states[trial.trial_key], plan.spec) for trial in planned]
        store.put_planned(contents, self._parent_id(store, plan))

    def _put_trial(
        self, store: RunStore, plan: Plan, trial: Trial, state: TrialState, start_ms: int | None = None
    ) -> Change:
        if store.digest("trial", trial.trial_key) == trial_digest(state, plan.spec):
            return "unchanged"  # seen before reading the traces
        content = trial_content(self._ledger, trial, state, plan.spec)
        if start_ms is not None:
            content = replace(content, start_ms=start_ms)
        return store.put(content, self._parent_id(store, plan))

    def _put_summaries(self, store: RunStore, plan: Plan, tree: Mapping[str, Any] | None) -> list[Change]:
        stored = self._ledger.storage.read("analysis.json")
        if tree is None and stored is not None:
            tree = json.loads(stored)
        ends = [end_ms(record) for record in self._ledger.records(plan)]
        if tree is None or not ends:
            return []
        parent = self._parent_id(store, plan)
        return [store.put(content, parent) for content in summary_contents(plan, tree, max(ends))]


def _open_attempt(state: TrialState) -> int:
    """Number the attempt that runs: the last one, or the next if that has ended or none was made yet."""
    return state.attempts + (state.attempts == 0 or state.attempts in state.failures)
