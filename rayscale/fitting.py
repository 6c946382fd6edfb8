"""`rayscale fit`: where the points of a scaling law come from. The fit itself is `analysis.fitted`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.analysis.fitted import FitRequest, fit_frame, predict

if TYPE_CHECKING:
    import pandas

__all__ = ["FitRequest", "fit_frame", "ledger_points", "predict", "read_points"]


def read_points(path: Path) -> pandas.DataFrame:
    """Read the table of a fit.

    Args:
        path: .csv, .parquet or .json.

    Returns:
        The table.
    """
    from rayscale.analysis.table import read_table

    return read_table(path)


def ledger_points(directory: Path) -> pandas.DataFrame:
    """Read the finished trials of a ledger as points of a fit.

    Args:
        directory: The ledger.

    Returns:
        One row per trial with `params`, `trained_tokens`, `eval_loss`.
    """
    from rayscale.analysis.table import ledger_frame
    from rayscale.analyzing import finished_records
    from rayscale.ledger import Ledger

    ledger = Ledger(directory)
    plan = ledger.read_plan()
    return ledger_frame(finished_records(ledger, plan), plan.spec.analysis.metrics, report=plan.spec.report)
