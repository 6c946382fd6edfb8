"""What a sweep's trials will take, by arithmetic alone: memory and time, also on devices that are not here."""

from __future__ import annotations

from typing import Any

from rayscale.errors import InputError
from rayscale.spec import SweepSpec
from rayscale.spec.trial import PRESETS
from rayscale.training.compiling import MFU_EAGER
from rayscale.training.flops import ModelShape, shape_from_config
from rayscale.training.memory import (
    choose_rows,
    largest_micro_batch,
    memory_limit,
    memory_need,
    memory_sentence,
    spec_need,
)
from rayscale.training.parallel import sharded_need
from rayscale.training.peaks import peak_tflops

EXAMPLES = ("NVIDIA A10G", "NVIDIA A100", "NVIDIA H100")
"""Devices that an outlook names when none is here."""


def memory_outlook(spec: SweepSpec, shape: ModelShape, gpu_bytes: int | None) -> dict[str, Any] | None:
    """Add up the memory of a trial; of one rank where several train together.

    Args:
        spec: The resolved sweep.
        shape: The model.
        gpu_bytes: Memory of this machine's GPU; None if there is none or the sweep does not want it.

    Returns:
        Parts and sum in B, the limit (None: the sweep wants a GPU and none is here), whether it fits, and a sentence;
        None for an architecture that cannot be counted.
    """
    cuda = spec.resources.needs_gpus or gpu_bytes is not None
    precision = spec.train.precision if spec.train.precision != "auto" else ("bf16" if cuda else "fp32")
    need = spec_need(spec, spec.model.fields or {}, shape, precision, cuda=cuda)
    if need is None:
        return None
    need = sharded_need(need, spec.world, shape.layers) if spec.sharded else need
    limit = None if cuda and gpu_bytes is None else memory_limit(gpu_bytes) / (1 if cuda else spec.world)
    try:
        rows = choose_rows(spec.train, need, limit, spec.world).rows
    except InputError:  # nothing fits, or the device that would decide is not here: one row is the least it takes
        rows = 1
    total = need.total(rows)
    fits = None if limit is None else total <= limit
    verdict = {None: "", True: f", fits {_gb(limit)}", False: f", does NOT fit {_gb(limit)}"}[fits]
    whose = "trial" if spec.world == 1 else "rank"
    return {
        "micro_batch_size": rows,
        "total_bytes": total,
        "parts": need.parts(rows),
        "limit_bytes": limit,
        "fits": fits,
        "sentence": f"memory per {whose} ({precision}): {memory_sentence(need, rows)}{verdict}",
    }


def card_outlook(gpu_bytes: int) -> str:
    """Tell what a GPU has room for: the largest micro-batch of a 1.1 B Llama with rows of 2,048 tokens.

    Args:
        gpu_bytes: Its memory. Units: B.

    Returns:
        One sentence with the sum.
    """
    config, limit = PRESETS["tinyllama-1.1b"], memory_limit(gpu_bytes)
    shape, told = shape_from_config(config, 32000), []
    for precision in ("bf16", "bf16-pure"):
        need = memory_need(config, shape, sequence_length=2048, precision=precision, checkpointing=False, cuda=True)
        rows = largest_micro_batch(need, 64, limit)
        told.append(f"{precision} {'does not fit' if rows is None else memory_sentence(need, rows)}")
    return f"{_gb(limit)} usable; TinyLlama-1.1B, rows of 2,048: {'; '.join(told)}"


def _gb(size: float | None) -> str:
    return "" if size is None else f"{size / 1e9:.3g} GB"


def assumed_times(flops: float, precision: str) -> dict[str, float]:
    """Tell how long training would take on known devices, at the share of their peak that eager training reaches.

    Units: s.

    Args:
        flops: Training FLOPs.
        precision: `auto`, `fp32`, `bf16` or `bf16-pure`.

    Returns:
        Device -> seconds of training alone.
    """
    found = {name: peak_tflops(name, "bf16" if precision == "auto" else precision) for name in EXAMPLES}
    return {name: flops / (MFU_EAGER * peak * 1e12) for name, peak in found.items() if peak is not None}
