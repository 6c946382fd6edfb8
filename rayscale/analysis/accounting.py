"""What a sweep took: FLOPs, device-hours, energy, per trial, per level and in all, with its own overhead listed.

    account = operations (FLOP) + parts (train, eval, warmup, idle, ..., failed attempts), each with seconds and energy

Accounts add: a level is the sum of its trials, the sweep the sum of its levels and of the failed attempts, and a trial
the sum of its parts. Carbon and money are linear in an account, and are made from it last (`accounting_rates`). Energy
is that of the device; nothing that was not measured or stated is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.record import Level, PhaseEnergy, Record
from rayscale.segments import run_share

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0

RESULTS = ("train", "eval", "eval_quantized")
"""Parts of an account that a study is made for."""
PURPOSES = (*RESULTS, "warmup", "idle", "context_idle", "load", "settling", "between", "failed")
"""Parts of an account, in the order in which they are shown; all but `RESULTS` are the sweep's overhead."""

PURPOSE_NAMES = {
    "train": "training",
    "eval": "evaluation",
    "eval_quantized": "evaluation, quantised",
    "warmup": "warm-up",
    "idle": "idle baseline",
    "context_idle": "idle baseline with context",
    "load": "loading and building",
    "settling": "start of the attempt and settling",
    "between": "between phases",
    "failed": "failed and repeated attempts",
}


@dataclass(frozen=True)
class Part:
    """Time and energy of one purpose.

    Attributes:
        seconds: Time on the device, on several devices that of all of them. Units: s.
        energy_j: Energy that is known. Units: J.
        bound_j: Half-width of it; bounds add up linearly, since a sensor's error is a constant of its card. Units: J.
        unknown_s: Time whose energy is not known. Units: s.
        unbounded_s: Time whose energy is known without a bound. Units: s.
    """

    seconds: float = 0.0
    energy_j: float = 0.0
    bound_j: float = 0.0
    unknown_s: float = 0.0
    unbounded_s: float = 0.0

    @classmethod
    def of(cls, seconds: float, energy_j: float | None, bound_j: float | None = None) -> Part:
        """Make a part; an energy or bound that is None is counted as unknown time, not as 0 J."""
        return cls(
            seconds,
            energy_j or 0.0,
            bound_j or 0.0,
            unknown_s=seconds if energy_j is None else 0.0,
            unbounded_s=seconds if energy_j is not None and bound_j is None else 0.0,
        )

    def on(self, devices: int) -> Part:
        """Turn time that several devices spent together into the time of each, added up; the energy is theirs."""
        times = (devices * self.seconds, devices * self.unknown_s, devices * self.unbounded_s)
        return Part(times[0], self.energy_j, self.bound_j, times[1], times[2])

    @property
    def energy(self) -> float | None:
        """The energy if it is known for all of the time, else None. Units: J."""
        return None if self.unknown_s > 0 else self.energy_j

    @property
    def bound(self) -> float | None:
        """The bound if energy and bound are known for all of the time, else None. Units: J."""
        return None if self.unknown_s > 0 or self.unbounded_s > 0 else self.bound_j


def add_parts(parts: Iterable[Part]) -> Part:
    """Add up parts, each number with a correctly rounded sum."""
    rows = list(parts)
    names = ("seconds", "energy_j", "bound_j", "unknown_s", "unbounded_s")
    return Part(**{name: math.fsum(getattr(row, name) for row in rows) for name in names})


@dataclass(frozen=True)
class Operations:
    """Arithmetic of accepted trials. Units: FLOP.

    Attributes:
        training: Exact count: matrix products and attention.
        matmul: Of it, 6·N_matmul·D: products with weights.
        attention: Of it, 12·L·H·Q·T·D: products of activations.
        rule_6nd: 6·N·D with all parameters.
        embedding: Part of 6·N·D for parameters in no matrix product (embedding tables, norms); no arithmetic is done.
        evaluation: Forward passes of the evaluations.
        teacher: Forward passes of distillation's teachers while training; not in `training`.
    """

    training: float = 0.0
    matmul: float = 0.0
    attention: float = 0.0
    rule_6nd: float = 0.0
    embedding: float = 0.0
    evaluation: float = 0.0
    teacher: float = 0.0


