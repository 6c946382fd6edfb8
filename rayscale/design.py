"""From a sweep to its trials: factor grid x repetitions, run order within blocks, seeds, trial keys.

Every random choice is a hash of the study seed and names, not a draw from a library's generator. So the plan is the
same on every machine and Python version, and *nested*: more repetitions or levels leave the order of what was there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayscale.spec import TRIAL_SECTIONS, Level, SweepSpec

Condition = dict[str, Level]

KEY_VERSION = 1
"""Raised when the meaning of a trial changes without any setting changing."""


@dataclass(frozen=True)
class Trial:
    """One condition in one repetition.

    Attributes:
        trial_key: Identity: first 16 hex digits of a sha256 over all that changes the result.
        condition: Factor -> level.
        repetition: Index of the repetition (subject), from 0.
        block: Index of the block; equals the repetition.
        run_order: Position in the whole sweep, from 0.
        seed: Seed of initial weights and data order, shared within the repetition.
        tokens: The budget.
        spec: The sweep with the condition's levels applied.
    """

    trial_key: str
    condition: Condition
    repetition: int
    block: int
    run_order: int
    seed: int
    tokens: int
    spec: SweepSpec


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep in run order."""

    spec: SweepSpec
    trials: tuple[Trial, ...]

    def blocks(self) -> list[list[Trial]]:
        """Group the trials by block, both in run order.

        Returns:
            One list per block.
        """
        return [list(group) for _, group in itertools.groupby(self.trials, key=lambda trial: trial.block)]


def plan_sweep(spec: SweepSpec) -> Plan:
    """Lay out a sweep.

    Args:
        spec: The validated sweep.

    Returns:
        The plan: blocks one after the other, conditions within a block in the design's order.

    Raises:
        ValueError: If a factor's level does not fit its setting (the sweep file's reader reports it first).
    """
    conditions = grid(spec.design.factors)
    resolved = [resolve(spec, condition) for condition in conditions]
    trials: list[Trial] = []
    for repetition in range(spec.design.repetitions):
        seed = repetition_seed(spec.design.seed, repetition)
        for index in trunks_first(resolved, conditions, block_order(spec, conditions, repetition)):
            condition = conditions[index]
            trials.append(
                Trial(
                    trial_key=trial_key(resolved[index], condition, repetition, seed),
                    condition=condition,
                    repetition=repetition,
                    block=repetition,
                    run_order=len(trials),
                    seed=seed,
                    tokens=int(condition["tokens"]),
                    spec=resolved[index],
                )
            )
    return Plan(spec, tuple(trials))


def grid(factors: dict[str, list[Level]]) -> list[Condition]:
    """Cross all factors.

    Args:
        factors: Factor -> levels.

    Returns:
        Every condition, the last factor varying fastest.
    """
    return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]


def resolve(spec: SweepSpec, condition: Condition) -> SweepSpec:
    """Apply a condition's levels to the sweep's settings.

    Args:
        spec: The sweep.
        condition: Factor -> level; `tokens` is the budget, not a setting.

    Returns:
        The sweep as this condition's trials see it.
    """
    return spec.with_settings({name: level for name, level in condition.items() if name != "tokens"})


def condition_label(condition: Condition) -> str:
    """Name a condition: `tokens=500000,train.precision=bf16`.

    Args:
        condition: Factor -> level.

    Returns:
        The label, in the factors' order.
    """
    return ",".join(f"{name}={level}" for name, level in condition.items())


def repetition_seed(study_seed: int, repetition: int) -> int:
    """Derive the seed that the trials of one repetition share.

    Args:
        study_seed: `design.seed`.
        repetition: Index of the repetition.

    Returns:
        A number in [0, 2**31).
    """
    return _hash_number(study_seed, "repetition", repetition) % 2**31


