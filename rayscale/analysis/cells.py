"""From a long table to a subjects x cells array, refusing what cannot be analysed and naming what is missing.

Completeness is judged per subject, not per level: three subjects that each lack another level leave every level with
the same number of rows, and an analysis that only counts those would go on with a broken design.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.levels import level_label, order_levels
from rayscale.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

AGGREGATES = ("mean", "median")

LARGEST = 1e300
"""Largest magnitude of a measure; beyond it differences may leave the range of a double."""


@dataclass(frozen=True)
class Cells:
    """A design laid out: subjects x cells, the last factor varying fastest.

    Attributes:
        factors: Names of the within factors.
        levels: Ordered labels per factor.
        subjects: Labels of all subjects, in order of appearance.
        values: Shape (subjects, cells); NaN where missing.
        n_obs: Rows with a value.
        n_duplicate_rows: Rows beyond the first of their cell.
    """

    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    subjects: tuple[str, ...]
    values: FloatArray
    n_obs: int
    n_duplicate_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Levels per factor."""
        return tuple(len(levels) for levels in self.levels)

    @property
    def complete(self) -> FloatArray:
        """The rows of the subjects that have every cell."""
        return self.values[~np.isnan(self.values).any(axis=1)]

    @property
    def cell_labels(self) -> tuple[str, ...]:
        """`1000000`, or `tokens=1000000,precision=bf16` with several factors."""
        grid = itertools.product(*self.levels)
        return tuple(cell_label(self.factors, levels) for levels in grid)

    def missing(self) -> list[tuple[str, str]]:
        """Name the missing cells as (subject, cell label)."""
        labels = self.cell_labels
        return [(self.subjects[i], labels[j]) for i, j in zip(*np.nonzero(np.isnan(self.values)), strict=True)]


def cell_label(factors: Sequence[str], levels: Sequence[str]) -> str:
    """Name a cell by its levels, with the factors' names where there are several."""
    if len(factors) == 1:
        return levels[0]
    return ",".join(f"{factor}={level}" for factor, level in zip(factors, levels, strict=True))


