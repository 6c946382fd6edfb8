"""What a column of the table is called on the page: label, unit, and whether it rests on energy.

The last one matters: where energy is an estimate, everything that divides by it is one too and has to say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = {
    "pee": "PEE",
    "pee_energy": "PEE from energy",
    "joules_per_token": "energy per token",
    "tokens_per_joule": "tokens per joule",
    "inverse_perplexity": "inverse perplexity",
    "nats_per_kj": "loss drop per energy",
    "energy_delay_product": "energy-delay product",
    "co2e_g": "carbon footprint",
    "eval_loss": "held-out loss",
    "train_loss": "training loss",
    "duration_s": "duration of training",
    "energy_j": "energy of training",
    "net_energy_j": "net energy of training",
    "power_mean_w": "mean power",
    "power_rms_w": "RMS power",
    "tokens_per_s": "throughput",
    "flops": "training FLOPs",
    "mfu": "model FLOPs utilisation",
}
_UNITS = {
    "eval_loss": "nats/token",
    "train_loss": "nats/token",
    "eval_loss_before": "nats/token",
    "duration_s": "s",
    "eval_s": "s",
    "compile_s": "s",
    "energy_j": "J",
    "net_energy_j": "J",
    "energy_counter_j": "J",
    "energy_integral_j": "J",
    "power_mean_w": "W",
    "power_rms_w": "W",
    "idle_w": "W",
    "tokens_per_s": "tokens/s",
    "flops": "FLOP",
    "bits_per_byte": "bits/byte",
}
_NO_UNIT = frozenset({"", "1", "-", "none", "dimensionless"})


@dataclass(frozen=True)
class Measure:
    """A dependent variable as the page names it.

    Attributes:
        name: Column.
        label: Words.
        unit: Unit, empty for a pure number.
        estimated: True when it rests on energy that is estimated.
    """

    name: str
    label: str
    unit: str
    estimated: bool

    @property
    def title(self) -> str:
        """Label with `(estimated)` where that is due."""
        return f"{self.label} (estimated)" if self.estimated else self.label

    @property
    def heading(self) -> str:
        """The title with a capital, as a heading or the start of a sentence."""
        return self.title[:1].upper() + self.title[1:]


def describe(name: str, user_metrics: Mapping[str, str], energy_estimated: bool) -> Measure:
    """Name a measure.

    Args:
        name: Column, built-in metric or user-defined metric.
        user_metrics: `analysis.metrics` of the sweep file: name -> expression.
        energy_estimated: Whether the sweep's energy is an estimate.

    Returns:
        The measure.
    """
    from rayscale.analysis.efficiency import METRICS

    unit = METRICS[name].unit if name in METRICS else _UNITS.get(name, "")
    return Measure(
        name=name,
        label=_NAMES.get(name, name.replace("_", " ")),
        unit="" if unit in _NO_UNIT else unit,
        estimated=energy_estimated and rests_on_energy(name, user_metrics),
    )


def rests_on_energy(name: str, user_metrics: Mapping[str, str], _seen: frozenset[str] = frozenset()) -> bool:
    """Tell whether a measure is computed from power or energy.

    Args:
        name: Column or metric.
        user_metrics: User-defined metrics, whose expressions may name further metrics.

    Returns:
        True if it or anything its expression names is.
    """
    from rayscale.analysis.efficiency import is_energy_column

    if is_energy_column(name):
        return True
    if name not in user_metrics or name in _seen:
        return False
    words = re.findall(r"[A-Za-z_][A-Za-z0-9_.]*", user_metrics[name])
    return any(rests_on_energy(word, user_metrics, _seen | {name}) for word in words)
