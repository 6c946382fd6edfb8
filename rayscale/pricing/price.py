"""Time and energy of trials from rates and powers.

train_s = FLOP / rate     energy = (train + warm-up + eval) · busy power + (idle + load) · idle power
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayscale.design import Trial
from rayscale.planning import model_shape, trial_flops
from rayscale.pricing.hardware import Range
from rayscale.training.flops import evaluation_flops
from rayscale.training.treatments.planned import models_beforehand, planned_teacher_flops


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

    def __add__(self, other: Price) -> Price:
        """Add purpose by purpose; the energy is known if both are."""
        known = self.joules is not None and other.joules is not None
        zero = Range.exact(0.0)
        names = dict.fromkeys([*self.seconds, *other.seconds])
        return Price(
            {name: self.seconds.get(name, zero) + other.seconds.get(name, zero) for name in names},
            self.joules + other.joules if known else None,  # type: ignore[operator]
        )


def _total(ranges: Iterable[Range]) -> Range:
    rows = list(ranges)
    return Range(*(math.fsum(getattr(row, name) for row in rows) for name in ("low", "typical", "high")))


def trial_price(trial: Trial, basis: Basis, tokens: int | None = None) -> Price | None:
    """Price one trial.

    Args:
        trial: The trial.
        basis: Rates and powers.
        tokens: What it trains itself, where it shares a trunk; None: its budget.

    Returns:
        The price; None if the model's FLOPs are not known offline.
    """
    flops, shape = trial_flops(trial), model_shape(trial.spec)
    if flops is None or shape is None:
        return None
    spec = trial.spec
    flops += planned_teacher_flops(spec, trial.tokens) or 0.0  # a teacher runs inside `train`
    step = flops / trial.tokens * spec.train.batch_size * spec.data.sequence_length
    evaluation = evaluation_flops(shape, spec.eval.tokens, spec.data.sequence_length)
    seconds = {
        "train": basis.train_rate.per(flops * (tokens or trial.tokens) / trial.tokens),
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


def price_beforehand(trials: Iterable[Trial], basis: Basis) -> Price | None:
    """Price the models that are trained once before the trials that need them.

    Args:
        trials: The trials; conditions that need the same model share it.
        basis: Rates and powers.

    Returns:
        The price; None if there are none, or one of them has an unknown shape.
    """
    specs = {repr(sorted(trial.condition.items())): trial.spec for trial in trials}
    flops = [model.flops for model in models_beforehand(specs.values())]
    if not flops or None in flops:
        return None
    seconds = basis.train_rate.per(math.fsum(number for number in flops if number is not None))
    return Price({"beforehand": seconds}, None if basis.busy_w is None else seconds * basis.busy_w)


def price_of(trials: Iterable[Trial], basis: Basis, run: Mapping[str, int] | None = None) -> Price | None:
    """Price trials together.

    Args:
        trials: The trials.
        basis: Rates and powers.
        run: Trial key -> tokens that it trains itself (`sharing.run_tokens`); None: all train their budget.

    Returns:
        The price; None if one of them cannot be priced.
    """
    cache: dict[str, Price | None] = {}
    found = []
    for trial in trials:
        tokens = None if run is None else run[trial.trial_key]
        label = repr((sorted(trial.condition.items()), tokens))
        if label not in cache:
            cache[label] = trial_price(trial, basis, tokens)
        found.append(cache[label])
    known = [price for price in found if price is not None]
    if len(known) < len(found) or not known:
        return None
    names = known[0].seconds
    energies = [price.joules for price in known]
    joules = None if None in energies else _total(energy for energy in energies if energy is not None)
    return Price({name: _total(price.seconds[name] for price in known) for name in names}, joules)
