"""A believable finished ledger for tests: plan, records and power traces, without training anything.

Losses follow a power law of the tokens plus what a repetition's trials share; power follows a first-order rise to a
plateau; energy is the integral of the very trace that is written, so that numbers and traces agree. The same seed
gives the same ledger, bit for bit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayscale.design import Trial, plan_sweep
from rayscale.energy.layout import TraceMeta, schema_of
from rayscale.ledger import Ledger
from rayscale.record import (
    Device,
    EnergyResult,
    Evaluation,
    Phase,
    PhaseEnergy,
    PhaseName,
    Quality,
    Reason,
    Record,
    Training,
)
from rayscale.spec import SweepSpec

PARAMS = 1_049_728
MATMUL_PARAMS = 917_504
START = datetime(2026, 1, 10, 9, 0, 0, tzinfo=UTC)
ESTIMATE = "estimated: 5 W + 10 W per busy CPU (declared constants, not measured)"
MEASURED = "NVML cumulative energy counter of the device (nvmlDeviceGetTotalEnergyConsumption)"


@dataclass(frozen=True)
class Machine:
    """What the simulated trials run on. Units: tokens/s, W, degrees Celsius."""

    device: Device
    tokens_per_s: float
    idle_w: float
    context_w: float
    load_w: float
    rise_s: float


CPU = Machine(
    Device(kind="cpu", uuid="cpu:0@laptop", name="AMD Ryzen 7 5800U", host="laptop", tflops_bench=0.085),
    tokens_per_s=9_000,
    idle_w=5.1,
    context_w=5.2,
    load_w=14.8,
    rise_s=0.0,
)
GPU = Machine(
    Device(
        kind="cuda",
        uuid="GPU-4d1f0c52-6a0b-4b57-9d3e-7a2c51c0a001",
        name="NVIDIA A100-SXM4-40GB",
        host="gpu-box",
        tflops_bench=248.0,
        peak_tflops=312.0,
    ),
    tokens_per_s=12_000,
    idle_w=54.0,
    context_w=71.0,
    load_w=318.0,
    rise_s=0.3,
)


def example_spec(repetitions: int = 5, **changes: object) -> SweepSpec:
    """Return the sweep that `make_ledger` runs by default: 3 token counts of a 1 M parameter Llama.

    Args:
        repetitions: Number of blocks.
        **changes: Top-level sections to replace, as in a sweep file.

    Returns:
        The sweep.
    """
    tree: dict[str, object] = {
        "name": "quickstart",
        "design": {"factors": {"tokens": [12_500, 25_000, 50_000]}, "repetitions": repetitions, "seed": 2601},
        "model": {"config": {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4}},
        "data": {
            "corpus": "python-stdlib",
            "max_bytes": "6MB",
            "tokenizer": {"bpe": 2048},
            "sequence_length": 128,
        },
        "train": {"batch_size": 4, "learning_rate": 3.0e-3, "warmup_tokens": 2048},
        "eval": {"tokens": 16_384},
        "energy": {"period": "100ms", "idle": "1s"},
    }
    return SweepSpec.model_validate(tree | changes)


def make_ledger(
    directory: Path, spec: SweepSpec | None = None, repetitions: int = 5, seed: int = 0, estimated: bool = True
) -> Ledger:
    """Write a finished ledger.

    Args:
        directory: Storage; the ledger lies at `<directory>/<sweep name>`.
        spec: The sweep; None takes `example_spec(repetitions)`.
        repetitions: Number of blocks, when no spec is given.
        seed: Seed of the simulated noise.
        estimated: True: a laptop whose energy is an estimate; False: one A100 read through NVML.

    Returns:
        The ledger: every planned trial has one attempt with `power.parquet` and a record.
    """
    plan = plan_sweep(spec or example_spec(repetitions))
    ledger = Ledger(directory / plan.spec.name)
    ledger.write_plan(plan, {"rayscale": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "git_revision": None})
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.0, 0.02, plan.spec.design.repetitions)  # what the trials of one repetition have in common
    clock = 81_234.5
    for trial in plan.trials:
        attempt = ledger.new_attempt(trial.trial_key)
        record, trace = simulate_trial(trial, CPU if estimated else GPU, clock, float(shared[trial.repetition]), rng)
        pq.write_table(trace, ledger.attempt_directory(trial.trial_key, attempt) / "power.parquet")
        ledger.write_record(record.model_copy(update={"attempt": attempt}))
        clock = record.phases[-1].end + 0.4
    return ledger


def simulate_trial(
    trial: Trial, machine: Machine, clock: float, shared: float, rng: np.random.Generator
) -> tuple[Record, pa.Table]:
    """Make up one trial.

    Args:
        trial: The trial.
        machine: What it runs on.
        clock: CLOCK_MONOTONIC at its start, in s.
        shared: Deviation of the loss that all trials of the repetition share, in nats per token.
        rng: Source of the noise.

    Returns:
        The record and the power trace as an Arrow table with columns t, power_w, instant_w, energy_j, ...
    """
    phases = _phases(trial, machine, clock, rng)
    t, power = _power(phases, machine, trial.spec.energy.period, rng)
    energy = _energy(phases, t, power, machine)
    loss = 3.9 + 9.0 * trial.tokens**-0.12 + shared + float(rng.normal(0, 0.008))
    estimated = machine.device.kind == "cpu"
    reasons = [Reason(code="estimated", detail="energy is a model, not a measurement")] if estimated else []
    record = Record(
        sweep=trial.spec.name,
        trial_key=trial.trial_key,
        condition=trial.condition,
        repetition=trial.repetition,
        block=trial.block,
        run_order=trial.run_order,
        seed=trial.seed,
        attempt=1,
        started_at=(START + timedelta(seconds=clock - 81_234.5)).isoformat(timespec="milliseconds"),
        device=machine.device,
        phases=phases,
        training=_training(trial, loss, rng),
        evaluation=Evaluation(
            tokens=trial.spec.eval.tokens,
            loss_before=7.64 + shared,
            loss=loss,
            perplexity=math.exp(loss),
            bits_per_byte=loss / math.log(2) / 3.1,
            eval_s=phases[-1].duration_s,
        ),
        energy=energy,
        quality=Quality(verdict="suspect" if estimated else "clean", reasons=reasons),
        environment={"python": "3.11.9", "torch": "2.13.0", "host": machine.device.host, "precision": "fp32"},
    )
    return record, _table(t, power, energy, trial.spec.energy.period, machine)


def _phases(trial: Trial, machine: Machine, clock: float, rng: np.random.Generator) -> list[Phase]:
    idle = trial.spec.energy.idle
    train = trial.tokens / machine.tokens_per_s * float(rng.normal(1.0, 0.01))
    evaluation = trial.spec.eval.tokens / machine.tokens_per_s / 3
    lengths: list[tuple[PhaseName, float]] = [
        ("idle", idle),
        ("load", 0.34),
        ("context_idle", idle),
        ("warmup", 0.21),
        ("eval", evaluation),
        ("train", train),
        ("eval", evaluation),
    ]
    phases = []
    for name, length in lengths:
        phases.append(Phase(name=name, start=clock, end=clock + length))
        clock += length + 0.002
    return phases


def _power(
    phases: list[Phase], machine: Machine, period: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a power curve that rises to each phase's plateau. Units: s, W."""
    level = {"idle": machine.idle_w, "context_idle": machine.context_w, "load": 0.6 * machine.load_w}
    t = np.arange(phases[0].start - period, phases[-1].end + 1.5 * period, period)
    target = np.full(t.size, machine.idle_w)
    for phase in phases:
        target[(t >= phase.start) & (t < phase.end)] = level.get(phase.name, machine.load_w)
    step = 1 - math.exp(-period / machine.rise_s) if machine.rise_s else 1.0
    power = np.empty(t.size)
    now = machine.idle_w
    for index, wanted in enumerate(target):
        now += step * (wanted - now)
        power[index] = now
    return t, np.maximum(power * (1 + rng.normal(0, 0.015, t.size)), 0.5)


