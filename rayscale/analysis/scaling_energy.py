"""Energy-optimal model size: where a joule, not a FLOP, is what is spent.

Small models and small batches use a device badly, so measured joules per FLOP fall with N and with the batch b. With

    j(N, b) = k N^p b^q  (J/FLOP),   energy = 6 N D j(N, b)

the loss A/N^alpha + B/D^beta + E has its minimum at a given energy J where

    N^(alpha + (1 + p) beta) = alpha A / ((1 + p) beta B) · (J / (6 k b^q))^beta,   D = J / (6 k b^q N^(1 + p))

For p = q = 0 that is the compute-optimal size at C = J/k. The law of the loss does not know the batch: the batch with
the fewest joules per FLOP is taken, and its effect on the loss is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.scaling import Array, Optimum, PowerLaw, has_optimum
from rayscale.errors import InputError

MIN_SPREAD = 1.5
"""N or batch that vary by less cannot carry an exponent."""


@dataclass(frozen=True)
class EnergyLaw:
    """Joules per FLOP as a power law.

    Attributes:
        scale: k, J per FLOP at N = 1 and b = 1.
        size_exponent: p.
        batch_exponent: q; 0 where the batch does not vary.
        batch: The batch with the fewest joules per FLOP among those measured; None where it is not known.
        rms_log_error: Of ln(J/FLOP).
        n: Rows.
    """

    scale: float
    size_exponent: float
    batch_exponent: float
    batch: float | None
    rms_log_error: float
    n: int

    def joules_per_flop(self, params: float) -> float:
        """Return j(N, b) at the chosen batch. Units: J/FLOP."""
        batch = 1.0 if self.batch is None else self.batch
        return float(self.scale * params**self.size_exponent * batch**self.batch_exponent)


def fit_energy(params: Array, flops: Array, joules: Array, batch: Array | None = None) -> EnergyLaw:
    """Fit ln(J/FLOP) = ln k + p ln N + q ln b by least squares.

    Args:
        params: N. Shape (n,).
        flops: Training FLOPs. Shape (n,).
        joules: Energy of training. Shape (n,).
        batch: Rows per step; None if not known. Shape (n,).

    Returns:
        The law.

    Raises:
        InputError: If N does not vary enough.
    """
    if params.max() < MIN_SPREAD * params.min():
        raise InputError(f"joules per FLOP: N varies by a factor of {params.max() / params.min():.3g}; expected 1.5")
    columns = [np.ones_like(params), np.log(params)]
    varies = batch is not None and batch.max() >= MIN_SPREAD * batch.min()
    if batch is not None and varies:
        columns.append(np.log(batch))
    design, y = np.column_stack(columns), np.log(joules / flops)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    exponent = float(solution[2]) if varies else 0.0
    chosen = None
    if batch is not None:
        chosen = float(batch.max() if exponent < 0 else batch.min()) if varies else float(np.median(batch))
    error = float(np.sqrt(np.mean((y - design @ solution) ** 2)))
    return EnergyLaw(float(np.exp(solution[0])), float(solution[1]), exponent, chosen, error, len(y))


def energy_optimal(law: PowerLaw, energy: EnergyLaw, joules: float) -> Optimum | None:
    """Solve for the size with the lowest loss for an energy.

    Args:
        law: A fit with both terms.
        energy: Joules per FLOP.
        joules: Energy of training. Units: J.

    Returns:
        N, D, loss; `params_exponent` is that of N in the energy, `kappa` that of L - E. None if p <= -1 (then a larger
        model would take less energy at the same D), or if the law has no optimum.
    """
    (a, b), (alpha, beta) = law.coefficients, law.exponents
    steep = 1 + energy.size_exponent
    if steep <= 0 or not has_optimum(law):
        return None
    flops = joules / energy.joules_per_flop(1.0)
    both = alpha + steep * beta
    params = (alpha * a / (steep * beta * b) * (flops / 6) ** beta) ** (1 / both)
    tokens = flops / 6 / params**steep
    loss = law.floor + a / params**alpha + b / tokens**beta
    return Optimum(params, tokens, loss, beta / both, alpha * beta / both)


def energy_optimum_tree(
    law: PowerLaw, resampled: Sequence[PowerLaw], energy: EnergyLaw, joules: float
) -> dict[str, object] | None:
    """Write the energy-optimal size with bootstrap intervals of the loss law (the energy law is held).

    Args:
        law: The fit.
        resampled: Its bootstrap refits.
        energy: Joules per FLOP.
        joules: Energy of training. Units: J.

    Returns:
        `joules, params, tokens, loss, flops, joules_per_flop, size_exponent, batch_exponent, batch, ci95`.
    """
    best = energy_optimal(law, energy, joules)
    if best is None:
        return None
    others = _optima(resampled, energy, joules)
    keys = ("params", "tokens", "loss")
    return {
        "joules": joules,
        **{key: getattr(best, key) for key in keys},
        "flops": 6 * best.params * best.tokens,
        "joules_per_flop": energy.joules_per_flop(best.params),
        "size_exponent": energy.size_exponent,
        "batch_exponent": energy.batch_exponent,
        "batch": energy.batch,
        "rms_log_error": energy.rms_log_error,
        "ci95": None
        if not others
        else {key: [float(q) for q in np.quantile([getattr(o, key) for o in others], [0.025, 0.975])] for key in keys},
    }


def _optima(laws: Sequence[PowerLaw], energy: EnergyLaw, joules: float) -> list[Optimum]:
    """Solve for each refit that has an optimum."""
    found = (energy_optimal(law, energy, joules) for law in laws if has_optimum(law))
    return [best for best in found if best is not None]
