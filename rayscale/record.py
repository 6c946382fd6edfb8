"""The record: what one accepted attempt of one trial yields, as nested frozen models and as one table row.

An unavailable number is None with a reason in `quality.reasons`, never 0. Monotonic times (`start`, `end` of phases,
power samples) are CLOCK_MONOTONIC seconds of the node, shared by all its processes; wall-clock times are labels only.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from rayscale.energies import (
    VERDICTS,
    DeviceEnergy,
    EnergyResult,
    Part,
    PhaseEnergy,
    Quality,
    Reason,
    Verdict,
    worst,
)
from rayscale.segments import Sharing, with_sharing

Level = int | float | str | bool
__all__ = [
    "VERDICTS",
    "Device",
    "DeviceEnergy",
    "EnergyResult",
    "Evaluation",
    "Level",
    "Phase",
    "PhaseEnergy",
    "PhaseName",
    "Quality",
    "Reason",
    "Record",
    "Settling",
    "Training",
    "Verdict",
    "evaluation_energy_j",
    "flatten",
    "worst",
]

PhaseName = Literal["idle", "load", "context_idle", "warmup", "train", "eval", "eval_quantized"]


class Phase(Part):
    """One named window of an attempt; a name may occur more than once (`eval` before and after training)."""

    name: PhaseName
    start: float
    """CLOCK_MONOTONIC, in s."""
    end: float
    """CLOCK_MONOTONIC, in s."""
    tokens: tuple[int, int] | None = None
    """Of `train`: targets trained before and after it, where it is a part of the training."""

    @property
    def duration_s(self) -> float:
        """Length of the window. Units: s."""
        return self.end - self.start


class Device(Part):
    """The device that trained, as the trial process saw it."""

    kind: Literal["cuda", "cpu"]
    uuid: str
    """`GPU-...` as NVML writes it, several joined by `+`; for a CPU `cpu:<index>@<host>`."""
    name: str
    host: str
    tflops_bench: float | None = None
    """Dense matrix-product rate (bf16 on a GPU, fp32 on a CPU), once per device. Units: TFLOP/s."""
    peak_tflops: float | None = None
    """Dense peak for the trial's precision; None when unknown. Units: TFLOP/s."""
    peak_source: str | None = None
    """Where the peak comes from: a data sheet, or `train.peak_tflops`. Of several devices, both rates are sums."""
    ranks: tuple[str, ...] = ()
    """Where each rank trained, by rank; empty for a trial of one process."""

    @property
    def count(self) -> int:
        """Number of devices: GPUs, or the one CPU that all ranks share."""
        return max(1, len(self.ranks)) if self.kind == "cuda" else 1


class Training(Part):
    """What the training phase did."""

    steps: int
    trained_tokens: int
    """Supervised targets; equals the budget exactly."""
    processed_tokens: int
    """Positions computed, padding of the last step included."""
    epochs: float
    """Budget / available training targets."""
    params: int
    matmul_params: int
    """Weights that take part in matrix products (no embedding table unless tied)."""
    train_loss: float | None
    """Mean over the targets of the last tenth of the steps (at least one). Units: nats per token."""
    loss_digest: str
    """sha256 of the float32 losses of all steps: equal digests mean bit-identical training."""
    flops: float
    """Training FLOPs by 6·N_matmul + 12·L·H·Q·T per token."""
    flops_6nd: float
    """6·N·D."""
    flops_formula: str = "6·N_matmul + 12·L·H·Q·T per token"
    """How `flops` is counted; MFU = flops / (train time · `Device.peak_tflops`)."""
    matmul_flops: float | None = None
    """Of `flops`, products with weights; None in records from before, where it is 6·N_matmul·D."""
    trainable_params: int | None = None
    """Parameters that train: all, adapters only (LoRA), or all but pruned ones; None in records from before."""
    nonzero_params: int | None = None
    """Parameters that are not zero after training, before any quantisation."""
    teacher_flops: float | None = None
    """FLOPs of a teacher's forward passes inside `train`; not in `flops`. None without a teacher."""
    world_size: int = 1
    """Processes that took each step together."""
    parallel: str | None = None
    """How they did: `ddp` or `fsdp`; None for one process."""
    precision: str
    threads: int
    import_s: float
    build_s: float
    data_s: float
    compile_s: float
    warmup_s: float


class Evaluation(Part):
    """Held-out loss. Units: nats per token."""

    tokens: int
    loss_before: float | None
    loss: float
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float | None
    eval_s: float
    """Duration of the evaluation after training. Units: s."""
    perplexity_before: float | None = None
    bits_per_byte_before: float | None = None
    eval_before_s: float | None = None
    """Duration of the evaluation before training. Units: s."""
    flops: float | None = None
    """FLOPs of one evaluation: a third of training's per token; not in `Training.flops`."""
    quantized: str | None = None
    """`int8` or `int4` and what multiplied, where `loss` and its kin are those of the phase `eval_quantized`."""
    quantized_bytes: int | None = None
    """What the quantised weights and scales take. Units: B."""
    loss_unquantized: float | None = None
    """Loss of the same model before it was quantised."""


class Settling(Part):
    """The wait for the device to be back at its block's start, before the first phase. Units: s, degrees Celsius, W."""

    waited_s: float
    timed_out: bool
    start_c: float | None
    """Temperature when the trial was let go."""
    start_w: float | None
    reference_c: float | None
    """Temperature at the block's start."""
    reference_w: float | None