def block_order(spec: SweepSpec, conditions: Sequence[Condition], repetition: int) -> list[int]:
    """Order the conditions of one block.

    Args:
        spec: The sweep.
        conditions: All conditions.
        repetition: Index of the block.

    Returns:
        Indices into `conditions` in run order.
    """
    seed, count = spec.design.seed, len(conditions)
    if spec.design.order == "fixed":
        return list(range(count))
    if spec.design.order == "randomized_blocks":
        # Sorting by independent uniform hashes is a uniformly random permutation.
        return sorted(
            range(count), key=lambda i: _hash_number(seed, "order", repetition, condition_label(conditions[i]))
        )
    rows = williams_square(count)
    cycle, position = divmod(repetition, len(rows))
    row = sorted(range(len(rows)), key=lambda r: _hash_number(seed, "row", cycle, r))[position]
    names = sorted(range(count), key=lambda i: _hash_number(seed, "name", condition_label(conditions[i])))
    return [names[index] for index in rows[row]]


def trunks_first(resolved: Sequence[SweepSpec], conditions: Sequence[Condition], order: Sequence[int]) -> list[int]:
    """Let the budgets that share a trunk (`train.share_prefix`) follow each other in ascending order.

    Args:
        resolved: The sweep as each condition's trials see it.
        conditions: All conditions.
        order: Indices into both in run order.

    Returns:
        The order in which each trunk runs where its first condition would; without sharing the same order.
    """
    place: dict[str, int] = {}
    keys = {}
    for position, index in enumerate(order):
        condition, tokens = conditions[index], 0
        name = condition_label(condition)
        if resolved[index].train.share_prefix:
            name, tokens = condition_label(trunk_of(condition)), int(condition["tokens"])
        keys[index] = (place.setdefault(name, position), tokens)
    return sorted(order, key=lambda index: keys[index])


def trunk_of(condition: Condition) -> Condition:
    """Name what the budgets of one trunk have in common: the condition without `tokens`."""
    return {name: level for name, level in condition.items() if name != "tokens"}


def williams_square(count: int) -> list[list[int]]:
    """Build rows in which each condition is equally often at each position and after each other condition.

    Williams (1949), Australian Journal of Scientific Research 2, 149-168. An even number of conditions needs `count`
    rows; an odd one needs the mirrored rows too.

    Args:
        count: Number of conditions.

    Returns:
        Rows of condition indices.
    """
    first = [0]
    low, high = 1, count - 1
    while len(first) < count:
        first.append(low if len(first) % 2 else high)
        low, high = (low + 1, high) if len(first) % 2 == 0 else (low, high - 1)
    rows = [[(index + shift) % count for index in first] for shift in range(count)]
    return rows if count % 2 == 0 or count == 1 else rows + [row[::-1] for row in rows]


def trial_key(spec: SweepSpec, condition: Condition, repetition: int, seed: int) -> str:
    """Compute the identity of a trial.

    Settings at their defaults are left out, so that a new option in a later version does not orphan finished trials.
    The number of ranks is in it although it changes losses by rounding only: time and energy are results as well, and
    a cell that mixes them for one and for two GPUs would compare machines.

    Args:
        spec: The sweep with the condition applied.
        condition: Factor -> level.
        repetition: Index of the repetition.
        seed: Seed of the repetition.

    Returns:
        16 hex digits.
    """
    identity: dict[str, Any] = {
        "key_version": KEY_VERSION,
        "condition": condition,
        "repetition": repetition,
        "seed": seed,
        "threads": spec.threads,  # thread count changes the bits of every sum on a CPU
        **{name: getattr(spec, name).model_dump(mode="json", exclude_defaults=True) for name in TRIAL_SECTIONS},
    }
    if spec.data.files:  # where a corpus lies does not change the result; its content is checked by fingerprint
        identity["data"]["files"] = [pattern.rsplit("/", 1)[-1] for pattern in spec.data.files]
    identity["train"].pop("peak_tflops", None)  # what MFU is a share of changes nothing in the trial
    if spec.world > 1:
        identity["ranks"] = spec.world
    else:
        identity["train"].pop("parallel", None)  # nothing to share
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _hash_number(*parts: object) -> int:
    """Map names to a uniform 64-bit number."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
