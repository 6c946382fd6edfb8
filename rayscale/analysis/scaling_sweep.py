"""The scaling law of a sweep itself: which sweeps have one, and the budgets that its optima are shown for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayscale.analysis.fitted import MIN_VALUES, FitRequest, fit_frame
from rayscale.errors import InputError

if TYPE_CHECKING:
    import pandas

SWEEP_RESAMPLES = 200
"""Bootstrap refits within an analysis; `rayscale fit` makes more."""


SIZE_FACTORS = ("model.config.", "model.preset")
"""Factors beside `tokens` whose levels may differ by the model's size alone."""


def sweep_scaling(frame: pandas.DataFrame, name: str, factors: Sequence[str] = ()) -> dict[str, Any] | None:
    """Fit a sweep in which the token count varies, and with it the model's size or nothing else.

    Args:
        frame: One row per accepted trial (`ledger_frame`).
        name: Name of the sweep, for messages.
        factors: Its varied factors; one that is neither `tokens` nor a model's size changes the loss by other ways than
            N and D, so that no law is fitted.

    Returns:
        The document of `fit_frame`: the surface where both take at least `MIN_VALUES` values; where the model has one
        size a power law in D, from one value more on, since three would fit any law; None where neither, or nothing can
        be fitted.
    """
    others = [factor for factor in factors if factor != "tokens"]
    if not all(factor.startswith(SIZE_FACTORS) for factor in others):
        return None
    sizes, budgets = frame["params"].nunique(), frame["trained_tokens"].nunique()
    if min(sizes, budgets) < MIN_VALUES and (sizes > 1 or others or budgets <= MIN_VALUES):
        return None
    usable = frame[frame["eval_loss"].notna()].reset_index(drop=True)
    try:
        return fit_frame(usable, _request(usable), name)
    except InputError:
        return None  # `rayscale fit` says why


def _request(usable: pandas.DataFrame) -> FitRequest:
    """Ask for the optima at what the largest trial took: its compute, and its energy where all trials have one."""
    compute = float((6 * usable["params"] * usable["trained_tokens"]).max())
    request = FitRequest("eval_loss", "params", "trained_tokens", None, run_column(usable), 0, SWEEP_RESAMPLES, compute)
    energy = usable.get("energy_j")
    if usable["params"].nunique() < MIN_VALUES or energy is None or not (energy.astype(float) > 0).all():
        return request
    batch = "train.batch_size" if "train.batch_size" in usable.columns else None
    return replace(request, energy="energy_j", batch=batch, joules=float(energy.max()))


def run_column(frame: pandas.DataFrame) -> str | None:
    """Name the column that says which rows are one run: the budgets that share a trunk are its checkpoints.

    Args:
        frame: One row per trial (`ledger_frame`).

    Returns:
        The repetition where trunks are shared, the coarsest true answer; None where every trial is a run.
    """
    shared = "shared_prefix" in frame.columns and frame["shared_prefix"].fillna(value=False).astype(bool).any()
    return "repetition" if shared else None
