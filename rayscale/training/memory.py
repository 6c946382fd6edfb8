"""How much memory training takes, by arithmetic; so a micro-batch is chosen by a sum and not by running out of memory.

    weights      4·N  (fp32; 2·N for bf16-pure)          N: parameters
    gradients    as weights
    moments      twice the weights (AdamW)
    copies       2·N_matmul: autocast keeps a bf16 copy of every matrix during a micro-batch; nothing otherwise
    activations  per token and block a·width + q·(H + K)·Q + i·inner + 4·H + 8 bytes, and what surrounds the blocks
    head         a chunk of logits with its gradients, the head's gradient, the last state's

The coefficients count what autograd keeps of transformers' Llama block, byte for byte (a test compares them with the
tensors that are really saved; Qwen3's extra norms are not in it). Kernels that torch.compile fuses keep a third less;
the sum is then an upper bound. What the allocator loses between blocks and the CUDA context are outside: `USABLE` and
`CONTEXT` leave room for them. One measurement corrects the sum where there is a GPU: the peak of a single row
(`corrected`). No torch here: `plan` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rayscale.errors import InputError
from rayscale.training.flops import ModelShape, block_fields

if TYPE_CHECKING:
    from rayscale.spec import SweepSpec, TrainSpec

USABLE = 0.92
"""Share of a GPU's memory that the sum may reach; the rest is lost between blocks of the allocator."""
CPU_USABLE = 0.5
"""Share of a machine's memory for one trial on its CPU."""
CONTEXT = 768 * 2**20
"""CUDA context, cuBLAS workspaces and kernels; an assumption. Units: B."""
CHUNK_BYTES = 64 * 2**20
"""fp32 logits that the loss holds at a time. The sum counts them four times (the log-softmax, which becomes the
gradient, and copies in bf16 where there are any): a bound, on a CPU in fp32 it is twice. Units: B."""


@dataclass(frozen=True)
class _Bytes:
    """Bytes per number. `stream` is what flows between blocks: fp32 under autocast."""

    weight: int
    stream: int
    width: int
    query: int
    inner: int


# width: the residual stream, the norms' inputs and outputs; query also holds for keys and values.
_PRECISIONS = {
    "fp32": _Bytes(weight=4, stream=4, width=24, query=8, inner=16),
    "bf16": _Bytes(weight=4, stream=4, width=26, query=4, inner=8),
    "fp8": _Bytes(weight=4, stream=4, width=26, query=4, inner=8),  # what is kept for the way back is less: a bound
    "bf16-pure": _Bytes(weight=2, stream=2, width=16, query=4, inner=8),
}


