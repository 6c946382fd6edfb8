"""What `rayscale run`, `sync` and `ui` do: a sweep from plan to report, with MLflow beside it."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rayscale.analyzing import analyze_ledger
from rayscale.design import Plan, condition_label, plan_sweep
from rayscale.environment import JOB_VARIABLE
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.quantities import format_count, format_duration
from rayscale.spec import SweepSpec
from rayscale.sweep.runner import RunSummary, run_sweep, unfinished
from rayscale.sweep.session import set_ray_environment
from rayscale.tracking.store import artifact_root, database_file, resolve_uri

if TYPE_CHECKING:
    from rayscale.sweep.events import AttemptEnd
    from rayscale.tracking.guard import GuardedMirror
    from rayscale.tracking.mirror import SyncReport

MIRROR_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RunResult:
    """What the command did.

    Attributes:
        sweep: Name of the sweep.
        ledger: The ledger.
        summary: Counts and failures.
        elapsed_s: Duration of the command. Units: s.
        report: Where the report lies, if one was written.
    """

    sweep: str
    ledger: Ledger
    summary: RunSummary
    elapsed_s: float
    report: str | None

    @property
    def exit_code(self) -> int:
        """Return the code of design 4.2."""
        if self.summary.interrupted:
            return 130
        return 1 if self.summary.failed else 0

    def document(self) -> dict[str, Any]:
        """Write the result as plain data for `--json`."""
        failed = {key: asdict(failure) if failure else None for key, failure in self.summary.failed.items()}
        return {
            "sweep": self.sweep,
            "ledger": str(self.ledger),
            **asdict(self.summary),
            "failed": failed,
            "elapsed_s": self.elapsed_s,
            "report": self.report,
        }


@dataclass(frozen=True)
class Advice:
    """What the user is told to type next.

    Attributes:
        again: Continues the sweep.
        analyze: Shows the statistics.
        ui: Shows MLflow's pages.
    """

    again: str
    analyze: str
    ui: str


def advise(sweep: Path, storage: str | None, address: str | None, environment: Mapping[str, str]) -> Advice:
    """Put together what the user is told to type next; on a cluster's head, what to type at home.

    Args:
        sweep: The sweep file as it was given.
        storage: The storage as it was given; None: the default.
        address: The cluster that was named; None without.
        environment: This process's environment.

    Returns:
        The commands.
    """
    job = environment.get(JOB_VARIABLE)
    file = sweep.name if job else str(sweep)  # on a head the file lies in a place of Ray's
    arguments = file if storage is None else f"{file} --storage {shlex.quote(storage)}"
    again = f"rayscale run {arguments}" + (f" --address {address}" if address else "")
    tunnel = job and environment.get("MLFLOW_TRACKING_URI", "").startswith("http://127.0.0.1")
    return Advice(
        again=f"rayscale cluster resume {job}" if job else again,
        analyze=f"rayscale analyze {arguments}",
        ui="rayscale ui --cluster FILE" if tunnel else f"rayscale ui {arguments}",
    )


class MirrorListener:
    """Passes events on to MLflow."""

    def __init__(self, mirror: GuardedMirror) -> None:
        """Tell `mirror`."""
        self._mirror = mirror

    def started(self, trial_key: str, device: str) -> None:
        """An attempt starts; the mirror asks the ledger for its number, which takes a while in an object store."""
        self._mirror.trial_started(trial_key)

    def ended(self, end: AttemptEnd) -> None:
        """An attempt ended."""
        self._mirror.trial_finished(end.trial_key)


def run_to_report(
    spec: SweepSpec,
    ledger: Ledger,
    *,
    advice: Advice,
    with_report: bool,
    address: str | None = None,
    wait_s: float = 0.0,
) -> RunResult:
    """Run what is left of a sweep, then analyse and report it.

    Args:
        spec: The sweep.
        ledger: Its ledger.
        advice: What the user is told to type next.
        with_report: Analyse and report at the end.
        address: A running Ray cluster to use (`auto`, `HOST:PORT`); None starts Ray on this machine.
        wait_s: Longest wait for the first device of a cluster. Units: s.

    Returns:
        What happened.

    Raises:
        RayscaleError: If nothing could be run at all.
    """
    console = Console(stderr=True, highlight=False)
    start = time.monotonic()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a preempted node sends SIGTERM; a shell's `&` ignores SIGINT
        signal.signal(stop, signal.default_int_handler)
    plan = plan_sweep(spec)
    with ledger.lock():
        left = unfinished(plan, ledger)
        stopped = ledger.stopped(plan)
        if (stopped or not left) and _is_reported(ledger, plan):
            summary = RunSummary(len(plan.trials), len(plan.trials) - len(left), 0, stopped=stopped)
            why = f"the stop rule ended this sweep; {len(left)} trials are not needed ({stopped})"
            what = why if stopped else f"all {len(plan.trials)} trials are completed; nothing to do"
            console.print(f"{spec.name}: {what}", soft_wrap=True)
        else:
            try:
                summary = _run_and_report(plan, ledger, console, address, wait_s, with_report=with_report)
            except KeyboardInterrupt:  # before the first trial, or while the report was written
                kept = len(plan.trials) - len(unfinished(plan, ledger))
                summary = RunSummary(len(plan.trials), kept, 0, interrupted=True)
    result = RunResult(spec.name, ledger, summary, time.monotonic() - start, _report_path(ledger))
    _print_end(console, result, advice)
    return result


def _is_reported(ledger: Ledger, plan: Plan) -> bool:
    """Whether the stored plan and the derived files are those of this plan."""
    if _report_path(ledger) is None or ledger.storage.read("plan.json") is None:
        return False
    return ledger.read_plan().spec == plan.spec


def _report_path(ledger: Ledger) -> str | None:
    return f"{ledger}/report.html" if "report.html" in ledger.storage.list("") else None


def _run_and_report(
    plan: Plan, ledger: Ledger, console: Console, address: str | None, wait_s: float, *, with_report: bool
) -> RunSummary:
    set_ray_environment(address)  # before the first import of ray
    from rayscale.sweep.events import Listener
    from rayscale.sweep.live import open_view
    from rayscale.sweep.progress import Progress
    from rayscale.tracking.guard import GuardedMirror
    from rayscale.tracking.mirror import Mirror

    _print_start(console, plan, ledger)
    view = open_view(Progress.from_ledger(plan, ledger), console)
    mirror = GuardedMirror(Mirror(ledger, resolve_uri(ledger, plan.spec.tracking.uri, os.environ)), view.say)
    mirror.ensure_plan(plan)
    listeners: list[Listener] = [view, MirrorListener(mirror)]
    try:
        summary = run_sweep(plan, ledger, listeners, view.say, address, wait_s)
    finally:
        view.close()
    tree = None
    if with_report and not summary.interrupted and summary.before + summary.completed > 0:
        tree = _write_report(ledger, plan, console)
    if tree is not None:
        mirror.summaries(tree)
    mirror.close("KILLED" if summary.interrupted else "FAILED" if summary.failed else "FINISHED")
    mirror.finish(MIRROR_TIMEOUT_S)
    return summary


def _write_report(ledger: Ledger, plan: Plan, console: Console) -> dict[str, Any]:
    from rayscale.report.build import report_in_ledger

    console.print("analysing and writing the report")
    tree = analyze_ledger(ledger, plan)
    report_in_ledger(ledger, tree)
    return tree


def _print_start(console: Console, plan: Plan, ledger: Ledger) -> None:
    left = unfinished(plan, ledger)
    tokens = sum(trial.tokens for trial in left)
    done = len(plan.trials) - len(left)
    console.print(
        f"{plan.spec.name}: {len(left)} of {len(plan.trials)} trials to run ({format_count(tokens)} tokens)"
        + (f", {done} completed before" if done else "")
        + f"; ledger {ledger}"
    )


def _print_end(console: Console, result: RunResult, advice: Advice) -> None:
    summary = result.summary
    done = summary.before + summary.completed
    if summary.interrupted:
        console.print(
            f"stopped: {done} of {summary.planned} trials are completed and kept. Continue with: {advice.again}",
            soft_wrap=True,
        )
        return
    if summary.completed or summary.failed:
        console.print(f"{done} of {summary.planned} trials completed in {format_duration(result.elapsed_s)}")
    plan = result.ledger.read_plan()
    for trial in plan.trials:
        if trial.trial_key in summary.failed:
            failure = summary.failed[trial.trial_key]
            why = f"{failure.reason}: {failure.detail}" if failure else "not started"
            console.print(
                f"failed: {condition_label(trial.condition)} rep {trial.repetition}: {why}",
                soft_wrap=True,
                markup=False,
            )
    if result.report:
        console.print(f"report:   {result.report}", soft_wrap=True)
        console.print(f"analysis: {result.ledger}/analysis.json   ({advice.analyze})", soft_wrap=True)
        console.print(f"MLflow:   {advice.ui}", soft_wrap=True)


def sync_ledger(ledger: Ledger, plan: Plan) -> SyncReport:
    """Bring MLflow up to date from the ledger alone.

    Args:
        ledger: The ledger.
        plan: Its plan, for the tracking settings.

    Returns:
        What was created and updated.
    """
    from rayscale.tracking.mirror import Mirror

    return Mirror(ledger, resolve_uri(ledger, plan.spec.tracking.uri, os.environ)).sync()


def open_ui(ledger: Ledger | None, spec: SweepSpec | None, storage: Path, port: int) -> int:
    """Serve the MLflow UI on loopback until Ctrl-C.

    Args:
        ledger: The ledger whose store to show; None takes the store of `storage`.
        spec: The sweep, if a file was given.
        storage: Where ledgers lie.
        port: Port on 127.0.0.1.

    Returns:
        Exit code.

    Raises:
        InputError: If there is no store yet.
    """
    from rayscale.tracking.ui import serve_ui

    target_given = ledger is not None
    ledger = ledger or Ledger(storage / "any")
    uri = resolve_uri(ledger, spec.tracking.uri if spec else None, os.environ)
    database = database_file(uri)
    if database and not database.exists():
        raise InputError(f"{database}: no MLflow store here yet; run or sync a sweep first")
    named = ledger.name if target_given else None
    serve_ui(uri, artifact_root(ledger, uri), port, lambda line: print(line, flush=True), experiment=named)
    return 0
