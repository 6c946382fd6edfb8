"""The rows behind a design, with the device and the order in which they were run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rayscale.analysis.cells import Cells, encode_labels, locate_rows
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.levels import level_label
from rayscale.analysis.mixed_design import LongRows
from rayscale.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame


def table_rows(
    frame: DataFrame, cells: Cells, dv: str, subject: str, device: str | None = None, order: str | None = None
) -> LongRows:
    """Take the rows of a long table.

    Args:
        frame: The table.
        cells: The design that `lay_out` made of it.
        dv: Column of the measure.
        subject: Column of the subject.
        device: Column of the device.
        order: Column that grows with time: numbers as they are, anything else (timestamps) by rank. With it a column
            `temp_start_c`, as `rayscale export` writes it, is taken as the start temperature.

    Returns:
        The rows with a value.

    Raises:
        InputError: For an empty device or order.
    """
    places = locate_rows(frame, cells, dv, subject)
    rows = LongRows(places.value, places.subject, places.cell)
    if device is not None:
        names, codes = encode_labels(frame, device)
        rows = replace(rows, device=codes[places.row], device_names=tuple(names))
    if order is not None:
        rows = replace(rows, order=_order(frame, order)[places.row], order_name=order)
        rows = replace(rows, temperature=_temperature(frame, places.row))
    return rows


def subjects_within_devices(
    frame: DataFrame, within: Sequence[str], subject: str, device: str
) -> tuple[DataFrame, str | None]:
    """Tell subjects of the same label on different devices apart, where only that explains repeated cells.

    Args:
        frame: The table.
        within: Columns of the factors.
        subject: Column of the subject; 1 to 6 on each of four devices is 24 subjects.
        device: Column of the device.

    Returns:
        The table with subjects named `<device>:<subject>` and a note that says so, or the table as it is and None.
    """
    design = [*within, subject]
    if not frame.duplicated(design).any() or frame.duplicated([*design, device]).any():
        return frame, None
    if frame[device].isna().any() or frame[subject].isna().any():
        return frame, None  # the rows with an empty label are refused later, by name
    names = [f"{level_label(a)}:{level_label(b)}" for a, b in zip(frame[device], frame[subject], strict=True)]
    note = f"labels of {subject} repeat on several devices: each is taken as another subject within its device"
    return frame.assign(**{subject: names}), note


def ledger_rows(frame: DataFrame, cells: Cells, dv: str, subject: str) -> LongRows:
    """Take the rows of a ledger's table: device by UUID, order by the rank of `started_at`.

    Args:
        frame: What `ledger_frame` returned.
        cells: The design.
        dv: Column of the measure.
        subject: Column of the repetition.

    Returns:
        The rows; the order (named `order`) is None if all trials carry the same time, the temperature is None unless
        every trial has one and they differ.
    """
    rows = table_rows(frame, cells, dv, subject, device="device_uuid")
    kept = locate_rows(frame, cells, dv, subject).row
    order = _started(frame)
    return replace(rows, order=None if order is None else order[kept], temperature=_temperature(frame, kept))


def join_rows(rows: LongRows, aggregate: str) -> LongRows:
    """Join the rows of one cell (on one device) into one.

    Args:
        rows: The rows.
        aggregate: `mean` or `median` of the measure; order and temperature are averaged.

    Returns:
        One row per subject, cell and device.
    """
    device = np.zeros(len(rows.y), dtype=np.int64) if rows.device is None else rows.device
    keys = np.column_stack([rows.subject, rows.cell, device])
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    combine = np.median if aggregate == "median" else np.mean
    y = np.array([rows.y[at] + combine(rows.y[group == index] - rows.y[at]) for index, at in enumerate(first)])
    return replace(
        rows,
        y=y,
        subject=rows.subject[first],
        cell=rows.cell[first],
        device=None if rows.device is None else rows.device[first],
        order=_group_mean(rows.order, group, first),
        temperature=_group_mean(rows.temperature, group, first),
    )


def _temperature(frame: DataFrame, kept: np.ndarray) -> FloatArray | None:
    """Start temperatures of the rows kept, if there are such, all are known, and they differ."""
    import pandas as pd

    if "temp_start_c" not in frame.columns:
        return None
    found = pd.to_numeric(frame["temp_start_c"], errors="coerce").to_numpy(dtype=float)[kept]
    return found if np.all(np.isfinite(found)) and len(np.unique(found)) > 1 else None


def _group_mean(values: FloatArray | None, group: np.ndarray, first: np.ndarray) -> FloatArray | None:
    if values is None:
        return None
    pivot = values[first]
    mean: FloatArray = pivot + np.bincount(group, values - pivot[group]) / np.bincount(group)
    return mean


def _order(frame: DataFrame, column: str) -> FloatArray:
    import pandas as pd

    values = frame[column]
    if values.isna().any():
        raise InputError(f"column `{column}`: row {int(np.argmax(values.isna())) + 1} is empty; expected an order")
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    if np.all(np.isfinite(numbers)):
        return np.asarray(numbers, dtype=np.float64)
    times = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        row = int(np.argmax(times.isna()))
        raise InputError(f"column `{column}`: row {row + 1}: expected a number or a time, got {values.iloc[row]!r}")
    return np.asarray(times.rank(method="average"), dtype=np.float64)


def _started(frame: DataFrame) -> FloatArray | None:
    """Rank of the start times, from 1; trials that share one follow their planned order."""
    import pandas as pd

    times = pd.to_datetime(frame["started_at"], errors="coerce", utc=True, format="ISO8601")
    if times.isna().any() or times.nunique() < 2:
        return None
    planned = frame["run_order"].to_numpy(dtype=float)
    order = np.lexsort((planned, times.to_numpy()))
    rank = np.empty(len(order))
    rank[order] = np.arange(1, len(order) + 1)
    return rank