@dataclass(frozen=True)
class MemoryNeed:
    """What a trial's training keeps in memory. Units: B.

    Attributes:
        weights: Parameters.
        gradients: Their gradients.
        moments: AdamW's two moments.
        copies: bf16 copies of the matrices under autocast.
        head: Gradient of the head before it is added to the others.
        context: CUDA context; 0 on a CPU.
        logits_per_row: fp32 logits of one row.
        per_row: Activations of one row of T tokens.
        measured: Whether `per_row` was measured.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    head: int
    context: int
    logits_per_row: int
    per_row: int
    measured: bool = False

    def parts(self, rows: int) -> dict[str, int]:
        """Write the sum part by part.

        Args:
            rows: Rows per micro-batch.

        Returns:
            Part -> bytes.
        """
        logits = 4 * min(CHUNK_BYTES, rows * self.logits_per_row)
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "moments": self.moments,
            "copies": self.copies,
            "activations": rows * self.per_row,
            "head": self.head + logits,
            "context": self.context,
        }

    def total(self, rows: int) -> int:
        """Add the parts up.

        Args:
            rows: Rows per micro-batch.

        Returns:
            Bytes.
        """
        return sum(self.parts(rows).values())


def memory_need(
    config: Mapping[str, Any],
    shape: ModelShape,
    *,
    sequence_length: int,
    precision: str,
    checkpointing: bool,
    cuda: bool,
) -> MemoryNeed:
    """Add up what training a Llama-like model keeps in memory.

    Args:
        config: Fields of its transformers config; missing ones take that library's defaults.
        shape: Its counts.
        sequence_length: T.
        precision: `fp32`, `bf16` or `bf16-pure`.
        checkpointing: Whether blocks keep only their inputs.
        cuda: Whether it runs on a GPU.

    Returns:
        The need.

    Raises:
        InputError: If the model type cannot be counted.
    """
    size, fields = _PRECISIONS[precision], block_fields(config)
    weights = size.weight * shape.params
    width, inner = fields["hidden_size"], fields["intermediate_size"]
    heads, key_values = shape.heads, fields["num_key_value_heads"] or shape.heads
    block = size.width * width + size.query * (heads + key_values) * shape.head_dim + size.inner * inner + 4 * heads + 8
    kept = shape.layers * size.stream * width + block if checkpointing else shape.layers * block
    around = 4 * size.stream * width  # embedding, final norm, the last state and its gradient
    return MemoryNeed(
        weights=weights,
        gradients=weights,
        moments=2 * weights,
        copies=2 * shape.matmul_params if precision in ("bf16", "fp8") else 0,
        head=size.weight * shape.vocab_size * width,
        context=CONTEXT if cuda else 0,
        logits_per_row=4 * sequence_length * shape.vocab_size,
        per_row=sequence_length * (kept + around),
    )


def largest_micro_batch(need: MemoryNeed, batch_size: int, limit: float) -> int | None:
    """Choose the largest micro-batch whose sum stays below a limit.

    Args:
        need: The need.
        batch_size: Rows per optimiser step; the micro-batch divides it.
        limit: Memory that may be used. Units: B.

    Returns:
        Rows; None if not even one fits.
    """
    fitting = [rows for rows in range(1, batch_size + 1) if batch_size % rows == 0 and need.total(rows) <= limit]
    return max(fitting, default=None)


def corrected(need: MemoryNeed, peak: int, rows: int) -> MemoryNeed:
    """Put a measured peak in the place of the activations' sum.

    Args:
        need: The need by arithmetic.
        peak: Most memory that tensors held while `rows` rows went forward and back. Units: B.
        rows: Rows of that probe.

    Returns:
        The need with `per_row` such that weights, gradients, copies, head and activations make up the peak; the
        moments were not there yet. At least the last state of the rows is left.
    """
    sizes = need.parts(rows)
    there = sum(sizes[name] for name in ("weights", "gradients", "copies", "head"))
    return replace(need, per_row=max((peak - there) // rows, need.per_row // 8), measured=True)


def memory_sentence(need: MemoryNeed, rows: int) -> str:
    """Write the sum as people read it.

    Args:
        need: The need.
        rows: Rows per micro-batch.

    Returns:
        `25.9 GB with micro-batches of 1 (by arithmetic): weights 4.40 + gradients 4.40 + ...`, all in the same unit.
    """
    total = need.total(rows)
    unit, scale = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
    parts = [f"{name} {value / scale:.2f}" for name, value in need.parts(rows).items() if value]
    how = "activations measured" if need.measured else "by arithmetic"
    return f"{total / scale:.1f} {unit} with micro-batches of {rows} ({how}): {' + '.join(parts)}"


@dataclass(frozen=True)
class RowChoice:
    """Rows per forward pass, and why.

    Attributes:
        rows: The micro-batch.
        reason: In words.
    """

    rows: int
    reason: str


def spec_need(
    spec: SweepSpec, config: Mapping[str, Any], shape: ModelShape, precision: str, *, cuda: bool
) -> MemoryNeed | None:
    """Add up the memory of a sweep's trials.

    Args:
        spec: The resolved sweep.
        config: Fields of the model's transformers config.
        shape: Its counts.
        precision: `fp32`, `bf16` or `bf16-pure`.
        cuda: Whether they run on a GPU.

    Returns:
        The need; None for an architecture that cannot be counted.
    """
    try:
        return memory_need(
            config,
            shape,
            sequence_length=spec.data.sequence_length,
            precision=precision,
            checkpointing=spec.train.checkpointing,
            cuda=cuda,
        )
    except InputError:
        return None


def choose_rows(train: TrainSpec, need: MemoryNeed | None, limit: float | None, world: int = 1) -> RowChoice:
    """Choose the micro-batch that the settings ask for.

    Args:
        train: The settings.
        need: What training takes; None if it cannot be counted.
        limit: Memory that may be used; None if unknown. Units: B.
        world: Devices that share each step; need and limit are those of one.

    Returns:
        The choice.

    Raises:
        InputError: If `auto` is asked for and the sum is unknown, or not even one row fits.
    """
    if isinstance(train.micro_batch_size, int):
        return RowChoice(train.micro_batch_size, "train.micro_batch_size")
    share = train.batch_size // world
    if train.micro_batch_size is None:
        whose = "the whole batch (train.batch_size)" if world == 1 else f"a rank's rows (train.batch_size / {world})"
        return RowChoice(share, whose)
    where = "train.micro_batch_size: auto"
    if need is None or limit is None:
        raise InputError(f"{where}: this model's or device's memory cannot be added up; expected a number of rows")
    rows = largest_micro_batch(need, share, limit)
    if rows is None:
        raise InputError(
            f"{where}: one row takes {memory_sentence(need, 1)}; expected at most {limit / 1e9:.3g} GB "
            "(train.checkpointing, train.precision: bf16-pure or shorter rows take less)"
        )
    return RowChoice(rows, f"auto: {memory_sentence(need, rows)}; at most {limit / 1e9:.3g} GB")


def memory_limit(gpu_bytes: int | None) -> float:
    """Tell how much memory a trial may use.

    Units: B.

    Args:
        gpu_bytes: Memory of the GPU; None for a trial on the CPU, which may use half of the machine's.

    Returns:
        The limit: a constant of the machine, so that the choice is the same in every trial.
    """
    if gpu_bytes is not None:
        return USABLE * gpu_bytes
    return CPU_USABLE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
