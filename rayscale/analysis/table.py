"""Tables: one row per record with all metrics, and long tables read from files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.analysis.efficiency import METRICS, report_inputs
from rayscale.analysis.expression import RowFunction, compile_expression
from rayscale.errors import InputError
from rayscale.record import Record, flatten
from rayscale.spec import ReportSpec

if TYPE_CHECKING:
    from pandas import DataFrame

BASE_COLUMNS = (
    *("trial_key", "tokens", "repetition", "block", "run_order", "seed", "device_uuid", "device_name"),
    *("devices", "world_size", "duration_s"),
    *("import_s", "build_s", "data_s", "compile_s", "warmup_s", "train_s", "eval_s", "steps", "trained_tokens"),
    *("processed_tokens", "epochs", "params", "train_loss", "eval_loss_before", "eval_loss", "perplexity"),
    *("bits_per_byte", "tokens_per_s", "flops", "flops_6nd", "mfu", "tflops_bench", "energy_method"),
    *("energy_estimated", "energy_j", "energy_bound_j", "net_energy_j", "energy_counter_j", "energy_integral_j"),
    *("energy_instant_j", "power_mean_w", "power_rms_w", "idle_w", "power_samples", "coverage", "temp_start_c"),
    *("temp_end_c", "verdict", "reasons", "attempts", "started_at", "shared_prefix", "segment_tokens", "segment_s"),
    *("segment_energy_j", "trainable_params", "nonzero_params", "teacher_flops", "eval_loss_unquantized"),
    "eval_energy_j",
)
"""Columns of `record.flatten`, so that an empty ledger has its columns too."""

NUMERIC_COLUMNS = tuple(
    name
    for name in BASE_COLUMNS
    if name
    not in (
        *("trial_key", "device_uuid", "device_name", "energy_method", "energy_estimated"),
        *("verdict", "reasons", "started_at", "tokens", "repetition", "shared_prefix"),
    )
)
"""Columns that hold numbers: all null is a column of missing numbers, not of nothing."""


def ledger_frame(
    records: Iterable[Record],
    user_metrics: Mapping[str, str] | None = None,
    report: ReportSpec | None = None,
) -> DataFrame:
    """Put records into a table: `record.flatten`, the metrics of design 4.5, then the user's own.

    Args:
        records: The records.
        user_metrics: Name -> expression over the columns, the built-in metrics and earlier user metrics.
        report: Carbon intensity, PUE and prices; None leaves `co2e_g` and `cost` empty.

    Returns:
        One row per record. Missing numbers are NaN, never 0; all columns are always there.

    Raises:
        InputError: If an expression is wrong or a user metric takes the name of a column.
    """
    import pandas as pd

    rows = [flatten(record) for record in records]
    settings = report_inputs(report)
    for row in rows:
        row.update({name: metric.of({**row, **settings}) for name, metric in METRICS.items()})
    columns = list(dict.fromkeys([*(name for row in rows for name in row), *BASE_COLUMNS, *METRICS]))
    for name, function in user_functions(user_metrics or {}, columns).items():
        for row in rows:
            row[name] = function(row)
        columns.append(name)
    frame = pd.DataFrame(rows, columns=columns)
    numeric = [*NUMERIC_COLUMNS, *METRICS, *(user_metrics or {})]
    # An all-null column would else be of type object, and whether it is would depend on the data.
    return frame.astype(dict.fromkeys((name for name in numeric if frame[name].isna().any()), "float64"))


def user_functions(user_metrics: Mapping[str, str], columns: Iterable[str]) -> dict[str, RowFunction]:
    """Compile the user's metrics in their order; each may use the earlier ones.

    Args:
        user_metrics: Name -> expression.
        columns: Existing columns.

    Returns:
        Name -> function of a row.

    Raises:
        InputError: With one line per wrong metric.
    """
    known, functions, problems = list(columns), {}, []
    for name, text in user_metrics.items():
        try:
            if name in known:
                raise InputError(f"`{name}` is already a column")
            functions[name] = compile_expression(text, known)
        except InputError as error:
            problems += [f"analysis.metrics.{name}: {problem}" for problem in error.problems]
        known.append(name)
    if problems:
        raise InputError(problems)
    return functions


def read_table(path: str | Path) -> DataFrame:
    """Read a long table: one row per subject and condition.

    Args:
        path: A .csv, .parquet or .json file (JSON: a list of rows, or an object of columns).

    Returns:
        The table.

    Raises:
        InputError: If there is no such file, it cannot be read, or it has no rows.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: expected a table as .csv, .parquet or .json")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        frame = readers[path.suffix.lower()](path)
    except InputError:
        raise
    except (OSError, ValueError, TypeError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot read the table: {reason}") from None
    frame.columns = [str(name) for name in frame.columns]
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    if frame.columns.has_duplicates:
        raise InputError(f"{path}: the column `{frame.columns[frame.columns.duplicated()][0]}` occurs twice")
    return frame


def _read_csv(path: Path) -> DataFrame:
    import pandas as pd

    # round_trip: the default parser may be off in the last digit, which matters for values near 1e12.
    return pd.read_csv(path, float_precision="round_trip")


def _read_parquet(path: Path) -> DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _read_json(path: Path) -> DataFrame:
    import pandas as pd

    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return pd.DataFrame(content)
    if isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        return pd.DataFrame(content)
    raise InputError(f"{path}: expected a JSON list of rows or an object of equally long columns")
