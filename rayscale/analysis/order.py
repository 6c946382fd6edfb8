"""What order the runs were really executed in, and whether it deserves the name repeated measures.

A drift (a card that warms up, a neighbour's job, a sensor) adds to a measure what depends on *when* a run happened. If
all runs of one level come before all runs of the next, that is a difference between the levels, and no statistic on the
finished table can tell the two apart: false positives in 37-99 % of simulated null sweeps (research: stats.md). Random
order within blocks keeps them at 5 %.

    level after level     A A A A  B B B B  C C C C      the share of run order that the level explains is near 1
    same order per block  A B C    A B C    A B C        level = position in the block
    random within blocks  B A C    C A B    A C B        what this house plans
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayscale.analysis.cells import Cells
from rayscale.analysis.distributions import chi2_tail
from rayscale.analysis.jsonable import Tree, number, p_number
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.mixed_design import IntArray, LongRows

Verdict = Literal[
    "level_after_level",
    "subjects_interleaved",
    "same_order_in_every_block",
    "counterbalanced",
    "varied_within_blocks",
    "unknown",
]

NESTED_SHARE = 0.5
"""Share of the run order's variance explained by a factor from which it counts as run level after level.

Level after level gives 1 - 1/k^2 (0.75 for two levels, 0.89 for three); blocks give about 0 (0.2 for the same order in
two blocks of two, and less with more blocks).
"""

CONSECUTIVE_SHARE = 0.5
"""Share of blocks with consecutive runs below which the runs do not form blocks in time."""


@dataclass(frozen=True)
class OrderCheck:
    """The executed design.

    Attributes:
        verdict: What the order is.
        sentence: The verdict in words, with its consequence.
        loud: Whether the results must not be read without the sentence.
        explained: Factor -> share of the run order's variance that its levels explain (0 to 1).
        n_blocks: Subjects with at least two runs.
        consecutive: Of these, blocks whose runs follow each other on their device.
        positions: Cell -> how often it ran first, second, ... within a complete block.
        balance_p: Probability of positions at least this uneven under random order; NaN if undefined.
    """

    verdict: Verdict
    sentence: str
    loud: bool
    explained: dict[str, float]
    n_blocks: int
    consecutive: int
    positions: dict[str, list[int]]
    balance_p: float

    def tree(self) -> Tree:
        """Write the check as a part of the tree."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "warning": self.loud,
            "order_explained_by": {name: number(value) for name, value in self.explained.items()},
            "n_blocks": self.n_blocks,
            "consecutive_blocks": self.consecutive,
            "positions": self.positions,
            "position_balance_p": p_number(self.balance_p),
        }


def check_order(cells: Cells, rows: LongRows) -> OrderCheck:
    """Check the order in which the runs were executed.

    Args:
        cells: The design.
        rows: Its rows, with an order; several devices run side by side, so each has an order of its own.

    Returns:
        The check; `unknown` where the order says nothing (missing, all the same, too few runs).
    """
    if rows.order is None or len(np.unique(rows.order)) < 2 or len(rows.y) < 4:
        return _unknown("The order of the runs is not known, so a drift over time cannot be told from an effect.")
    device = np.zeros(len(rows.y), dtype=np.int64) if rows.device is None else rows.device
    rank = _rank_by(rows.order, device)
    explained = _explained(cells, rows, rank, device)
    blocks = [np.nonzero(rows.subject == subject)[0] for subject in np.unique(rows.subject)]
    blocks = [block for block in blocks if len(block) > 1]
    consecutive = sum(_is_consecutive(rank[block], device[block]) for block in blocks)
    count = math.prod(cells.shape)
    orders = [
        rows.cell[block[np.argsort(rows.order[block], kind="stable")]]
        for block in blocks
        if len(block) == count == len(np.unique(rows.cell[block]))
    ]
    table = _positions(orders, count)
    verdict, sentence = _verdict(explained, orders, table, consecutive, len(blocks))
    return OrderCheck(
        verdict=verdict,
        sentence=sentence,
        loud=verdict == "level_after_level",
        explained=explained,
        n_blocks=len(blocks),
        consecutive=consecutive,
        positions={label: [int(n) for n in row] for label, row in zip(cells.cell_labels, table, strict=True)},
        balance_p=_balance_p(table, len(orders)),
    )


def _unknown(sentence: str) -> OrderCheck:
    return OrderCheck("unknown", sentence, False, {}, 0, 0, {}, math.nan)


