"""What a session says: progress, results, facts about model and device, and the end of a diverged training."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.errors import RayscaleError

if TYPE_CHECKING:
    import numpy as np


class Diverged(RayscaleError):  # noqa: N818 (a contract name: it is an outcome of training more than an error)
    """The training loss became NaN or infinite."""

    def __init__(self, step: int, tokens: int) -> None:
        """Say where.

        Args:
            step: Index of the first step with such a loss.
            tokens: Tokens trained before it.
        """
        self.step, self.tokens = step, tokens
        super().__init__(f"the loss is NaN or infinite at step {step}, after {tokens} trained tokens")


@dataclass(frozen=True)
class StepLog:
    """Progress of training.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        tokens: Tokens trained so far.
        loss: Mean loss of the last step. Units: nats per token.
        tokens_per_s: Speed since the last log.
        elapsed_s: Time since training began.
    """

    step: int
    steps: int
    tokens: int
    loss: float
    tokens_per_s: float
    elapsed_s: float


@dataclass(frozen=True)
class EvalResult:
    """Held-out loss.

    Attributes:
        tokens: Targets evaluated.
        loss: Mean cross entropy. Units: nats per token.
        perplexity: exp(loss).
        bits_per_byte: Loss per byte of text, comparable across tokenizers; None for a synthetic source.
        flops: What the evaluation took, apart from training's. Units: FLOP.
    """

    tokens: int
    loss: float
    perplexity: float
    bits_per_byte: float | None
    flops: float


@dataclass(frozen=True)
class TrainResult:
    """What training did; the fields mean what `rayscale.record.Training` says.

    Attributes:
        steps: Optimiser steps.
        trained_tokens: Supervised targets: the budget exactly.
        processed_tokens: Positions computed, surplus of the last step included.
        epochs: Budget / available training targets.
        train_loss: Mean over the targets of the last tenth of the steps. Units: nats per token.
        loss_digest: sha256 of the float32 losses of all steps.
        losses: Mean loss of every step, float32. Units: nats per token.
        flops: Training FLOPs by `flops_formula`.
        flops_6nd: 6·N·D.
        matmul_flops: Of `flops`, products with weights.
        flops_formula: How they are counted.
        teacher_flops: Forward passes of a teacher, not in `flops`; None without one.
    """

    steps: int
    trained_tokens: int
    processed_tokens: int
    epochs: float
    train_loss: float
    loss_digest: str
    losses: np.ndarray
    flops: float
    flops_6nd: float
    matmul_flops: float
    flops_formula: str
    teacher_flops: float | None


@dataclass(frozen=True)
class Facts:
    """What was built, and on what.

    Attributes:
        params: Parameters.
        matmul_params: Weights in matrix products.
        precision: Precision in use: `fp32` or `bf16`.
        threads: CPU threads.
        attention: Attention implementation.
        device_name: Name of the GPU; None for a CPU.
        device_uuid: `GPU-...` as NVML writes it; None for a CPU.
        peak_tflops: Dense peak of the device for the precision; None if unknown. Units: TFLOP/s.
        peak_source: Where the peak comes from.
        revision: Commit of pretrained weights; None otherwise.
        versions: Of torch, its CUDA and transformers.
        settings: What was chosen, with the reasons: attention, loss, micro-batch, memory, compilation.
    """

    params: int
    matmul_params: int
    precision: str
    threads: int
    attention: str
    device_name: str | None
    device_uuid: str | None
    peak_tflops: float | None
    peak_source: str | None
    revision: str | None
    versions: dict[str, str | None]
    settings: dict[str, Any]


def digest_losses(losses: np.ndarray) -> str:
    """Hash the losses: equal digests mean bit-identical training.

    Args:
        losses: float32 losses of all steps.

    Returns:
        sha256 of their little-endian bytes, hexadecimal.
    """
    return hashlib.sha256(losses.astype("<f4").tobytes()).hexdigest()


def tail_loss(losses: np.ndarray, targets: np.ndarray) -> float:
    """Average the loss over the targets of the last tenth of the steps (at least one).

    Args:
        losses: Mean loss of every step.
        targets: Targets of every step.

    Returns:
        The mean. Units: nats per token.
    """
    tail = slice(-max(1, len(losses) // 10), None)
    return float((losses[tail].astype("float64") * targets[tail]).sum() / targets[tail].sum())


def perplexity_of(loss: float) -> float:
    """Turn a loss into a perplexity.

    Args:
        loss: Mean cross entropy. Units: nats per token.

    Returns:
        exp(loss); infinite where that overflows.
    """
    return math.exp(loss) if loss < 700 else math.inf