def _integral(t: np.ndarray, power: np.ndarray, start: float, end: float) -> float:
    """Integrate power that holds from each sample to the next. Units: J."""
    edges = np.clip(np.append(t, np.inf), start, end)
    return float(np.sum(power * np.diff(edges)))


def _measured(windows: list[tuple[float, float]], t: np.ndarray, power: np.ndarray) -> PhaseEnergy:
    duration = sum(end - start for start, end in windows)
    joules = sum(_integral(t, power, start, end) for start, end in windows)
    squares = sum(_integral(t, power**2, start, end) for start, end in windows)
    return PhaseEnergy(
        duration_s=duration,
        energy_j=joules,
        counter_j=joules,
        integral_j=joules * 1.002,
        bound_j=0.05 * joules / max(duration, 0.1),
        mean_w=joules / duration if duration else None,
        rms_w=math.sqrt(squares / duration) if duration else None,
        samples=int(sum(((t >= start) & (t < end)).sum() for start, end in windows)),
        coverage=1.0,
    )


def _energy(phases: list[Phase], t: np.ndarray, power: np.ndarray, machine: Machine) -> EnergyResult:
    parts: dict[str, PhaseEnergy] = {}
    for name in dict.fromkeys(phase.name for phase in phases):
        parts[name] = _measured([(phase.start, phase.end) for phase in phases if phase.name == name], t, power)
    gaps = [(earlier.end, later.start) for earlier, later in itertools.pairwise(phases)]
    outside = {"settling": [(float(t[0]), phases[0].start)], "between": gaps}
    gpu = machine.device.kind == "cuda"
    return EnergyResult(
        source="nvml" if gpu else "estimated",
        method=MEASURED if gpu else ESTIMATE,
        estimated=not gpu,
        phases=parts,
        net_energy_j=(parts["train"].energy_j or 0.0) - machine.context_w * parts["train"].duration_s,
        net_baseline="context_idle",
        idle_w=machine.context_w,
        idle_sd_w=0.2,
        temp_start_c=41.0 if gpu else None,
        temp_end_c=55.0 if gpu else None,
        outside={name: _measured(windows, t, power) for name, windows in outside.items()},
        sampler={"polls": t.size, "missed": 0, "latency_p99_s": 0.0004},
    )


