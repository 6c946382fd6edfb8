"""Rows and fixed-effects designs of the mixed models.

The fixed part is one mean per cell plus centred covariates. So estimated marginal means are plain averages of
parameters (at the mean of each covariate), and every effect of the factors is a set of contrasts of them: for effect E
the Kronecker product of differences (factors in E) and plain means (factors not in E), as in sum-to-zero coding with
type III tests.

In the numbers the cell means are turned into their grand mean and orthonormal differences. Where subjects differ by
1e6 units over noise of 3, all cell means are uncertain by 1e6 together, and their differences would drown in that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.cells import Cells
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.mixed import UndefinedModelError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LongRows:
    """The rows behind a design, one per observation with a value.

    Attributes:
        y: The measure; shape (rows,).
        subject: Index into the subjects of the design.
        cell: Index of the cell, the last factor varying fastest.
        device: Index into `device_names`; None without a device column.
        device_names: Labels of the devices.
        order: Position in time (any increasing number); None when unknown.
        order_name: Column that `order` comes from.
        temperature: Device temperature at the start of the run, in °C; None when unknown.
    """

    y: FloatArray
    subject: IntArray
    cell: IntArray
    device: IntArray | None = None
    device_names: tuple[str, ...] = ()
    order: FloatArray | None = None
    order_name: str = "order"
    temperature: FloatArray | None = None

    @property
    def n_devices(self) -> int:
        """Devices with at least one row; 0 without a device column."""
        return 0 if self.device is None else len(np.unique(self.device))


@dataclass(frozen=True)
class FixedPart:
    """A fixed-effects design.

    Attributes:
        x: Shape (rows, p).
        contrasts: Term (factor, interaction, covariate) -> contrast matrix (q, p).
        means: Factor -> level -> weights of its marginal mean.
        units: Covariate -> what one unit of its column in `x` is worth; all columns are of order 1.
    """

    x: FloatArray
    contrasts: Mapping[str, FloatArray]
    means: Mapping[str, Mapping[str, FloatArray]]
    units: Mapping[str, float]


def rows_of(cells: Cells) -> LongRows:
    """Take the filled cells of a design as rows.

    Args:
        cells: The design.

    Returns:
        One row per cell that is there.
    """
    subject, cell = np.nonzero(~np.isnan(cells.values))
    return LongRows(cells.values[subject, cell], subject, cell)


def fixed_part(
    cells: Cells,
    rows: LongRows,
    covariates: Mapping[str, FloatArray] | None = None,
    groups: Mapping[str, IntArray] | None = None,
) -> FixedPart:
    """Build a fixed-effects design.

    Args:
        cells: The design that names factors and levels.
        rows: The observations.
        covariates: Name -> value per row; enters linearly, centred.
        groups: Name -> group per row of further fixed factors without interaction, coded to sum to zero, so that the
            marginal means weigh the groups equally.

    Returns:
        The design.

    Raises:
        UndefinedModelError: If a cell of the grid has no row at all.
    """
    count = math.prod(cells.shape)
    empty = np.nonzero(np.bincount(rows.cell, minlength=count) == 0)[0]
    if empty.size:
        raise UndefinedModelError(f"no row for {cells.cell_labels[int(empty[0])]}: its mean cannot be estimated")
    turned = _orthonormal(cells.shape)
    blocks: list[FloatArray] = [turned[rows.cell]]
    names: list[tuple[str, int]] = []
    units: dict[str, float] = {}
    for name, values in (covariates or {}).items():
        centred = values - _mean(values)
        units[name] = float(np.max(np.abs(centred))) or 1.0
        blocks.append((centred / units[name])[:, None])
        names.append((name, 1))
    for name, codes in (groups or {}).items():
        coded = _sum_coded(codes)
        blocks.append(coded)
        names.append((name, coded.shape[1]))
    x = np.hstack(blocks)
    contrasts = {name: _widen(matrix @ turned, x.shape[1]) for name, matrix in _effects(cells).items()}
    start = count
    for name, width in names:
        contrasts[name] = np.eye(x.shape[1])[start : start + width]
        start += width
    means = {
        factor: {level: _widen(row[None, :] @ turned, x.shape[1])[0] for level, row in levels.items()}
        for factor, levels in _means(cells).items()
    }
    return FixedPart(x, contrasts, means, units)


def _mean(values: FloatArray) -> float:
    """Mean of the differences from the first value: order columns may be seconds since 1970."""
    return float(values[0] + np.mean(values - values[0]))


def _sum_coded(codes: IntArray) -> FloatArray:
    _, index = np.unique(codes, return_inverse=True)
    size = int(index.max()) + 1
    return np.vstack([np.eye(size - 1), -np.ones(size - 1)])[index]


def _orthonormal(shape: tuple[int, ...]) -> FloatArray:
    """Columns: grand mean, then differences (Helmert), crossed over the factors."""
    turned = np.ones((1, 1))
    for size in shape:
        helmert = np.tril(np.ones((size, size)), -1).T - np.diag(np.arange(size))
        helmert[:, 0] = 1.0
        turned = np.kron(turned, helmert / np.linalg.norm(helmert, axis=0))
    return turned


def _widen(matrix: FloatArray, width: int) -> FloatArray:
    """Add columns of zeros, and make zeros of what only rounding keeps from being one."""
    clean = np.where(np.abs(matrix) < 1e-14, 0.0, matrix)
    return np.hstack([clean, np.zeros((matrix.shape[0], width - matrix.shape[1]))])


def _effects(cells: Cells) -> dict[str, FloatArray]:
    """Contrasts of the cell means for every main effect and interaction, main effects first."""
    found = {}
    indices = range(len(cells.factors))
    for size in range(1, len(cells.factors) + 1):
        for chosen in itertools.combinations(indices, size):
            matrix = np.ones((1, 1))
            for index, levels in enumerate(cells.shape):
                differences = np.eye(levels - 1, levels) - np.eye(levels - 1, levels, 1)
                matrix = np.kron(matrix, differences if index in chosen else np.full((1, levels), 1 / levels))
            found[":".join(cells.factors[index] for index in chosen)] = matrix
    return {name: matrix for name, matrix in found.items() if matrix.shape[0] > 0}


def _means(cells: Cells) -> dict[str, dict[str, FloatArray]]:
    """Weights of each factor's marginal means, the other factors' levels weighing equally."""
    grid = np.indices(cells.shape).reshape(len(cells.shape), -1)
    return {
        factor: {
            level: (grid[axis] == index) / np.sum(grid[axis] == index) for index, level in enumerate(cells.levels[axis])
        }
        for axis, factor in enumerate(cells.factors)
    }


def device_means(cells: Cells, rows: LongRows) -> Cells:
    """Average each device's rows per cell: the design whose subjects are the devices.

    Args:
        cells: The design.
        rows: Its rows, with devices.

    Returns:
        Devices x cells; NaN where a device has no row of a cell.

    Raises:
        UndefinedModelError: Without a device column.
    """
    if rows.device is None:
        raise UndefinedModelError("there is no device column")
    present = np.unique(rows.device)
    values = np.full((len(present), math.prod(cells.shape)), np.nan)
    for i, device in enumerate(present):
        for cell in range(values.shape[1]):
            chosen = rows.y[(rows.device == device) & (rows.cell == cell)]
            if chosen.size:
                values[i, cell] = _mean(chosen)
    return replace(cells, subjects=tuple(rows.device_names[index] for index in present), values=values)
