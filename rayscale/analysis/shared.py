"""Rows that share their training's beginning (`train.share_prefix`): what they can and cannot say.

The weights, and with them losses and perplexities, are those of trials that share nothing. Time and energy are not: the
row of a larger budget contains the very measurement of the smaller ones' trunk, so the errors of the levels are
dependent, and the budgets of a block ran in ascending order. No test on such rows has the error rate it states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rayscale.analysis.efficiency import METRICS, is_energy_column
from rayscale.analysis.expression import expression_columns
from rayscale.analysis.jsonable import Tree
from rayscale.record import Record

_TIMES = frozenset({"duration_s", "train_s", "tokens_per_s", "mfu", "temp_start_c", "temp_end_c", "coverage"})


def shared_notes(records: Sequence[Record]) -> list[str]:
    """Say that trunks are shared.

    Args:
        records: The records that are analysed.

    Returns:
        Notes; none where every trial ran all of its training.
    """
    shared = [record for record in records if record.sharing is not None]
    if not shared:
        return []
    taken = sum(record.sharing.run_share < 1 for record in shared if record.sharing)
    notes = [
        f"train.share_prefix: the budgets of a block share one trunk ({taken} of {len(shared)} trials began from the "
        "state of a smaller budget); their times and energies are sums over measured parts, some of which several rows "
        "contain, and budgets ran in ascending order within every block by need, not by chance"
    ]
    alone = [record for record in shared if record.sharing and record.sharing.note]
    if alone:
        keys = ", ".join(record.trial_key for record in alone[:10]) + (" ..." if len(alone) > 10 else "")
        notes.append(f"{len(alone)} of them had no such state although one was due and trained from step 0: {keys}")
    return notes


def mark_dependence(
    tree: Tree, records: Sequence[Record], metrics: Mapping[str, str], columns: Collection[str]
) -> Tree:
    """Mark the tree of a measure whose rows contain each other's measurements.

    Args:
        tree: The tree of one measure.
        records: The records behind it.
        metrics: The user's own metrics.
        columns: Columns of the table.

    Returns:
        The tree; where trunks are shared with `shared_prefix: {rows, independent, sentence}`, whose sentence leads what
        is said about a measure made of time or energy.
    """
    rows = sum(record.sharing is not None for record in records)
    if not rows:
        return tree
    dependent = rests_on_parts(str(tree["dv"]), metrics, columns)
    sentence = (_DEPENDENT if dependent else _INDEPENDENT).format(dv=tree["dv"])
    marked = tree | {"shared_prefix": {"rows": rows, "independent": not dependent, "sentence": sentence}}
    return marked | ({"plain": [sentence, *tree["plain"]]} if dependent else {})


def rests_on_parts(name: str, metrics: Mapping[str, str], columns: Collection[str]) -> bool:
    """Tell whether time or energy enters a measure; a user metric may use earlier ones only, so this ends.

    Args:
        name: The measure.
        metrics: The user's own metrics.
        columns: Columns of the table.

    Returns:
        True if rows that share a trunk contain each other's measurements of it.
    """
    if name in METRICS:
        return any(rests_on_parts(part, {}, columns) for part in METRICS[name].inputs)
    if name in metrics:
        earlier = dict(list(metrics.items())[: list(metrics).index(name)])
        return any(rests_on_parts(part, earlier, columns) for part in expression_columns(metrics[name], columns))
    return name in _TIMES or is_energy_column(name)


_DEPENDENT = (
    "WARNING: the rows of {dv} are not independent measurements: budgets of a block share a trunk "
    "(train.share_prefix), so the time and energy of a larger budget contain those of the smaller ones' trunk, and "
    "budgets always ran in ascending order. Means and differences stand; p values and confidence intervals below do "
    "not have the error rates they state. For tests, run it with share_prefix: false."
)
_INDEPENDENT = (
    "{dv} is what trials that share nothing would give: sharing a trunk (train.share_prefix) changes no bit of the "
    "weights."
)