def require_columns(frame: DataFrame, columns: Sequence[str]) -> None:
    """Check that columns exist.

    Args:
        frame: The table.
        columns: Names that are needed.

    Raises:
        InputError: With one line per missing column, naming the nearest one.
    """
    problems = []
    for name in dict.fromkeys(columns):
        if name not in frame.columns:
            near = difflib.get_close_matches(name, [str(column) for column in frame.columns], n=1, cutoff=0.0)
            problems.append(f"unknown column `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    if problems:
        raise InputError(problems)


def lay_out(
    frame: DataFrame,
    dv: str,
    within: Sequence[str],
    subject: str,
    *,
    aggregate: str | None = None,
    known_levels: Mapping[str, Sequence[str]] | None = None,
    lenient: bool = False,
) -> Cells:
    """Lay a long table out as subjects x cells.

    Args:
        frame: The table, one row per subject and cell.
        dv: Column of the measure.
        within: Columns of the factors.
        subject: Column of the subject.
        aggregate: `mean` or `median` of several rows of a cell; None refuses them.
        known_levels: Planned labels per factor, so that a level without any row is missing, not unknown.
        lenient: Treat non-finite values as missing (a ledger) instead of refusing them (a plain table).

    Returns:
        The cells.

    Raises:
        InputError: For unknown columns, values that are no finite numbers, missing labels, duplicate cells.
    """
    require_columns(frame, [dv, *within, subject])
    subjects, subject_codes = _encode(frame, subject)
    coded = [_factor(frame, name, (known_levels or {}).get(name)) for name in within]
    shape = tuple(len(levels) for levels, _ in coded)
    cell = np.ravel_multi_index(tuple(codes for _, codes in coded), shape) if len(frame) else np.zeros(0, dtype=int)
    labels = [cell_label(within, levels) for levels in itertools.product(*(levels for levels, _ in coded))]
    numbers = _numbers(frame[dv], dv)
    usable = np.abs(numbers) <= LARGEST  # False for NaN too
    if not lenient:
        unusable = np.nonzero(~usable & ~np.isnan(numbers))[0]
        names = [f"{subject} {subjects[subject_codes[i]]}, {', '.join(within)} {labels[cell[i]]}" for i in unusable]
        _refuse(dv, numbers[unusable], names)
    count = math.prod(shape)
    flat = (subject_codes * count + cell)[usable]
    values, repeated = _fill(flat, numbers[usable], len(subjects) * count, aggregate)
    if repeated.size and aggregate is None:
        name = (
            f"{subject} {subjects[int(repeated[0]) // count]}, {', '.join(within)} {labels[int(repeated[0]) % count]}"
        )
        raise InputError(
            f"several rows for {name} ({repeated.size} such cells); expected one, or an aggregate like mean"
        )
    return Cells(
        factors=tuple(within),
        levels=tuple(tuple(levels) for levels, _ in coded),
        subjects=tuple(subjects),
        values=values.reshape(len(subjects), count),
        n_obs=int(usable.sum()),
        n_duplicate_rows=int(flat.size - np.count_nonzero(np.bincount(flat))),
    )


@dataclass(frozen=True)
class Places:
    """Where the rows of a table belong in a design.

    Attributes:
        row: Index of each row with a usable value in the table; shape (rows,).
        value: The measure there.
        subject: Index into the design's subjects.
        cell: Index of the cell.
    """

    row: NDArray[np.int64]
    value: FloatArray
    subject: NDArray[np.int64]
    cell: NDArray[np.int64]


def locate_rows(frame: DataFrame, cells: Cells, dv: str, subject: str) -> Places:
    """Find every row's place in a design that `lay_out` made of the same table.

    Args:
        frame: The table.
        cells: The design, before any factor was left out.
        dv: Column of the measure.
        subject: Column of the subject.

    Returns:
        The rows with a finite value, several per cell if there are.
    """
    _, subjects = _encode(frame, subject)
    levels = [_factor(frame, name, known)[1] for name, known in zip(cells.factors, cells.levels, strict=True)]
    cell = np.ravel_multi_index(tuple(levels), cells.shape)
    numbers = _numbers(frame[dv], dv)
    row = np.nonzero(np.abs(numbers) <= LARGEST)[0]
    return Places(row, numbers[row], subjects[row], cell[row])


def encode_labels(frame: DataFrame, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """Number the labels of a column.

    Args:
        frame: The table.
        column: A column without empty entries.

    Returns:
        The distinct labels in order of appearance, and each row's index into them.

    Raises:
        InputError: For an empty entry.
    """
    return _encode(frame, column)


def _encode(frame: DataFrame, column: str) -> tuple[list[str], np.ndarray]:
    import pandas as pd

    codes, uniques = pd.factorize(frame[column], use_na_sentinel=True)
    if (codes < 0).any():
        raise InputError(f"column `{column}`: row {int(np.argmax(codes < 0)) + 1} is empty")
    labels = [level_label(value) for value in uniques]
    if len(set(labels)) == len(labels):
        return labels, codes
    # 1 and 1.0 and "1" are one label and so one level.
    distinct = list(dict.fromkeys(labels))
    return distinct, np.array([distinct.index(label) for label in labels])[codes]


def _factor(frame: DataFrame, column: str, known: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    found, codes = _encode(frame, column)
    ordered = order_levels(list(dict.fromkeys([*(known or ()), *_declared_order(frame[column], found)])))
    return ordered, np.array([ordered.index(label) for label in found], dtype=int)[codes]


def _declared_order(column: Series, found: list[str]) -> list[str]:
    """Honour the order of a categorical column, without its unused categories."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return [label for label in map(level_label, column.dtype.categories) if label in found]
    return found


def _numbers(column: Series, dv: str) -> FloatArray:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = np.isnan(numbers) & column.notna().to_numpy()
    wrong &= np.array([str(value).strip().lower() not in ("", "nan") for value in column]) if wrong.any() else False
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"column `{dv}`: row {row + 1}: expected a number, got {column.iloc[row]!r}")
    return numbers


def _refuse(dv: str, numbers: FloatArray, names: Sequence[str]) -> None:
    problems = [f"`{dv}` of {name} is {value}" for name, value in zip(names, numbers, strict=True)]
    if problems:
        raise InputError([f"{problem}: expected a finite number (up to {LARGEST:g})" for problem in problems])


def _fill(flat: np.ndarray, numbers: FloatArray, size: int, aggregate: str | None) -> tuple[FloatArray, np.ndarray]:
    """Put each number into its cell; return also the indices of cells with several."""
    if aggregate is not None and aggregate not in AGGREGATES:
        raise InputError(f"unknown aggregate `{aggregate}`; expected one of {', '.join(AGGREGATES)}")
    values = np.full(size, np.nan)
    values[flat] = numbers
    repeated = np.nonzero(np.bincount(flat, minlength=size) > 1)[0]
    combine = np.median if aggregate == "median" else _mean
    if repeated.size and aggregate is not None:
        order = np.argsort(flat, kind="stable")
        starts = np.searchsorted(flat[order], repeated)
        ends = np.searchsorted(flat[order], repeated, side="right")
        for index, start, end in zip(repeated, starts, ends, strict=True):
            values[index] = combine(numbers[order[start:end]])
    return values, repeated


def _mean(values: FloatArray) -> float:
    """Mean of the differences from the first value, so that an offset costs no digits."""
    return float(values[0] + np.mean(values - values[0]))
