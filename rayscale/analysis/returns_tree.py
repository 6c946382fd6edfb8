"""`pareto` and `marginal` of the analysis tree: what loss costs, and what the next level of tokens buys.

    pareto.<resource>.points.<condition>    loss, resource, intervals, on_front, overlaps, front_share
    marginal.<resource>.<lower>|<upper>     gain_nats, spent, return with Fieller's interval

Resources are those of the training phase. Only complete blocks are used, and only resources that all of them have.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.cells import Cells, lay_out
from rayscale.analysis.marginal import MarginalReturn, marginal_return
from rayscale.analysis.pareto import ParetoPoint, bought, pareto_points
from rayscale.analysis.sweepcells import varied_factors
from rayscale.errors import InputError
from rayscale.spec import SweepSpec

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[np.float64]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """Something that training takes.

    Attributes:
        name: Key in the tree.
        column: Column of the table.
        unit: Unit in which it is shown.
        scale: Column's unit -> `unit`.
        energy: Whether it rests on energy.
    """

    name: str
    column: str
    unit: str
    scale: float
    energy: bool


RESOURCES = (
    Resource("energy", "energy_j", "kJ", 1e-3, energy=True),
    Resource("time", "duration_s", "min", 1 / 60, energy=False),
    Resource("flops", "flops", "TFLOP", 1e-12, energy=False),
    Resource("carbon", "co2e_g", "g CO2e", 1.0, energy=True),
    Resource("cost", "cost", "currency", 1.0, energy=False),
)


def returns_trees(frame: DataFrame, spec: SweepSpec, estimated: bool) -> Tree:
    """Build both parts.

    Args:
        frame: One row per accepted trial that the analysis keeps (`ledger_frame`).
        spec: The sweep.
        estimated: Whether energy is an estimate.

    Returns:
        `{pareto, marginal}`; empty if nothing is varied or no two blocks are complete.
    """
    pareto: Tree = {}
    marginal: Tree = {}
    for resource in RESOURCES:
        found = _complete(frame, spec, resource)
        if found is None:
            continue
        cells, loss, amount = found
        unit = (spec.report.currency or resource.unit) if resource.name == "cost" else resource.unit
        priced = resource.name == "cost" and spec.report.price_per_kwh is not None
        about = {"unit": unit, "n_blocks": len(loss), "energy_estimated": estimated and (resource.energy or priced)}
        points = pareto_points(cells.cell_labels, loss, amount, spec.analysis.alpha)
        pareto[resource.name] = {**about, "points": {point.label: _point_tree(point) for point in points}}
        steps = _steps(cells, loss, amount, spec.analysis.alpha)
        if steps:
            marginal[resource.name] = {**about, "method": "Fieller", "steps": {_pair(s): _step_tree(s) for s in steps}}
    return {"pareto": pareto, "marginal": marginal} if pareto else {}


def _complete(frame: DataFrame, spec: SweepSpec, resource: Resource) -> tuple[Cells, Array, Array] | None:
    """Lay out loss and resource of the blocks that have both in all conditions."""
    try:
        varied = varied_factors(spec)
    except InputError:
        return None
    if resource.name == "flops" and "teacher_flops" in frame:  # a teacher's forward passes are part of the training
        frame = frame.assign(flops=frame["flops"] + frame["teacher_flops"].astype(float).fillna(0.0))
    cells, other = (
        lay_out(frame, name, list(varied), "repetition", known_levels=varied, lenient=True)
        for name in ("eval_loss", resource.column)
    )
    whole = ~(np.isnan(cells.values) | np.isnan(other.values)).any(axis=1)
    if whole.sum() < 2:
        return None
    return cells, cells.values[whole], other.values[whole] * resource.scale


def _steps(cells: Cells, loss: Array, amount: Array, alpha: float) -> list[MarginalReturn]:
    """Compare neighbouring token levels, the other factors held."""
    if "tokens" not in cells.factors:
        return []
    axis = cells.factors.index("tokens")
    index = np.moveaxis(np.arange(loss.shape[1]).reshape(cells.shape), axis, -1).reshape(-1, cells.shape[axis])
    labels = cells.cell_labels
    return [
        marginal_return((labels[i], labels[j]), (loss[:, i], loss[:, j]), (amount[:, i], amount[:, j]), alpha)
        for row in index
        for i, j in itertools.pairwise(row)
    ]


def _pair(step: MarginalReturn) -> str:
    return f"{step.lower}|{step.upper}"


def _point_tree(point: ParetoPoint) -> Tree:
    tree = asdict(point)
    del tree["label"]
    return tree | {"loss_ci": list(point.loss_ci), "resource_ci": list(point.resource_ci)}


def _step_tree(step: MarginalReturn) -> Tree:
    ci = step.ratio.ci
    return {
        "gain_nats": step.gain,
        "spent": step.spent,
        "return": step.ratio.value,
        "ci": None if ci is None else list(ci),
        "n": step.ratio.n,
    }


_UNITS = {
    **{unit: ("energy", kj) for unit, kj in (("J", 1e-3), ("kJ", 1.0), ("MJ", 1e3), ("Wh", 3.6), ("kWh", 3600.0))},
    **{unit: ("time", minutes) for unit, minutes in (("s", 1 / 60), ("min", 1.0), ("h", 60.0))},
    **{unit: ("flops", tflop) for unit, tflop in (("FLOP", 1e-12), ("TFLOP", 1.0), ("PFLOP", 1e3), ("EFLOP", 1e6))},
    **{unit: ("carbon", grams) for unit, grams in (("g", 1.0), ("kg", 1e3), ("t", 1e6))},
    "": ("cost", 1.0),
}
"""Unit -> resource, and factor to the resource's unit."""


def parse_spend(text: str) -> tuple[str, float]:
    """Read an amount of a resource.

    Args:
        text: E.g. `2kJ`, `0.5kWh`, `10min`, `1e15FLOP`, `20g` (of CO2e), `3` (money).

    Returns:
        Resource, and amount in its unit.

    Raises:
        InputError: If it is no positive amount with a known unit.
    """
    match = re.fullmatch(r"\s*([\d_.]+(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*", text)
    try:
        amount = float(match[1]) if match else 0.0
    except ValueError:
        amount = 0.0
    if not match or match[2] not in _UNITS or not 0 < amount < math.inf:
        units = ", ".join(unit for unit in _UNITS if unit)
        raise InputError(
            f"--spend {text}: expected a positive amount such as 2kJ or 0.5kWh (units: {units}; none: money)"
        )
    resource, factor = _UNITS[match[2]]
    return resource, amount * factor


def purchases(pareto: Tree, wanted: Sequence[tuple[str, float]]) -> list[Tree]:
    """Say what amounts of resources buy.

    Args:
        pareto: The part `pareto` of the tree.
        wanted: Resource name and amount, in the resource's unit.

    Returns:
        One entry per amount: `resource, unit, amount, label, loss, takes, sure`.

    Raises:
        InputError: If the sweep has no such resource (e.g. no prices were given).
    """
    rows = []
    for name, amount in wanted:
        if name not in pareto:
            raise InputError(f"{name}: not available in this sweep; it has {', '.join(pareto) or 'no complete blocks'}")
        points = [ParetoPoint(label=label, **point) for label, point in pareto[name]["points"].items()]
        found = bought(points, amount)
        rows.append(
            {
                "resource": name,
                "unit": pareto[name]["unit"],
                "amount": amount,
                "label": found.label,
                "loss": found.loss,
                "takes": found.resource,
                "sure": found.sure,
            }
        )
    return rows
