"""What the settings of a trial on several devices owe each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayscale.spec.sweep import SweepSpec


def parallel_problem(spec: SweepSpec) -> str | None:
    """Find what keeps a trial from training on several devices as it is described.

    Args:
        spec: The sweep, or one of its conditions.

    Returns:
        One line with the first problem; None if there is none, or the trial trains on one device.
    """
    world, train = spec.world, spec.train
    if world == 1:
        return None
    if train.batch_size % world:
        return (
            f"train.batch_size: {train.batch_size} rows cannot be shared evenly by {world} ranks; "
            f"expected a multiple of {world}"
        )
    share = train.batch_size // world
    if isinstance(train.micro_batch_size, int) and share % train.micro_batch_size:
        return (
            f"train.micro_batch_size: {train.micro_batch_size} does not divide the {share} rows of each of {world} "
            "ranks (train.batch_size / ranks)"
        )
    if train.share_prefix:
        return "train.share_prefix: not with several ranks, whose state is not handed on; expected one device per trial"
    return _sharding_problem(spec) if spec.sharded else None


def _sharding_problem(spec: SweepSpec) -> str | None:
    train = spec.train
    refused = {
        "train.lora_rank": train.lora_rank > 0,
        "train.precision: fp8": train.precision == "fp8",
        "train.compile: on": train.compile == "on",
        "model.prune": spec.model.prune > 0,
        "model.distill_from": spec.model.distill_from is not None,
        "eval.quantize": spec.eval.quantize != "none",
    }
    found = [name for name, asked in refused.items() if asked]
    return f"{found[0]}: not with train.parallel: fsdp; expected parallel: ddp" if found else None