def _training(trial: Trial, loss: float, rng: np.random.Generator) -> Training:
    row = trial.spec.train.batch_size * trial.spec.data.sequence_length
    steps = math.ceil(trial.tokens / row)
    return Training(
        steps=steps,
        trained_tokens=trial.tokens,
        processed_tokens=steps * row,
        epochs=trial.tokens / 1_500_000,
        params=PARAMS,
        matmul_params=MATMUL_PARAMS,
        train_loss=loss - 0.11,
        loss_digest=hashlib.sha256(json.dumps([trial.trial_key, loss]).encode()).hexdigest(),
        flops=6.0 * MATMUL_PARAMS * trial.tokens * 1.1,
        flops_6nd=6.0 * PARAMS * trial.tokens,
        precision="fp32",
        threads=trial.spec.threads,
        import_s=0.03,
        build_s=float(rng.normal(0.09, 0.004)),
        data_s=0.18,
        compile_s=0.0,
        warmup_s=0.21,
    )


def _table(t: np.ndarray, power: np.ndarray, energy: EnergyResult, period: float, machine: Machine) -> pa.Table:
    """Lay the trace out as the energy package does: a counter's difference quotient speaks of the time before."""
    gpu = machine.device.kind == "cuda"
    counter = np.concatenate([[0.0], np.cumsum(power[:-1] * np.diff(t))])
    before: list[float | None] = [None, *power[:-1].tolist()]
    meta = TraceMeta(
        source="nvml" if gpu else "estimated",
        method=energy.method,
        estimated=energy.estimated,
        period_s=period,
        counter_resolution_s=0.02 if gpu else 0.0,
        device_uuid=machine.device.uuid,
        device_name=machine.device.name,
    )
    missing = [None] * t.size
    columns = {
        "t": t.tolist(),
        "power_w": power.tolist() if gpu else before,
        "instant_w": power.tolist() if gpu else missing,
        "energy_j": counter.tolist(),
        "temperature_c": np.linspace(41.0, 55.0, t.size).tolist() if gpu else missing,
        "sm_clock_mhz": [1410.0] * t.size if gpu else missing,
        "throttle": missing,
        "latency_s": [0.0002] * t.size,
    }
    schema = schema_of(meta)
    return pa.table({name: columns.get(name, missing) for name in schema.names}, schema=schema)