class Record(Part):
    """The accepted result of one trial (design 4.4)."""

    schema_version: int = 1
    sweep: str
    trial_key: str
    condition: dict[str, Level]
    repetition: int
    block: int
    run_order: int
    seed: int
    attempt: int
    started_at: str
    """Wall clock of the attempt's start, ISO 8601 with zone."""
    device: Device
    phases: list[Phase]
    training: Training
    evaluation: Evaluation
    energy: EnergyResult
    quality: Quality
    settling: Settling | None = None
    """None where no sensor says when the device has settled."""
    sharing: Sharing | None = None
    """The measured parts of the training, with `train.share_prefix`."""
    environment: dict[str, Any]
    """Versions, host, data and tokenizer fingerprints, settings chosen for `auto`."""

    def phase_seconds(self, name: PhaseName) -> float:
        """Add up the windows of one phase; 0.0 if it did not occur. Units: s.

        Args:
            name: The phase.
        """
        return math.fsum(phase.duration_s for phase in self.phases if phase.name == name)

    def to_json(self) -> str:
        """Write the record as JSON.

        Returns:
            Indented JSON text; non-finite numbers become null.
        """
        return json.dumps(_finite(self.model_dump(mode="json")), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record.

        Args:
            text: What `to_json` wrote.

        Returns:
            The record.

        Raises:
            ValueError: If the text is no record.
        """
        return cls.model_validate_json(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(record: Record) -> dict[str, Any]:
    """Write a record as one row of the table (design 4.4), efficiency metrics aside.

    Args:
        record: The record.

    Returns:
        Column name -> value; energies and powers are those of the `train` phase, None where unavailable.
    """
    row = {
        "trial_key": record.trial_key,
        **record.condition,
        "repetition": record.repetition,
        "block": record.block,
        "run_order": record.run_order,
        "seed": record.seed,
        "device_uuid": record.device.uuid,
        "device_name": record.device.name,
        "devices": record.device.count,
        "world_size": record.training.world_size,
        **_training_columns(record),
        **_energy_columns(record),
        "verdict": record.quality.verdict,
        "reasons": ";".join(dict.fromkeys(reason.code for reason in record.quality.reasons)),
        "attempts": record.attempt,
        "started_at": record.started_at,
    }
    return with_sharing(row, record.sharing)


def _training_columns(record: Record) -> dict[str, Any]:
    training, evaluation = record.training, record.evaluation
    duration = record.phase_seconds("train")
    flops_rate = training.flops / duration / 1e12 if duration > 0 else None
    peak = record.device.peak_tflops
    return {
        "duration_s": duration,
        "import_s": training.import_s,
        "build_s": training.build_s,
        "data_s": training.data_s,
        "compile_s": training.compile_s,
        "warmup_s": training.warmup_s,
        "train_s": duration,
        "eval_s": evaluation.eval_s,
        "steps": training.steps,
        "trained_tokens": training.trained_tokens,
        "processed_tokens": training.processed_tokens,
        "epochs": training.epochs,
        "params": training.params,
        "trainable_params": training.trainable_params,
        "nonzero_params": training.nonzero_params,
        "teacher_flops": training.teacher_flops,
        "train_loss": training.train_loss,
        "eval_loss_before": evaluation.loss_before,
        "eval_loss": evaluation.loss,
        "eval_loss_unquantized": evaluation.loss_unquantized,
        "perplexity": evaluation.perplexity,
        "bits_per_byte": evaluation.bits_per_byte,
        "tokens_per_s": training.trained_tokens / duration if duration > 0 else None,
        "flops": training.flops,
        "flops_6nd": training.flops_6nd,
        "mfu": flops_rate / peak if flops_rate is not None and peak else None,
        "tflops_bench": record.device.tflops_bench,
    }


def _energy_columns(record: Record) -> dict[str, Any]:
    energy = record.energy
    train = energy.phases.get("train", PhaseEnergy(duration_s=record.phase_seconds("train"), energy_j=None))
    return {
        "energy_method": energy.method,
        "energy_estimated": energy.estimated,
        "energy_j": train.energy_j,
        "energy_bound_j": train.bound_j,
        "net_energy_j": energy.net_energy_j,
        "energy_counter_j": train.counter_j,
        "energy_integral_j": train.integral_j,
        "energy_instant_j": train.instant_j,
        "eval_energy_j": evaluation_energy_j(record),
        "power_mean_w": train.mean_w,
        "power_rms_w": train.rms_w,
        "idle_w": energy.idle_w,
        "power_samples": train.samples,
        "coverage": train.coverage,
        "temp_start_c": energy.temp_start_c,
        "temp_end_c": energy.temp_end_c,
    }


def evaluation_energy_j(record: Record) -> float | None:
    """Tell the energy of one evaluation of the trained model: the quantised one where there is one.

    Units: J.

    Args:
        record: The record.

    Returns:
        The energy; the mean of the evaluations before and after training, which do the same work; None if unknown.
    """
    name = "eval_quantized" if "eval_quantized" in record.energy.phases else "eval"
    found, windows = record.energy.phases.get(name), sum(phase.name == name for phase in record.phases)
    return None if found is None or found.energy_j is None or not windows else found.energy_j / windows
