"""What a sweep will take before it is run: trials, tokens, FLOPs, an estimate of time and energy that says its source.

Time comes from the sweep's own ledger if it has records, else from a short calibration on this machine (a few optimiser
steps of the same model on random tokens, cached); it is an estimate either way and labelled as one.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayscale.design import Plan, Trial, condition_label
from rayscale.environment import cache_directory, cpu_name
from rayscale.record import Record
from rayscale.segments import run_share
from rayscale.sharing import run_tokens
from rayscale.spec import DataSpec, EvalSpec, SweepSpec, SyntheticSpec
from rayscale.storage import LocalStorage
from rayscale.training.flops import ModelShape, flops_6nd
from rayscale.training.outlook import assumed_times, memory_outlook
from rayscale.training.treatments.applying import planned_flops, treatment_notes
from rayscale.training.treatments.planned import (
    ModelBeforehand,
    models_beforehand,
    planned_shape,
    planned_teacher_flops,
)

CALIBRATION_STEPS = 6
CALIBRATION_MAX_PARAMS = 50_000_000
"""Larger models are only calibrated when asked: building 1.1 B parameters on a CPU takes half a minute and 5 GB."""


@dataclass(frozen=True)
class Estimate:
    """How long a trial takes.

    Attributes:
        seconds_per_token: Of the training phase. Units: s.
        overhead_s: Everything else in an attempt (idle, load, warm-up, evaluation). Units: s.
        watts: Mean power while training; None if unknown. Units: W.
        source: Where the numbers come from, for people.
        flops_per_token: Of the plain model that was timed; None if the time holds for the conditions as they are.
    """

    seconds_per_token: float
    overhead_s: float
    watts: float | None
    source: str
    flops_per_token: float | None = None

    def trial_s(self, tokens: int) -> float:
        """Return the expected duration of an attempt. Units: s."""
        return self.overhead_s + self.seconds_per_token * tokens

    def train_s(self, tokens: int, flops_per_token: float | None) -> float:
        """Return the expected time of training on so many tokens, in proportion to the FLOPs of one. Units: s."""
        known = self.flops_per_token is not None and flops_per_token is not None
        share = flops_per_token / self.flops_per_token if known else 1.0  # type: ignore[operator]
        return self.seconds_per_token * tokens * share


def model_shape(spec: SweepSpec) -> ModelShape | None:
    """Derive the model's shape without loading it.

    Args:
        spec: The (resolved) sweep.

    Returns:
        The shape; None if it is only known to the hub, or of an architecture that is not counted.
    """
    return planned_shape(spec)


def trial_flops(trial: Trial) -> float | None:
    """Return the training FLOPs of a trial by 6·N_matmul + 12·L·H·Q·T per token, None if the shape is unknown."""
    shape = model_shape(trial.spec)
    return planned_flops(trial.spec, shape, trial.tokens) if shape else None


def computed_per_token(trial: Trial) -> float | None:
    """Return the FLOPs that training computes per token, a teacher's forward pass included; None if unknown."""
    own, teacher = trial_flops(trial), planned_teacher_flops(trial.spec, trial.tokens)
    return None if own is None else (own + (teacher or 0.0)) / trial.tokens


def estimate_from_records(records: Iterable[Record]) -> Estimate | None:
    """Estimate from what earlier trials of the sweep took.

    Args:
        records: Any records.

    Returns:
        Medians over the records; None without any.
    """
    found = list(records)
    if not found:
        return None
    run = [record.training.trained_tokens * run_share(record.sharing) for record in found]
    per_token = [record.phase_seconds("train") / tokens for record, tokens in zip(found, run, strict=True)]
    overhead = [record.phases[-1].end - record.phases[0].start - record.phase_seconds("train") for record in found]
    powers = [train.mean_w for record in found if (train := record.energy.phases.get("train")) and train.mean_w]
    return Estimate(
        statistics.median(per_token),
        statistics.median(overhead),
        statistics.median(powers) if powers else None,
        f"medians of {len(found)} finished trials in the ledger",
    )


