"""A sweep's ledger and its MLflow mirror at scale: a directory, an object store on loopback, a sqlite file."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.scale_driver import make_plan
from rayscale.design import Plan, Trial
from rayscale.ledger import Ledger
from rayscale.record import Record

if TYPE_CHECKING:
    from rayscale.tracking.mirror import Mirror

DURABLE = 200
"""Records written as slots write them, to disk for certain; the others are put there without waiting for the disk."""
MIRRORED = 40
"""Trials that are started and finished in the mirror."""


def make_record(trial: Trial) -> Record:
    """Make a record as large as a real one."""
    rng = random.Random(trial.trial_key)
    loss, seconds = 3.0 + rng.gauss(0, 0.05), trial.tokens / 12_000 * rng.gauss(1, 0.01)
    names = ("idle", "load", "context_idle", "warmup", "eval", "train", "eval")
    flops = 6.6e9 * trial.tokens
    document = {
        **{"sweep": trial.spec.name, "trial_key": trial.trial_key, "condition": trial.condition, "attempt": 1},
        **{"repetition": trial.repetition, "block": trial.block, "run_order": trial.run_order, "seed": trial.seed},
        "started_at": datetime.now(UTC).isoformat(),
        "device": {"kind": "cuda", "uuid": f"GPU-{trial.block % 800:04d}", "name": "A10G", "host": "node"}
        | {"tflops_bench": 70.0},
        "phases": [{"name": name, "start": 10.0 * i, "end": 10.0 * i + 9} for i, name in enumerate(names)],
        "training": {"trained_tokens": trial.tokens, "processed_tokens": trial.tokens, "train_loss": loss}
        | {"flops": flops, "flops_6nd": flops, **_SAME_TRAINING},
        "evaluation": {"tokens": 65_536, "loss_before": 10.4, "loss": loss, "perplexity": math.exp(loss)}
        | {"bits_per_byte": 1.1, "eval_s": 3.0},
        "energy": {"phases": dict.fromkeys(names, _phase_energy(seconds)), "net_energy_j": 240 * seconds}
        | _SAME_ENERGY,
        "quality": {"verdict": "clean"},
        "environment": {"torch": "2.13.0", "host": "node", "data_fingerprint": "f" * 64, "cpu": "c" * 1500},
    }
    return Record.model_validate(document)


_SAME_TRAINING = {
    **{"steps": 244, "epochs": 0.1, "params": 1_100_048_384, "matmul_params": 1_034_512_384, "loss_digest": "0" * 64},
    **{"precision": "bf16", "threads": 1, "import_s": 0.0, "build_s": 1.0, "data_s": 0.1, "compile_s": 0.0},
    "warmup_s": 1.0,
}
_SAME_ENERGY = {
    **{"source": "nvml", "method": "NVML cumulative energy counter of the device", "estimated": False},
    **{"net_baseline": "context_idle", "idle_w": 60.0, "idle_sd_w": 1.0, "temp_start_c": 40.0, "temp_end_c": 66.0},
}


def _phase_energy(seconds: float) -> dict[str, float | int]:
    same = dict.fromkeys(("energy_j", "counter_j", "integral_j"), 300 * seconds)
    parts = {"edge_bound_j": 2.0, "gap_bound_j": 0.0, "sampling_bound_j": 4.0, "sensor_bound_j": 6.0, "bound_j": 12.0}
    rest = {"duration_s": seconds, "mean_w": 300.0, "rms_w": 301.0, "sd_w": 9.0, "samples": 600, "coverage": 1.0}
    return {**same, **parts, **rest}


def local_ledger(trials: int) -> dict[str, Any]:
    """Fill a ledger in a directory and read it as the commands do.

    Args:
        trials: How many.

    Returns:
        Seconds of CPU per command, ms of wall per durable write, peak memory in MB.
    """
    plan = make_plan(trials)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rayscale-scale-") as directory:
        ledger = Ledger(Path(directory) / plan.spec.name)
        ledger.write_plan(plan, {})
        found["one durable record, ms wall"] = _wall_s(lambda: _fill(ledger, plan.trials[:DURABLE])) / DURABLE * 1e3
        for trial in plan.trials[DURABLE:]:
            _put(ledger.root, trial)
        found["read the plan, s"] = _cpu_s(ledger.read_plan)
        found["what is completed, s"] = _cpu_s(ledger.completed)
        found["all records, s"] = _cpu_s(lambda: ledger.records(plan))
        found["status, s"] = _cpu_s(lambda: ledger.status(plan))
        found["table (export), s"] = _cpu_s(lambda: _table(ledger, plan))
        found["analyze, s"] = _cpu_s(lambda: _analyze(ledger, plan))
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _fill(ledger: Ledger, trials: tuple[Trial, ...]) -> None:
    for trial in trials:
        ledger.new_attempt(trial.trial_key)
        ledger.write_record(make_record(trial))


def _put(root: Path, trial: Trial) -> None:
    directory = root / "trials" / trial.trial_key
    (directory / "attempt-1").mkdir(parents=True)
    (directory / "record.json").write_text(make_record(trial).to_json())


def _table(ledger: Ledger, plan: Plan) -> None:
    from rayscale.analysis.table import ledger_frame

    ledger_frame(ledger.records(plan), plan.spec.analysis.metrics, report=plan.spec.report).to_csv(os.devnull)


def _analyze(ledger: Ledger, plan: Plan) -> None:
    from rayscale.analyzing import analyze_ledger

    analyze_ledger(ledger, plan)


def bucket_ledger(trials: int) -> dict[str, Any]:
    """Fill a ledger in an object store on loopback and count the requests of what a run asks for.

    Args:
        trials: How many.

    Returns:
        Requests per operation.
    """
    from rayscale.sweep.bindings import BlockKeeper
    from rayscale.sweep.runner import unfinished

    plan = make_plan(trials)
    found: dict[str, Any] = {}
    with _bucket() as (address, requests):
        ledger = Ledger(f"s3://studies/scale?{address}")
        ledger.write_plan(plan, {})
        keeper = BlockKeeper(plan, ledger, lambda _: None)
        operations: dict[str, Callable[[], object]] = {
            "write a trial's attempt and record": lambda: _fill(ledger, plan.trials[:1]),
            "what is left of a fresh sweep": lambda: unfinished(plan, ledger),
            "the others' records": lambda: _fill(ledger, plan.trials[1:]),
            "what is left of a finished sweep": lambda: unfinished(plan, ledger),
            "blocks and their devices": lambda: (keeper.blocks_begun(), keeper.blocks_done()),
            "all records": lambda: ledger.records(plan),
            "status": lambda: ledger.status(plan),
        }
        for name, operation in operations.items():
            before = Counter(requests)
            seconds = _wall_s(operation)
            made = Counter(requests) - before
            found[name] = ", ".join(f"{count} {kind}" for kind, count in sorted(made.items())) + f"  ({seconds:.1f} s)"
    return found


@contextlib.contextmanager
def _bucket() -> Iterator[tuple[str, Counter[str]]]:
    """Serve an empty bucket and count its requests by kind."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from pyarrow.fs import S3FileSystem
    from werkzeug.serving import make_server

    requests: Counter[str] = Counter()
    serve = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start_response: Any) -> Any:
        listing = "list-type" in environ.get("QUERY_STRING", "")
        requests["LIST" if listing else str(environ["REQUEST_METHOD"])] += 1
        return serve(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark")
    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"127.0.0.1:{server.server_port}"
    files = S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True)
    files.create_dir("studies")
    try:
        yield f"endpoint_override={endpoint}&scheme=http&region=us-east-1", requests
    finally:
        server.shutdown()


def mirror(trials: int) -> dict[str, Any]:
    """Show a plan in MLflow, then start and finish some of its trials.

    Args:
        trials: How many are planned.

    Returns:
        Seconds for the plan; ms per trial afterwards, CPU and wall.
    """
    from rayscale.tracking.mirror import Mirror

    plan = make_plan(trials)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rayscale-scale-") as directory:
        ledger = Ledger(Path(directory) / plan.spec.name)
        ledger.write_plan(plan, {})
        shown = Mirror(ledger, None)
        shown.ensure_plan(make_plan(1))  # makes the database: some seconds, once
        found["show the plan, s wall"] = _wall_s(lambda: shown.ensure_plan(plan))
        some = plan.trials[-MIRRORED:]
        _fill(ledger, some)
        start = time.process_time()
        wall = _wall_s(lambda: _show(shown, some))
        found["one trial's start and end, ms CPU"] = (time.process_time() - start) / MIRRORED * 1e3
        found["one trial's start and end, ms wall"] = wall / MIRRORED * 1e3
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _show(shown: Mirror, trials: Iterable[Trial]) -> None:
    for trial in trials:
        shown.trial_started(trial.trial_key)
        shown.trial_finished(trial.trial_key)


def _cpu_s(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _wall_s(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start
