"""Which targets a budget trains on: a pure function of (study seed, repetition, epoch), nested over budgets.

A stream of tokens is read as rows of T+1 tokens with stride T, so that T inputs face T targets and no target is lost
at a row's border. A budget of N targets takes the first N targets of the repetition's row sequence:

    step 0          step 1          last step
    [row][row]..    [row][row]..    [row][ro--]      `-`: surplus targets, ignored; whole micro-batches are computed

Hence the first 500K targets of the 1M trial are those of the 500K trial of the same repetition.

With several devices per trial, each takes its share of the same steps (`rank_rows`): all compute equally many whole
micro-batches, and together exactly the step's targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100
"""Target value that the loss leaves out (the convention of torch's cross entropy)."""


@dataclass(frozen=True)
class StepRows:
    """The rows of one optimiser step.

    Attributes:
        starts: Offset of each row in the stream, shape (micro-batches x micro-batch size,); padding rows repeat 0.
        targets: Supervised targets of the step; in row-major order exactly the first ones count.
    """

    starts: np.ndarray
    targets: int


@dataclass(frozen=True)
class RankRows:
    """One device's rows of one optimiser step.

    Attributes:
        rows: Its rows; `rows.targets` are its own supervised targets, which may be 0.
        step_targets: Supervised targets of the step on all devices: what the summed loss is divided by.
    """

    rows: StepRows
    step_targets: int


@dataclass(frozen=True)
class Budget:
    """An exact number of supervised targets, laid out in optimiser steps.

    Attributes:
        tokens: Supervised targets in all.
        sequence_length: Targets per row.
        batch_size: Rows per optimiser step.
        micro_batch_size: Rows per forward pass; divides `batch_size`.
    """

    tokens: int
    sequence_length: int
    batch_size: int
    micro_batch_size: int

    @property
    def step_tokens(self) -> int:
        """Targets of a full step."""
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimiser steps, the last one possibly smaller."""
        return math.ceil(self.tokens / self.step_tokens)

    @property
    def rows(self) -> int:
        """Rows that hold the budget's targets."""
        return math.ceil(self.tokens / self.sequence_length)

    def targets(self, step: int) -> int:
        """Count the supervised targets of one step.

        Args:
            step: Index of the step.

        Returns:
            The number of targets.
        """
        return min(self.step_tokens, self.tokens - step * self.step_tokens)

    def computed_rows(self, step: int) -> int:
        """Count the rows that one step computes: whole micro-batches, so that shapes are static.

        Args:
            step: Index of the step.

        Returns:
            The number of rows, padding rows included.
        """
        needed = math.ceil(self.targets(step) / self.sequence_length)
        return math.ceil(needed / self.micro_batch_size) * self.micro_batch_size

    @property
    def processed_tokens(self) -> int:
        """Positions computed, surplus of the last step included."""
        full = (self.steps - 1) * self.step_tokens
        return full + self.computed_rows(self.steps - 1) * self.sequence_length

    def step_rows(self, step: int, row_ids: np.ndarray) -> StepRows:
        """Locate one step's rows in the stream.

        Args:
            step: Index of the step.
            row_ids: The budget's row sequence (`row_sequence`).

        Returns:
            The rows' offsets and the number of targets.
        """
        import numpy as np

        ids = row_ids[step * self.batch_size : (step + 1) * self.batch_size]
        starts = np.zeros(self.computed_rows(step), dtype=np.int64)
        starts[: len(ids)] = ids * self.sequence_length
        return StepRows(starts, self.targets(step))


def rank_rows(budget: Budget, step: int, row_ids: np.ndarray, rank: int, world: int) -> RankRows:
    """Locate one device's rows of one optimiser step.

    The step's rows are those of a single device, in the same order, cut into `world` runs of whole micro-batches; the
    last devices get what padding there is. So every device computes the same shapes equally often, as the collective
    operations of data-parallel training need it.

    Args:
        budget: The budget; its batch size is the whole step's, its micro-batch size one device's.
        step: Index of the step.
        row_ids: The budget's row sequence (`row_sequence`), the same on all devices.
        rank: Index of the device.
        world: Number of devices.

    Returns:
        The device's rows and the step's targets.

    Raises:
        ValueError: If there is no such device.
    """
    import numpy as np

    if not 0 <= rank < world:
        raise ValueError(f"expected a rank in [0, {world}), got {rank}")
    whole = budget.step_rows(step, row_ids)
    needed = math.ceil(whole.targets / budget.sequence_length)
    share = math.ceil(needed / (world * budget.micro_batch_size)) * budget.micro_batch_size
    first = rank * share
    starts = np.zeros(share, dtype=np.int64)
    mine = whole.starts[:needed][first : first + share]
    starts[: len(mine)] = mine
    targets = min(max(whole.targets - first * budget.sequence_length, 0), share * budget.sequence_length)
    return RankRows(StepRows(starts, targets), whole.targets)


def processed_tokens(budget: Budget, world: int) -> int:
    """Count the positions that all devices of a trial compute together.

    Args:
        budget: The budget; its micro-batch size is one device's.
        world: Number of devices.

    Returns:
        Positions of whole micro-batches, equally many on each device in every step.
    """
    if world == 1:
        return budget.processed_tokens

    def positions(targets: int) -> int:
        rows, together = math.ceil(targets / budget.sequence_length), world * budget.micro_batch_size
        return math.ceil(rows / together) * together * budget.sequence_length

    last = budget.steps - 1
    return last * positions(budget.step_tokens) + positions(budget.targets(last))


def rows_in(stream_tokens: int, sequence_length: int) -> int:
    """Count the rows of a stream.

    Args:
        stream_tokens: Length of the stream.
        sequence_length: Targets per row.

    Returns:
        Whole rows of T+1 tokens with stride T.
    """
    return max(0, (stream_tokens - 1) // sequence_length)


def row_order(study_seed: int, repetition: int, epoch: int, rows: int) -> np.ndarray:
    """Permute the rows of one epoch.

    The permutation sorts raw 64-bit words of PCG64: numpy guarantees that bit stream for good, which it does not for
    `Generator.permutation`, so the order is the same on every machine and numpy version.

    Args:
        study_seed: `design.seed`.
        repetition: Index of the repetition.
        epoch: Index of the pass over the stream.
        rows: Number of rows.

    Returns:
        A permutation of `range(rows)`, int64.
    """
    import numpy as np

    bits = np.random.PCG64(np.random.SeedSequence([study_seed, repetition, epoch])).random_raw(rows)
    return np.argsort(bits, kind="stable").astype(np.int64)


def row_sequence(study_seed: int, repetition: int, rows: int, count: int) -> np.ndarray:
    """List the first rows that a repetition trains on, epoch after epoch.

    Args:
        study_seed: `design.seed`.
        repetition: Index of the repetition.
        rows: Rows of the stream; at least 1.
        count: Rows wanted; any number, a shorter list is a prefix of a longer one.

    Returns:
        Row indices, shape (count,).
    """
    import numpy as np

    epochs = [row_order(study_seed, repetition, epoch, rows) for epoch in range(math.ceil(count / rows))]
    return np.concatenate(epochs)[:count] if epochs else np.zeros(0, dtype=np.int64)
