"""Which mixed models and checks of order a measure gets, and where they go in its tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayscale.analysis.cells import Cells
from rayscale.analysis.jsonable import Tree
from rayscale.analysis.mixed_design import LongRows
from rayscale.analysis.mixed_rows import join_rows
from rayscale.analysis.mixed_text import mixed_sentences
from rayscale.analysis.mixed_tree import (
    LEAST_BLOCKS,
    Part,
    device_part,
    drift_part,
    missing_part,
    nested_part,
    one_device_note,
)
from rayscale.analysis.order import OrderCheck, check_order


@dataclass(frozen=True)
class Extras:
    """What is known of the rows beyond the design, and what to make of it.

    Attributes:
        rows: All rows, with device and order where known; None: neither is wanted.
        devices: Fit the models with devices.
        drift: Fit the model with the order of runs.
        aggregate: `mean` or `median` of several rows per cell; None: one row per cell.
    """

    rows: LongRows | None = None
    devices: bool = False
    drift: bool = False
    aggregate: str | None = None

    @classmethod
    def of_ledger(cls, rows: LongRows) -> Extras:
        """Decide for a ledger, where device and order are always known.

        Args:
            rows: Its rows.

        Returns:
            Models with devices from two devices on; a drift from two devices or six repetitions on.
        """
        several = rows.n_devices > 1
        blocks = len(np.unique(rows.subject))
        return cls(rows, devices=several, drift=rows.order is not None and (several or blocks >= LEAST_BLOCKS))


def attach_parts(tree: Tree, cells: Cells, extras: Extras, alpha: float) -> None:
    """Add the mixed models, the check of the run order, their notes and sentences to a measure's tree.

    A sweep that was run level after level gets its warning as the first note and the first sentence.

    Args:
        tree: The tree of the measure, with `notes` and `plain`; changed in place.
        cells: The design without constant factors.
        extras: The rows and what is wanted of them.
        alpha: Significance level.
    """
    parts = [missing_part(cells, alpha)]
    check: OrderCheck | None = None
    rows = extras.rows
    if rows is not None and len(rows.y):
        if extras.aggregate is not None:
            parts.append(nested_part(cells, rows, alpha))
            rows = join_rows(rows, extras.aggregate)
        if extras.devices:
            parts.append(device_part(cells, rows, alpha))
        elif rows.n_devices == 1:
            parts.append(Part({"n_devices": 1}, [one_device_note(rows)]))
        if extras.drift:
            parts.append(drift_part(cells, rows, alpha))
        check = check_order(cells, rows) if rows.order is not None else None
    _merge(tree, parts, check)


def _merge(tree: Tree, parts: list[Part], check: OrderCheck | None) -> None:
    for part in parts:
        tree |= part.tree
        tree["notes"] = [*tree["notes"], *part.notes]
    if check is not None:
        tree["run_order"] = check.tree()
        if check.loud:
            tree["notes"] = [check.sentence, *tree["notes"]]
    sentences = mixed_sentences(tree)
    loud = 1 if check is not None and check.loud else 0
    tree["plain"] = [*sentences[:loud], *tree["plain"], *sentences[loud:]]