def estimate_by_calibration(spec: SweepSpec, *, force: bool = False) -> Estimate | None:
    """Estimate from a few training steps on this machine; the result is cached.

    Args:
        spec: The sweep.
        force: Calibrate a large model too.

    Returns:
        The estimate; None where the model is too large (unless forced) or not known offline.
    """
    shape = model_shape(spec)
    if shape is None or (shape.params > CALIBRATION_MAX_PARAMS and not force):
        return None
    storage = LocalStorage(cache_directory() / "calibration")
    name = _calibration_name(spec, shape)
    stored = storage.read(name)
    if stored:
        return Estimate(**json.loads(stored))
    estimate = _calibrate(spec, shape)
    storage.write(name, json.dumps(asdict(estimate)).encode())
    return estimate


def _calibration_name(spec: SweepSpec, shape: ModelShape) -> str:
    parts = (
        cpu_name(),
        _device_of(spec),
        (spec.threads, spec.world),
        shape,
        spec.train,
        spec.eval,
        spec.energy,
        spec.data.sequence_length,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16] + ".json"


def _device_of(spec: SweepSpec) -> str | None:
    from rayscale.energy.reader import gpu_devices

    found = gpu_devices() if spec.resources.gpus != 0 else []
    return found[0].uuid if found else None


def _calibrate(spec: SweepSpec, shape: ModelShape) -> Estimate:
    """Time a few optimiser steps and one evaluation of the sweep's model on random tokens."""
    import importlib
    import time

    from rayscale.training.data import prepare
    from rayscale.training.preload import PRELOAD
    from rayscale.training.session import open_session

    length, batch = spec.data.sequence_length, spec.train.batch_size
    tokens = CALIBRATION_STEPS * batch * length
    source = SyntheticSpec(kind="zipf", vocab_size=shape.vocab_size, tokens=4 * tokens + spec.eval.tokens)
    toy = spec.model_copy(update={"data": DataSpec(synthetic=source, sequence_length=length, held_out=0.3)})
    toy = toy.model_copy(update={"eval": EvalSpec(tokens=min(spec.eval.tokens, batch * length))})
    # Models that are trained beforehand are no trial's work, and the toy corpus is too short for them.
    toy = toy.model_copy(update={"model": spec.model.model_copy(update={"pretrain": None, "distill_from": None})})
    device = _device_of(spec)
    devices = spec.resources.devices if device else 1
    toy = toy.model_copy(update={"resources": spec.resources.alone})  # what several make of it is an estimate
    for module in PRELOAD:  # trials are forked from a process that has these imported
        importlib.import_module(module)
    start = time.monotonic()
    session = open_session(
        toy, prepare(toy, cache_directory()), tokens=tokens, seed=0, repetition=0, device="cuda" if device else "cpu"
    )
    load_s = time.monotonic() - start
    session.warmup()
    start = time.monotonic()
    evaluation = session.evaluate()
    eval_s = (time.monotonic() - start) * spec.eval.tokens / evaluation.tokens
    start = time.monotonic()
    session.train(lambda _: None)
    session.synchronize()
    per_token = (time.monotonic() - start) / tokens / devices
    warmup_s = spec.train.warmup_steps * batch * length * per_token
    estimated = spec.energy.estimate
    return Estimate(
        per_token,
        2 * spec.energy.idle + load_s + 2 * eval_s + warmup_s,
        None if device else estimated.idle_w + estimated.w_per_cpu * spec.threads * spec.world,
        f"a calibration of {CALIBRATION_STEPS} steps on this machine"
        + (f", on one GPU and taken to be {devices} times as fast on {devices}" if devices > 1 else ""),
        planned_flops(spec, shape, tokens) / tokens,
    )


