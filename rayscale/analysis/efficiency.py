"""Efficiency metrics of one trial (design 4.5): formula, unit, source, and what part of a trend is mechanical.

Inputs are those of the `train` phase. A function is only called with finite inputs; `Metric.of` gives None where one
is missing or a denominator is zero, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rayscale.spec import ReportSpec

JOULES_PER_KWH = 3.6e6
PEE_CONSTANT = 1.0
"""K of `pee`; the published text describes but does not fully print it."""


@dataclass(frozen=True)
class Metric:
    """A metric: its name, what it means and how to get it.

    Attributes:
        name: Column name.
        unit: Unit as text.
        definition: One line for the report.
        function: Pure function of the inputs, in their order.
        inputs: Columns it needs.
        mechanical_exponent: b if the metric goes like tokens^b merely because time and energy grow with tokens;
            None where no such law holds.
    """

    name: str
    unit: str
    definition: str
    function: Callable[..., float | None]
    inputs: tuple[str, ...]
    mechanical_exponent: float | None = None

    @property
    def uses_energy(self) -> bool:
        """Whether power or energy enters, so that an estimate of it makes this an estimate."""
        return any(is_energy_column(name) for name in self.inputs)

    def of(self, row: Mapping[str, Any]) -> float | None:
        """Compute the metric of one row.

        Args:
            row: Column -> value.

        Returns:
            The metric, None if an input it cannot do without is missing or the result is no finite number.
        """
        values = [_number(row.get(name)) for name in self.inputs]
        if self.name != "cost" and any(value is None for value in values):
            return None
        try:
            result = self.function(*values)
        except (ZeroDivisionError, OverflowError):
            return None
        return result if result is not None and math.isfinite(result) else None


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (str, bool)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def inverse_perplexity(perplexity: float) -> float:
    """1 / perplexity, perplexity = exp(mean held-out cross-entropy in nats per token). Units: 1."""
    return 1 / perplexity


def joules_per_token(energy_j: float, trained_tokens: float) -> float:
    """Energy of the training phase per supervised target. Units: J/token."""
    return energy_j / trained_tokens


def tokens_per_joule(energy_j: float, trained_tokens: float) -> float:
    """Supervised targets per joule of the training phase. Units: token/J."""
    return trained_tokens / energy_j


def pee(perplexity: float, tflops_bench: float, params: float, power_rms_w: float, duration_s: float) -> float:
    """Energy-aware parameter efficiency of arXiv 2601.06649.

    K · inverse_perplexity · tflops_bench / (params_millions · power_rms_w · power_minutes), K = 1. `power_minutes`
    is the duration in units of the paper's 60 s power sample. The published text describes but does not fully print the
    constant, so absolute values compare within rayscale only. Energy is taken as RMS power x time, which overstates
    the energy of a fluctuating load; `pee_energy` does not.

    Args:
        perplexity: Held-out perplexity.
        tflops_bench: Benchmarked matrix-product rate of the device, TFLOP/s.
        params: Number of parameters.
        power_rms_w: Root mean square power of the training phase, W.
        duration_s: Length of the training phase, s.

    Returns:
        The efficiency. Units: TFLOP/s per (million parameters · W · min).
    """
    return PEE_CONSTANT * tflops_bench / (perplexity * (params / 1e6) * power_rms_w * (duration_s / 60))


def pee_energy(perplexity: float, tflops_bench: float, params: float, energy_j: float) -> float:
    """`pee` with the true energy: inverse_perplexity · tflops_bench / (params_millions · energy_wh).

    Units: TFLOP/s per (million parameters · Wh).
    """
    return tflops_bench / (perplexity * (params / 1e6) * (energy_j / 3600))


def nats_per_kj(eval_loss_before: float, eval_loss: float, energy_j: float) -> float:
    """Held-out loss won per kilojoule: (loss before - loss after) / (energy_j / 1000). Units: nat/kJ."""
    return (eval_loss_before - eval_loss) / (energy_j / 1e3)


def energy_delay_product(energy_j: float, duration_s: float) -> float:
    """Energy · duration of the training phase (Gonzalez & Horowitz 1996). Units: J·s."""
    return energy_j * duration_s


def co2e_g(energy_j: float, pue: float, grid_g_per_kwh: float) -> float:
    """energy_kwh · PUE · grid carbon intensity. Units: g CO2e."""
    return energy_j / JOULES_PER_KWH * pue * grid_g_per_kwh


def cost(
    energy_j: float | None,
    duration_s: float | None,
    pue: float | None,
    price_per_kwh: float | None,
    price_per_gpu_hour: float | None,
    devices: float | None = 1,
) -> float | None:
    """energy_kwh · PUE · price per kWh + device hours · price of one; parts without a price are left out.

    Args:
        energy_j: Energy of the training phase, J.
        duration_s: Its length, s.
        pue: Power usage effectiveness.
        price_per_kwh: Price of electricity, or None.
        price_per_gpu_hour: Price of a device hour, or None.
        devices: Devices that trained; None: one.

    Returns:
        Money in the currency of the prices; None if no price is given or a priced quantity is missing.
    """
    energy_kwh = None if energy_j is None or pue is None else energy_j / JOULES_PER_KWH * pue
    hours = None if duration_s is None else (devices or 1) * duration_s / 3600
    priced = [(energy_kwh, price_per_kwh), (hours, price_per_gpu_hour)]
    parts = [None if amount is None else amount * price for amount, price in priced if price is not None]
    known = [part for part in parts if part is not None]
    return math.fsum(known) if known and len(known) == len(parts) else None


_ALL = (
    Metric(
        "inverse_perplexity",
        "1",
        "1 / perplexity; perplexity = exp(mean held-out cross-entropy in nats per token)",
        inverse_perplexity,
        ("perplexity",),
    ),
    Metric(
        "joules_per_token",
        "J/token",
        "energy of the training phase / trained tokens",
        joules_per_token,
        ("energy_j", "trained_tokens"),
        0.0,
    ),
    Metric(
        "tokens_per_joule",
        "token/J",
        "trained tokens / energy of the training phase",
        tokens_per_joule,
        ("energy_j", "trained_tokens"),
        0.0,
    ),
    Metric(
        "pee",
        "TFLOP/s/(M·W·min)",
        "inverse perplexity · benchmarked TFLOP/s / (million parameters · RMS watts · minutes), K = 1",
        pee,
        ("perplexity", "tflops_bench", "params", "power_rms_w", "duration_s"),
        -1.0,
    ),
    Metric(
        "pee_energy",
        "TFLOP/s/(M·Wh)",
        "inverse perplexity · benchmarked TFLOP/s / (million parameters · watt-hours)",
        pee_energy,
        ("perplexity", "tflops_bench", "params", "energy_j"),
        -1.0,
    ),
    Metric(
        "nats_per_kj",
        "nat/kJ",
        "(held-out loss before training - after) / energy in kJ",
        nats_per_kj,
        ("eval_loss_before", "eval_loss", "energy_j"),
        -1.0,
    ),
    Metric(
        "energy_delay_product",
        "J·s",
        "energy · duration of the training phase",
        energy_delay_product,
        ("energy_j", "duration_s"),
        2.0,
    ),
    Metric(
        "co2e_g",
        "g CO2e",
        "energy in kWh · PUE · grid carbon intensity",
        co2e_g,
        ("energy_j", "pue", "grid_g_per_kwh"),
        1.0,
    ),
    Metric(
        "cost",
        "currency",
        "energy in kWh · PUE · price per kWh + device hours · price of one (priced parts only)",
        cost,
        ("energy_j", "duration_s", "pue", "price_per_kwh", "price_per_gpu_hour", "devices"),
        1.0,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""All built-in metrics by name."""

_MECHANICAL_COLUMNS: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("duration_s", "energy_j", "net_energy_j", "energy_counter_j", "energy_integral_j", "flops"), 1.0)
)


def mechanical_exponent(column: str) -> float | None:
    """Return b where a column goes like tokens^b by construction, None where no such law is known."""
    metric = METRICS.get(column)
    return metric.mechanical_exponent if metric else _MECHANICAL_COLUMNS.get(column)


def is_energy_column(column: str) -> bool:
    """Whether a column holds energy or power, or is a built-in metric made from them."""
    if column in METRICS:
        return METRICS[column].uses_energy
    # pue multiplies energy only, and power_samples is a count.
    energy = column.endswith("energy_j") or column.startswith(("energy_", "power_")) or column == "idle_w"
    return energy and column not in ("power_samples", "energy_method", "energy_estimated")


def report_inputs(report: ReportSpec | None) -> dict[str, float | None]:
    """Give the settings that `co2e_g` and `cost` need; all None without a report section."""
    names = ("pue", "grid_g_per_kwh", "price_per_kwh", "price_per_gpu_hour")
    return {name: getattr(report, name) if report else None for name in names}