OPERATIONS = ("training", "matmul", "attention", "rule_6nd", "embedding", "evaluation", "teacher")


@dataclass(frozen=True)
class Account:
    """What something took.

    Attributes:
        operations: FLOPs of accepted trials.
        parts: Purpose -> time and energy.
        trials: Number of accepted trials.
        tokens: Trained tokens of accepted trials.
    """

    operations: Operations = Operations()
    parts: Mapping[str, Part] = field(default_factory=dict)
    trials: int = 0
    tokens: int = 0

    @property
    def total(self) -> Part:
        """All parts together."""
        return add_parts(self.parts.values())

    @property
    def overhead(self) -> Part:
        """All parts but training and evaluation."""
        return add_parts(part for name, part in self.parts.items() if name not in RESULTS)


def add_accounts(accounts: Iterable[Account]) -> Account:
    """Add up accounts.

    Args:
        accounts: Any number.

    Returns:
        The sum; the order of the accounts does not matter, each number is a correctly rounded sum.
    """
    rows = list(accounts)
    sums = {name: math.fsum(getattr(row.operations, name) for row in rows) for name in OPERATIONS}
    names = [name for name in PURPOSES if any(name in row.parts for row in rows)]
    parts = {name: add_parts(row.parts[name] for row in rows if name in row.parts) for name in names}
    return Account(Operations(**sums), parts, sum(row.trials for row in rows), sum(row.tokens for row in rows))


def operations_of(record: Record) -> Operations:
    """Split the FLOPs of a trial.

    Args:
        record: The trial.

    Returns:
        The count. The evaluation before training counts. Records from before `Evaluation.flops` and `matmul_flops` are
        those of plain training: a forward pass is a third of it, and products with weights are 6·N_matmul·D. Of a
        trunk that another trial ran nothing counts.
    """
    training, evaluation = record.training, record.evaluation
    known = 6.0 * training.matmul_params * training.trained_tokens
    matmul = known if training.matmul_flops is None else training.matmul_flops
    third = training.flops / 3 / training.trained_tokens if training.trained_tokens else 0.0
    once = third * evaluation.tokens if training.matmul_flops is None else evaluation.flops or 0.0
    passes = (evaluation.loss_before is not None) + 1 + (evaluation.quantized is not None)
    run = run_share(record.sharing)
    return Operations(
        training=run * training.flops,
        matmul=run * matmul,
        attention=run * (training.flops - matmul),
        rule_6nd=run * training.flops_6nd,
        embedding=run * (training.flops_6nd - known),
        evaluation=once * passes,
        teacher=run * (training.teacher_flops or 0.0),
    )


def phase_parts(record: Record) -> dict[str, Part]:
    """Split time and energy of a trial by phase.

    Args:
        record: The trial.

    Returns:
        Phase name -> part, and `between`: what lies between the phases, whose energy no phase holds.
    """
    names, devices = dict.fromkeys(phase.name for phase in record.phases), record.device.count
    parts = {}
    for name in names:
        energy = record.energy.phases.get(name, PhaseEnergy(duration_s=0.0, energy_j=None))
        parts[str(name)] = Part.of(devices * record.phase_seconds(name), energy.energy_j, energy.bound_j)
    if record.phases:
        span = max(phase.end for phase in record.phases) - min(phase.start for phase in record.phases)
        gap = max(devices * span - math.fsum(part.seconds for part in parts.values()), 0.0)
        if gap > 0:
            parts["between"] = Part.of(gap, None)
    return parts


def trial_account(record: Record, waiting: Mapping[str, Part] | None = None) -> Account:
    """Account for an accepted trial.

    Args:
        record: The trial.
        waiting: Further parts that the record does not hold (`settling`, `between` with its energy).

    Returns:
        The account.
    """
    parts = {**phase_parts(record), **(waiting or {})}
    return Account(operations_of(record), parts, 1, round(record.training.trained_tokens * run_share(record.sharing)))


