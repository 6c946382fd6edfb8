"""Dead time per trial: from the end of one trial's last phase to the start of the next one's first training step.

Both ways run the same 30 short trials (same model, data, evaluation and optimiser steps) on this machine, one after the
other in this process's Ray: rayscale's slots, and plain Tune function trials with `MLflowLoggerCallback`, as Ray's
documentation shows it. Deliberate phases (idle, warm-up steps) are 0 in both unless asked for. Import, model build,
evaluation before training and everything between trials count.

    python -m benchmarks.dead_time [--trials 30] [--warmup-steps 0]
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rayscale.design import Plan, Trial, plan_sweep
from rayscale.environment import cpu_name, versions
from rayscale.ledger import Ledger
from rayscale.specfile import parse_spec

SWEEP = """\
name: dead-time
design: {{factors: {{tokens: [1_024, 2_048, 4_096]}}, repetitions: {repetitions}, seed: 1}}
model:
  config: {{model_type: llama, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2,
           intermediate_size: 384}}
data: {{synthetic: {{kind: markov, vocab_size: 2048, tokens: 100_000}}, sequence_length: 128}}
train: {{batch_size: 4, warmup_steps: {warmup}}}
eval: {{tokens: 512}}
energy: {{idle: 0s, period: 100ms}}
resources: {{gpus: 0, cpus: 1}}
"""


@dataclass(frozen=True)
class Span:
    """One trial on the clock. Units: CLOCK_MONOTONIC s.

    Attributes:
        train_start: First training step.
        end: End of the last phase.
    """

    train_start: float
    end: float


def dead_times(spans: list[Span]) -> list[float]:
    """Compute the gaps between consecutive trials.

    Args:
        spans: The trials in any order; one slot.

    Returns:
        Seconds, one fewer than trials.
    """
    ordered = sorted(spans, key=lambda span: span.end)
    return [later.train_start - earlier.end for earlier, later in itertools.pairwise(ordered)]


def run_rayscale(plan: Plan, directory: Path) -> list[Span]:
    """Run the sweep as `rayscale run` does, MLflow mirror included.

    Args:
        plan: The trials.
        directory: Storage.

    Returns:
        One span per trial.
    """
    from rayscale.running import MirrorListener
    from rayscale.sweep.runner import run_sweep
    from rayscale.tracking.guard import GuardedMirror
    from rayscale.tracking.mirror import Mirror

    ledger = Ledger(directory / plan.spec.name)
    with ledger.lock():
        mirror = GuardedMirror(Mirror(ledger, None), print)
        mirror.ensure_plan(plan)
        run_sweep(plan, ledger, [MirrorListener(mirror)], lambda _: None)
        mirror.finish(60.0)
    starts = {
        record.trial_key: next(phase.start for phase in record.phases if phase.name == "train")
        for record in ledger.records()
    }
    return [Span(starts[record.trial_key], record.phases[-1].end) for record in ledger.records()]


def run_plain_tune(plan: Plan, directory: Path) -> list[Span]:
    """Run the same trials as plain Tune function trials with Ray's own MLflow callback.

    Args:
        plan: The trials.
        directory: Storage.

    Returns:
        One span per trial.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        tuner = tune.Tuner(
            tune.with_resources(plain_trial, {"cpu": 1}),
            param_space={"trial": tune.grid_search([trial.run_order for trial in plan.trials]), "sweep": _text(plan)},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(
                storage_path=str(directory / "tune"),
                verbose=0,
                callbacks=[
                    MLflowLoggerCallback(tracking_uri=f"sqlite:///{directory}/plain.db", experiment_name="dead-time")
                ],
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
    return [Span(**json.loads(path.read_text())) for path in (directory / "tune").rglob("span.json")]


def _text(plan: Plan) -> str:
    return SWEEP.format(repetitions=plan.spec.design.repetitions, warmup=plan.spec.train.warmup_steps)


def plain_trial(config: dict[str, Any]) -> None:
    """Train one trial inside a Tune worker.

    Args:
        config: Index of the trial and the sweep's text.
    """
    from ray import tune

    from rayscale.environment import cache_directory
    from rayscale.training.data import prepare
    from rayscale.training.session import open_session

    trial: Trial = plan_sweep(parse_spec(config["sweep"], "sweep")).trials[config["trial"]]
    session = open_session(
        trial.spec,
        prepare(trial.spec, cache_directory()),
        tokens=trial.tokens,
        seed=trial.seed,
        repetition=trial.repetition,
        device="cpu",
    )
    session.evaluate()
    session.warmup()
    start = time.monotonic()
    result = session.train(lambda _: None)
    after = session.evaluate()
    end = time.monotonic()
    # In the trial's own directory: results must not depend on the driver having seen the last report.
    Path(tune.get_context().get_trial_dir(), "span.json").write_text(json.dumps({"train_start": start, "end": end}))
    tune.report({"train_loss": result.train_loss, "eval_loss": after.loss, "trained_tokens": result.trained_tokens})


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=30, help="a multiple of 3")
    parser.add_argument("--warmup-steps", type=int, default=0, help="in both; the sweep file's default is 2")
    args = parser.parse_args()
    repetitions = max(args.trials // 3, 1)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    plan = plan_sweep(parse_spec(SWEEP.format(repetitions=repetitions, warmup=args.warmup_steps), "benchmark"))
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as directory:
        ours = dead_times(run_rayscale(plan, Path(directory)))
        plain = dead_times(run_plain_tune(plan, Path(directory)))
    print(f"{date.today()}  {cpu_name()}, {os.cpu_count()} CPUs, Ray {versions()['ray']}; {len(plan.trials)} trials")
    print(f"{'dead time per trial, s':<40}{'median':>8}{'min':>8}{'max':>8}")
    for name, values in (("rayscale slot", ours), ("plain Tune + MLflowLoggerCallback", plain)):
        print(f"{name:<40}{statistics.median(values):8.3f}{min(values):8.3f}{max(values):8.3f}")
    print(f"ratio of medians: {statistics.median(plain) / statistics.median(ours):.1f}")


if __name__ == "__main__":
    main()