def _rank_by(order: FloatArray, device: IntArray) -> FloatArray:
    """Rank of each run on its device, from 0; ties keep the order of the rows."""
    rank = np.empty(len(order))
    for name in np.unique(device):
        chosen = np.nonzero(device == name)[0]
        rank[chosen[np.argsort(order[chosen], kind="stable")]] = np.arange(len(chosen))
    return rank


def _explained(cells: Cells, rows: LongRows, rank: FloatArray, device: IntArray) -> dict[str, float]:
    """Eta squared of the within-device run order by the levels of each factor, pooled over the devices."""
    levels = np.unravel_index(rows.cell, cells.shape)
    found = {}
    for factor, level in zip(cells.factors, levels, strict=True):
        between = total = 0.0
        for name in np.unique(device):
            here = device == name
            centred = rank[here] - rank[here].mean()
            total += float(np.sum(centred**2))
            sums, sizes = np.bincount(level[here], centred), np.bincount(level[here])
            between += float(np.sum(sums[sizes > 0] ** 2 / sizes[sizes > 0]))
        found[factor] = between / total if total > 0 else 0.0
    return found


def _is_consecutive(rank: FloatArray, device: IntArray) -> bool:
    return bool(np.all(device == device[0]) and rank.max() - rank.min() == len(rank) - 1)


def _positions(orders: list[IntArray], count: int) -> IntArray:
    table = np.zeros((count, count), dtype=np.int64)
    for order in orders:
        table[order, np.arange(count)] += 1
    return table


def _balance_p(table: IntArray, blocks: int) -> float:
    """Anderson's (1959, Biometrika 46) test that all cells are equally often at all positions.

    (k-1)/k sum (O - n/k)^2 / (n/k) is chi-squared with (k-1)^2 df; too few blocks (n/k < 3) give NaN.
    """
    count = len(table)
    expected = blocks / count
    if expected < 3 or count < 2:
        return math.nan
    statistic = (count - 1) / count * float(np.sum((table - expected) ** 2)) / expected
    return chi2_tail(statistic, (count - 1) ** 2)


def _verdict(
    explained: dict[str, float], orders: list[IntArray], table: IntArray, consecutive: int, blocks: int
) -> tuple[Verdict, str]:
    worst = max(explained, key=lambda name: explained[name])
    if explained[worst] >= NESTED_SHARE:
        return "level_after_level", _LEVEL_AFTER_LEVEL.format(factor=worst, percent=100 * explained[worst])
    if consecutive < CONSECUTIVE_SHARE * blocks:
        return "subjects_interleaved", _INTERLEAVED.format(consecutive=consecutive, blocks=blocks)
    count = len(table)
    same = len(orders) > 1 and all(np.array_equal(order, orders[0]) for order in orders)
    # By chance all blocks agree with probability (1/k!)^(blocks-1): with two blocks of two levels every second time.
    by_chance = math.factorial(count) ** (1.0 - len(orders)) if count <= 20 else 0.0
    if same and by_chance < 0.05:
        return "same_order_in_every_block", _SAME_ORDER.format(blocks=len(orders))
    if same or len(orders) < 2:
        return "unknown", _TOO_FEW.format(blocks=len(orders))
    if np.all(table == table[0, 0]):
        return "counterbalanced", _BALANCED.format(blocks=len(orders))
    return "varied_within_blocks", _VARIED.format(blocks=len(orders))


_LEVEL_AFTER_LEVEL = (
    "WARNING: the runs were executed level after level ({factor} explains {percent:.0f}% of the run order), so this is "
    "not a repeated-measures experiment: any drift over time looks like an effect of {factor}. In simulated sweeps "
    "without any effect, such an order gave false positives in 37 to 99% of cases; random order within blocks gives "
    "5%. Neither p values nor pairs below protect against it; run it again with order: randomized_blocks."
)
_INTERLEAVED = (
    "Only {consecutive} of {blocks} blocks have their runs one after the other: the runs of a subject do not share a "
    "window of time, so a slow drift is not removed by comparing within subjects."
)
_SAME_ORDER = (
    "All {blocks} blocks ran the levels in the same order, so a level cannot be told from its position in the block "
    "(the first run on a cold device, the last on a warm one)."
)
_TOO_FEW = "{blocks} complete block(s) are too few to say whether the order within blocks was varied."
_BALANCED = (
    "Across the {blocks} complete blocks every level ran equally often at every position, so a steady drift cancels."
)
_VARIED = (
    "The levels ran in varied order within the {blocks} complete blocks, as a repeated-measures comparison needs: a "
    "drift over time adds noise but no effect of its own."
)
