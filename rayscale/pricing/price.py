"""Time and energy of trials from rates and powers.

train_s = FLOP / rate     energy = (train + warm-up + eval) · busy power + (idle + load) · idle power
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.design import Trial
from rayscale.planning import model_shape, trial_flops
from rayscale.pricing.hardware import Range
from rayscale.training.flops import evaluation_flops


@dataclass(frozen=True)
class Basis:
    """What a price rests on.

    Attributes:
        kind: `ledger`, `calibration` or `assumed`.
        source: In words.
        train_rate: Units: FLOP/s.
        eval_rate: Units: FLOP/s.
        busy_w: Power while computing; None if unknown. Units: W.
        idle_w: Power while idle; None if unknown. Units: W.
        load_s: Loading and building, per trial. Units: s.
        assumptions: Numbers behind them, for people.
        notes: What to beware of.
    """

    kind: str
    source: str
    train_rate: Range
    eval_rate: Range
    busy_w: Range | None
    idle_w: Range | None
    load_s: Range
    assumptions: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Price:
    """Device time and energy of some trials.

    Attributes:
        seconds: Purpose -> time. Units: s.
        joules: Energy; None if the power is unknown. Units: J.
    """

    seconds: dict[str, Range]
    joules: Range | None

    @property
    def total_s(self) -> Range:
        """All purposes together. Units: s."""
        return _total(self.seconds.values())


def _total(ranges: Iterable[Range]) -> Range:
    rows = list(ranges)
    return Range(*(math.fsum(getattr(row, name) for row in rows) for name in ("low", "typical", "high")))


def trial_price(trial: Trial, basis: Basis) -> Price | None:
    """Price one trial.

    Args:
        trial: The trial.
        basis: Rates and powers.

    Returns:
        The price; None if the model's FLOPs are not known offline.
    """
    flops, shape = trial_flops(trial), model_shape(trial.spec)
    if flops is None or shape is None:
        return None
    spec = trial.spec
    step = flops / trial.tokens * spec.train.batch_size * spec.data.sequence_length
    evaluation = evaluation_flops(shape, spec.eval.tokens, spec.data.sequence_length)
    seconds = {
        "train": basis.train_rate.per(flops),
        "warmup": basis.train_rate.per(step * spec.train.warmup_steps) if spec.train.warmup_steps else Range.exact(0.0),
        # before and after training, and once more where layers are quantised
        "eval": basis.eval_rate.per((2 + (spec.eval.quantize != "none")) * evaluation),
        "idle": Range.exact(2 * spec.energy.idle),
        "load": basis.load_s,
    }
    joules = None
    if basis.busy_w is not None and basis.idle_w is not None:
        busy, idle = (
            _total(seconds[name] for name in names) for names in (("train", "warmup", "eval"), ("idle", "load"))
        )
        joules = busy * basis.busy_w + idle * basis.idle_w
    return Price(seconds, joules)


def price_of(trials: Iterable[Trial], basis: Basis) -> Price | None:
    """Price trials together; None if one of them cannot be priced."""
    cache: dict[str, Price | None] = {}
    found = []
    for trial in trials:
        label = repr(sorted(trial.condition.items()))
        if label not in cache:
            cache[label] = trial_price(trial, basis)
        found.append(cache[label])
    known = [price for price in found if price is not None]
    if len(known) < len(found) or not known:
        return None
    names = known[0].seconds
    energies = [price.joules for price in known]
    joules = None if None in energies else _total(energy for energy in energies if energy is not None)
    return Price({name: _total(price.seconds[name] for price in known) for name in names}, joules)