def plan_document(plan: Plan, estimate: Estimate | None, why_not: str | None) -> dict[str, Any]:
    """Write a plan as the JSON of design 4.6.

    Args:
        plan: The plan.
        estimate: How long trials take; None leaves times null.
        why_not: Why there is no estimate.

    Returns:
        `{trials: [...], totals: {...}}`.
    """
    first = plan.blocks()[0]
    flops = {condition_label(trial.condition): trial_flops(trial) for trial in first}
    teacher = {condition_label(one.condition): planned_teacher_flops(one.spec, one.tokens) for one in first}
    computed = {condition_label(trial.condition): computed_per_token(trial) for trial in first}
    run = run_tokens(plan)
    rows: list[dict[str, Any]] = [
        {
            "run_order": trial.run_order,
            "block": trial.block,
            "repetition": trial.repetition,
            "condition": trial.condition,
            "seed": trial.seed,
            "trial_key": trial.trial_key,
            "tokens": trial.tokens,
            "steps": math.ceil(trial.tokens / (trial.spec.train.batch_size * trial.spec.data.sequence_length)),
            "flops": flops[condition_label(trial.condition)],
            "teacher_flops": teacher[condition_label(trial.condition)],
            "segment_tokens": run[trial.trial_key],
            "train_s": estimate.train_s(run[trial.trial_key], computed[condition_label(trial.condition)])
            if estimate
            else None,
        }
        for trial in plan.trials
    ]
    for row in rows:
        row["time_s"] = None if estimate is None else estimate.overhead_s + row["train_s"]
    return {"name": plan.spec.name, "trials": rows, "totals": _totals(plan, rows, estimate, why_not)}


def _totals(plan: Plan, rows: list[dict[str, Any]], estimate: Estimate | None, why_not: str | None) -> dict[str, Any]:
    shape = model_shape(plan.spec)
    tokens = sum(trial.tokens for trial in plan.trials)
    run = sum(row["segment_tokens"] for row in rows)
    made = models_beforehand(trial.spec for trial in plan.blocks()[0])
    made_s = _beforehand_s(made, estimate) if estimate else None
    train_s = _sum([made_s, *(row["train_s"] for row in rows)])
    watts = estimate.watts if estimate else None
    flops = _sum([row["flops"] for row in rows])
    large = (
        estimate is None and shape is not None and shape.params > CALIBRATION_MAX_PARAMS
    )  # MFU says nothing of small
    return {
        "trials": len(rows),
        "tokens": tokens,
        "run_tokens": run,
        "saved_share": 1 - run / tokens,
        "flops": flops,
        "flops_6nd": flops_6nd(shape, tokens) if shape else None,
        "teacher_flops": _sum([row["teacher_flops"] for row in rows]),
        "beforehand": {
            "models": [asdict(model) for model in made],
            "flops": _sum([model.flops for model in made]) if made else 0.0,
            "time_s": made_s,
        },
        "params": shape.params if shape else None,
        "time_s": _sum([made_s, *(row["time_s"] for row in rows)]),
        "energy_kwh": train_s * watts / 3.6e6 if train_s is not None and watts is not None else None,
        "estimate": estimate.source if estimate else None,
        "memory": memory_outlook(plan.spec, shape, _gpu_bytes(plan.spec)) if shape else None,
        "assumed_train_s": assumed_times(flops * run / tokens, plan.spec.train.precision) if large and flops else None,
        "notes": [*([why_not] if why_not and not estimate else []), *_rank_notes(plan.spec), *_treatment_notes(plan)],
    }


def _rank_notes(spec: SweepSpec) -> list[str]:
    """Say that several processes train a trial, and where this machine lacks the GPUs for it."""
    if spec.world == 1:
        return []
    if not spec.resources.needs_gpus:
        return [f"each trial trains with {spec.world} ranks on the CPU ({spec.train.parallel})"]
    from rayscale.energy.reader import gpu_devices

    here = len(gpu_devices())
    lack = f"; this machine has {here}, so the sweep needs another" if here < spec.world else ""
    return [f"each trial trains on {spec.world} GPUs of one node ({spec.train.parallel}){lack}"]


def _beforehand_s(made: Sequence[ModelBeforehand], estimate: Estimate) -> float:
    """Reckon the training of models beforehand at the speed of the trials', in proportion to FLOPs where known."""
    per_token = ((model, None if model.flops is None else model.flops / model.tokens) for model in made)
    return math.fsum(estimate.train_s(model.tokens, flops) for model, flops in per_token)


def _treatment_notes(plan: Plan) -> list[str]:
    return list(dict.fromkeys(note for trial in plan.blocks()[0] for note in treatment_notes(trial.spec)))


def _gpu_bytes(spec: SweepSpec) -> int | None:
    from rayscale.energy.reader import gpu_devices

    found = gpu_devices() if spec.resources.gpus != 0 else []
    return found[0].memory_bytes if found else None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None
