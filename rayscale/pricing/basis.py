"""What a price rests on: an earlier ledger on that hardware, a calibration on this machine, or stated assumptions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rayscale.design import Plan
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.planning import Estimate, estimate_by_calibration, model_shape, trial_flops
from rayscale.pricing.hardware import ASSUMED_BUSY, ASSUMED_IDLE, ASSUMED_LOAD_S, ASSUMED_MFU, HARDWARE, Range
from rayscale.pricing.price import Basis
from rayscale.record import PhaseName, Record
from rayscale.segments import run_share
from rayscale.spec import SweepSpec
from rayscale.storage import join, open_storage
from rayscale.training.flops import evaluation_flops
from rayscale.training.peaks import peak_tflops

CALIBRATION_SPREAD = 0.25
"""A calibration of a few steps is taken to be right within this, relatively; an assumption."""
OTHER_MODEL = 3.0
"""From this ratio of FLOPs per token on, rates of another model are warned about."""
SMALL_MODEL = 100_000_000
"""Below so many parameters the assumed utilisation is warned about."""


def find_basis(plan: Plan, key: str, storage: str | Path) -> Basis | None:
    """Choose what a price rests on.

    Args:
        plan: The plan.
        key: `this` or a key of `HARDWARE`.
        storage: Where earlier ledgers lie.

    Returns:
        The basis; None if this machine has no ledger and the model is too large to calibrate.

    Raises:
        InputError: If the hardware is unknown.
    """
    if key != "this" and key not in HARDWARE:
        raise InputError(f"--hardware {key}: expected this, {', '.join(HARDWARE)}")
    fits = _this_device(plan.spec) if key == "this" else lambda name: key in name.lower()
    records = earlier_records(storage, plan, fits)
    if records:
        return basis_from_records(records, plan)
    if key != "this":
        return assumed_basis(key, plan)
    estimate = estimate_by_calibration(plan.spec)
    return None if estimate is None else calibrated_basis(estimate, plan)


def _this_device(spec: SweepSpec) -> Callable[[str], bool]:
    from rayscale.energy.reader import gpu_devices
    from rayscale.environment import cpu_name

    found, count = gpu_devices() if spec.resources.gpus != 0 else [], spec.resources.devices
    name = (found[0].name if count == 1 else f"{count} x {found[0].name}") if found else cpu_name()
    return lambda device: device == name


def earlier_records(storage: str | Path, plan: Plan, fits: Callable[[str], bool]) -> list[Record]:
    """Find records of earlier sweeps on some device.

    Args:
        storage: Where ledgers lie.
        plan: The plan; the sweep's own ledger is preferred, then the one with the nearest FLOPs per token.
        fits: Tells whether a device name is the hardware.

    Returns:
        Records of one ledger; empty if there is none.
    """
    wanted, devices = _flops_per_token(plan), plan.spec.resources.devices
    found: list[tuple[float, list[Record]]] = []
    for name in open_storage(storage).list(""):
        try:
            known = Ledger(join(storage, name)).records()
            records = [one for one in known if fits(one.device.name) and one.device.count == devices]
        except (InputError, OSError):
            continue  # no ledger (mlflow.db lies beside them), or one that cannot be read: it prices nothing
        if records:
            own = name == plan.spec.name
            found.append((-1.0 if own else _distance(records, wanted), records))
    return min(found, key=lambda entry: entry[0])[1] if found else []


def _flops_per_token(plan: Plan) -> float | None:
    """Median over the conditions: sizes may be one of the factors."""
    block = plan.blocks()[0]
    flops = [trial_flops(trial) for trial in block]
    known = [number / trial.tokens for number, trial in zip(flops, block, strict=True) if number is not None]
    return statistics.median(known) if len(known) == len(block) else None


def _distance(records: list[Record], wanted: float | None) -> float:
    if wanted is None:
        return 0.0
    return abs(math.log(statistics.median(r.training.flops / r.training.trained_tokens for r in records) / wanted))


def basis_from_records(records: Sequence[Record], plan: Plan) -> Basis:
    """Measure rates and powers of an earlier ledger.

    Args:
        records: Its trials, at least one.
        plan: The plan that is priced.

    Returns:
        Quantiles (10 %, 50 %, 90 %) over the trials.
    """
    passes = [1 if record.evaluation.loss_before is None else 2 for record in records]
    forward = [_forward_flops(record) for record in records]
    eval_rates = [
        f * record.evaluation.tokens * n / seconds
        for record, f, n in zip(records, forward, passes, strict=True)
        if (seconds := record.phase_seconds("eval")) > 0
    ]
    train_rates = [
        (r.training.flops + (r.training.teacher_flops or 0.0)) * run_share(r.sharing) / seconds
        for r in records
        if (seconds := r.phase_seconds("train")) > 0
    ]
    busy = [watts for r in records if (watts := _mean_w(r, "train")) is not None]
    idle = [watts for r in records if (watts := r.energy.idle_w) is not None]
    loads = [_load_s(record) for record in records]
    notes = []
    wanted, first = _flops_per_token(plan), records[0]
    if wanted is not None and _distance(list(records), wanted) > math.log(OTHER_MODEL):
        notes.append("the earlier ledger trained a model of another size: its rate may not carry over")
    if any(record.energy.estimated for record in records):
        notes.append("the powers of the earlier ledger are estimates, not measurements")
    return Basis(
        kind="ledger",
        source=f"{len(records)} trials of ledger {first.sweep} on {first.device.name}",
        train_rate=_quantiles(train_rates),
        eval_rate=_quantiles(eval_rates or train_rates),
        busy_w=_quantiles(busy) if busy else None,
        idle_w=_quantiles(idle) if idle else None,
        load_s=_quantiles(loads),
        notes=notes,
    )


def _load_s(record: Record) -> float:
    """Time to load, without models that this trial was the first to need and trained: these are priced apart."""
    load, facts = record.phase_seconds("load"), record.environment.get("training") or {}
    for name in ("teacher", "pretrain"):
        made = (facts.get(name) or {}).get("training_s") or 0.0
        load -= made if load > made else 0.0
    return load


def _forward_flops(record: Record) -> float:
    """FLOPs of one token's forward pass; a third of training's in records that do not count it apart."""
    evaluation, training = record.evaluation, record.training
    if training.matmul_flops is not None and evaluation.flops is not None:
        return evaluation.flops / evaluation.tokens
    return training.flops / 3 / training.trained_tokens


def _mean_w(record: Record, phase: PhaseName) -> float | None:
    found = record.energy.phases.get(phase)
    return found.mean_w if found else None


def _quantiles(values: Sequence[float]) -> Range:
    if len(values) == 1:
        return Range.exact(values[0])
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Range(tenths[0], statistics.median(values), tenths[-1])


def assumed_basis(key: str, plan: Plan) -> Basis:
    """Assume rates and powers from a data sheet.

    Args:
        key: A key of `HARDWARE`.
        plan: The plan; its precision decides the peak.

    Returns:
        The basis, with every assumed number.
    """
    hardware = HARDWARE[key]
    precision = "fp32" if plan.spec.train.precision == "fp32" else "bf16"
    peak = peak_tflops(hardware.device, precision)
    if peak is None:
        raise InputError(f"--hardware {key}: no {precision} peak is known for {hardware.device}")
    shape = model_shape(plan.spec)
    devices = plan.spec.resources.devices
    rate = ASSUMED_MFU.times(devices * peak * 1e12)
    notes = ["no earlier ledger on this hardware: utilisation and power are assumed, not measured"]
    if devices > 1:
        notes.append(f"{devices} GPUs per trial are taken to be {devices} times as fast; less is usual")
    if shape is not None and shape.params < SMALL_MODEL:
        notes.append("models and batches this small reach far less than the assumed utilisation on a GPU")
    return Basis(
        kind="assumed",
        source=f"{hardware.source}; assumed utilisation and power",
        train_rate=rate,
        eval_rate=rate,
        busy_w=ASSUMED_BUSY.times(devices * hardware.board_w),
        idle_w=ASSUMED_IDLE.times(devices * hardware.board_w),
        load_s=ASSUMED_LOAD_S,
        assumptions={
            "peak_tflops": peak,
            "precision": precision,
            "mfu": asdict(ASSUMED_MFU),
            "board_w": hardware.board_w,
            "busy_share": asdict(ASSUMED_BUSY),
            "idle_share": asdict(ASSUMED_IDLE),
        },
        notes=notes,
    )


def calibrated_basis(estimate: Estimate, plan: Plan) -> Basis | None:
    """Turn a calibration on this machine into rates.

    Args:
        estimate: The calibration.
        plan: The plan.

    Returns:
        The basis, `CALIBRATION_SPREAD` wide; None if the model's FLOPs are not known.
    """
    per_token, shape, spec = estimate.flops_per_token or _flops_per_token(plan), model_shape(plan.spec), plan.spec
    if per_token is None or shape is None:
        return None
    spread = Range(1 - CALIBRATION_SPREAD, 1.0, 1 + CALIBRATION_SPREAD)
    rate = spread.times(per_token / estimate.seconds_per_token)
    evaluation = 2 * evaluation_flops(shape, spec.eval.tokens, spec.data.sequence_length) / rate.typical
    warmup = spec.train.warmup_steps * spec.train.batch_size * spec.data.sequence_length * estimate.seconds_per_token
    load = max(estimate.overhead_s - 2 * spec.energy.idle - warmup - evaluation, 0.0)
    watts = None if estimate.watts is None else Range.exact(estimate.watts)
    return Basis(
        kind="calibration",
        source=estimate.source,
        train_rate=rate,
        eval_rate=rate,
        busy_w=watts,
        idle_w=None if watts is None else Range.exact(spec.energy.estimate.idle_w),
        load_s=Range.exact(load),
        assumptions={"spread": CALIBRATION_SPREAD},
        notes=["power is the declared estimate (energy.estimate), not a measurement"] if watts else [],
    )