@dataclass(frozen=True)
class LostAttempt:
    """An attempt that was not accepted.

    Attributes:
        trial_key: Its trial.
        attempt: Its number.
        reason: Why it was not accepted.
        condition: Its condition.
        part: Time and energy that it took.
    """

    trial_key: str
    attempt: int
    reason: str
    condition: Mapping[str, Level]
    part: Part


@dataclass(frozen=True)
class SweepAccount:
    """What a sweep took.

    Attributes:
        trials: Trial key -> account of the accepted attempt.
        lost: Attempts that were not accepted.
        levels: Condition label -> account: its trials and its lost attempts.
        sweep: All of it.
        hardware: Device name -> account of the accepted trials on it.
    """

    trials: Mapping[str, Account]
    lost: Sequence[LostAttempt]
    levels: Mapping[str, Account]
    sweep: Account
    hardware: Mapping[str, Account]


def account_sweep(
    records: Sequence[Record],
    lost: Sequence[LostAttempt] = (),
    waiting: Mapping[str, Mapping[str, Part]] | None = None,
) -> SweepAccount:
    """Account for a sweep.

    Args:
        records: The accepted trials, those with an invalid energy too: they were paid for.
        lost: Attempts that were not accepted.
        waiting: Trial key -> parts of the accepted attempt outside its phases.

    Returns:
        Trials, levels (in order of first appearance, tokens ascending), sweep.
    """
    waiting = waiting or {}
    trials = {record.trial_key: trial_account(record, waiting.get(record.trial_key)) for record in records}
    grouped: dict[str, list[Account]] = {}
    devices: dict[str, list[Account]] = {}
    for record in sorted(records, key=lambda record: float(record.condition.get("tokens", 0))):
        grouped.setdefault(label_of(record.condition), []).append(trials[record.trial_key])
        devices.setdefault(record.device.name, []).append(trials[record.trial_key])
    for attempt in lost:
        grouped.setdefault(label_of(attempt.condition), []).append(Account(parts={"failed": attempt.part}))
    levels = {label: add_accounts(accounts) for label, accounts in grouped.items()}
    return SweepAccount(
        trials=trials,
        lost=tuple(lost),
        levels=levels,
        sweep=add_accounts([*trials.values(), *(Account(parts={"failed": attempt.part}) for attempt in lost)]),
        hardware={name: add_accounts(accounts) for name, accounts in devices.items()},
    )


def label_of(condition: Mapping[str, Level]) -> str:
    """Name a condition as the design does: `tokens=500000,train.precision=bf16`."""
    return ",".join(f"{name}={level}" for name, level in condition.items())


def part_tree(part: Part) -> dict[str, Any]:
    """Write a part for JSON.

    Args:
        part: The part.

    Returns:
        `device_hours, energy_kwh, bound_kwh, energy_known_kwh, unknown_hours`; energy and bound null where unknown.
    """
    energy, bound = part.energy, part.bound
    return {
        "device_hours": part.seconds / SECONDS_PER_HOUR,
        "energy_kwh": None if energy is None else energy / JOULES_PER_KWH,
        "bound_kwh": None if bound is None else bound / JOULES_PER_KWH,
        "energy_known_kwh": part.energy_j / JOULES_PER_KWH,
        "unknown_hours": part.unknown_s / SECONDS_PER_HOUR,
    }


def operations_tree(operations: Operations) -> dict[str, float]:
    """Write FLOPs for JSON. Units: FLOP."""
    return {name: getattr(operations, name) for name in OPERATIONS}


def device_hours(flops: float, tflops: float) -> float:
    """Convert FLOPs to device-hours at a sustained rate.

    Args:
        flops: Units: FLOP.
        tflops: Sustained rate. Units: TFLOP/s.

    Returns:
        Units: h.
    """
    return flops / (tflops * 1e12) / SECONDS_PER_HOUR


def rule_6nd(params: float, tokens: float) -> float:
    """Count training FLOPs as 6·N·D (Kaplan et al. 2020, arXiv 2001.08361).

    Args:
        params: N.
        tokens: D.

    Returns:
        Units: FLOP.
    """
    return 6.0 * params * tokens
