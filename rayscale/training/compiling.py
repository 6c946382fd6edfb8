"""torch.compile, block by block: whether it pays, where its results are kept, and what of them was found there.

Compiling block by block is as fast as compiling the whole model, and its time does not grow with depth. Whether it pays
is arithmetic over the sweep, not over the trial: all levels of `tokens` must run the same kernels, or the comparison
between them would measure the compiler.

    saves = FLOPs of all trials / peak · (1/MFU eager - 1/MFU compiled)      costs = cold + trials · warm

The four constants are estimates (research/training.md 1.2 and 1.4: MFU of a 1.1 B model on an H200; cold and warm
start measured on a CPU); they are stored beside the choice, as the choice itself is.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rayscale.environment import cache_directory
from rayscale.training.flops import ModelShape, training_flops

if TYPE_CHECKING:
    from rayscale.spec import SweepSpec

MFU_EAGER, MFU_COMPILED = 0.38, 0.48
COLD_S, WARM_S = 40.0, 6.0
"""Time to compile a block for the first time on a node, and to load it from the cache in each trial. Units: s."""


@dataclass(frozen=True)
class CompileChoice:
    """Whether blocks are compiled, and why.

    Attributes:
        on: Whether they are.
        reason: In words.
        saves_s: What compiling would save over all trials that share the cache, estimated. Units: s.
        costs_s: What it would cost them. Units: s.
    """

    on: bool
    reason: str
    saves_s: float | None = None
    costs_s: float | None = None


def choose_compile(spec: SweepSpec, shape: ModelShape, device_type: str, peak: float | None) -> CompileChoice:
    """Decide whether to compile.

    Args:
        spec: The sweep; its levels of `tokens` and repetitions share one cache.
        shape: The model.
        device_type: `cpu` or `cuda`.
        peak: The device's dense peak. Units: TFLOP/s.

    Returns:
        The choice.
    """
    if spec.train.compile != "auto":
        return CompileChoice(spec.train.compile == "on", f"train.compile: {spec.train.compile}")
    if device_type == "cpu":
        return CompileChoice(False, "auto: never on a CPU")
    if spec.sharded:
        return CompileChoice(False, "auto: not with train.parallel: fsdp")
    if peak is None:
        return CompileChoice(False, "auto: the device's peak is unknown (train.peak_tflops states it)")
    levels, repetitions = spec.design.factors["tokens"], spec.design.repetitions
    flops = training_flops(shape, repetitions * sum(int(level) for level in levels), spec.data.sequence_length)
    saves = flops / (peak * 1e12) * (1 / MFU_EAGER - 1 / MFU_COMPILED)
    costs = COLD_S + repetitions * len(levels) * WARM_S
    verb = "repays" if saves > costs else "would not repay"
    reason = f"auto: compiling {verb} its time: {saves:.0f} s saved, {costs:.0f} s spent (estimates)"
    return CompileChoice(saves > costs, reason, saves, costs)


def compile_blocks(module: Any, **options: Any) -> int:
    """Compile each transformer block; shapes are static, so one compilation serves all of them.

    Args:
        module: A model of transformers.
        options: For `torch.nn.Module.compile`.

    Returns:
        Number of blocks; 0 if the model has none that can be told by its depth.
    """
    depth = module.config.num_hidden_layers
    for child in module.modules():
        if type(child).__name__ == "ModuleList" and len(child) == depth:
            for block in child:
                block.compile(dynamic=False, **options)
            return depth
    return 0


def use_shared_cache(device_name: str | None, environ: MutableMapping[str, str] | None = None) -> str:
    """Point the compiler's cache at this node's, shared by all trials that have the same software and device.

    What the user has set in `TORCHINDUCTOR_CACHE_DIR` stays.

    Args:
        device_name: Name of the GPU; None for the CPU.
        environ: The environment; None takes this process's.

    Returns:
        The cache's key: 16 hex digits over versions and device.
    """
    import torch

    parts = (torch.__version__, torch.version.cuda, device_name, torch.backends.cpu.get_cpu_capability())
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    environ = os.environ if environ is None else environ
    # Some imports of a preloaded server ask torch for its default, which it then writes here as if the user had set it.
    if environ.get("TORCHINDUCTOR_CACHE_DIR", "").startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        del environ["TORCHINDUCTOR_CACHE_DIR"]
    environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor" / key))
    return key


def compile_facts(choice: CompileChoice, key: str | None) -> dict[str, Any]:
    """Describe the choice and what the cache held, for the record.

    Args:
        choice: The choice.
        key: The cache's key; None if nothing is compiled.

    Returns:
        Plain values.
    """
    facts = asdict(choice)
    if choice.on:
        from torch._dynamo.utils import counters

        seen = counters["inductor"]
        facts |= {"cache_key": key, "cache_hits": seen["fxgraph_cache_hit"], "cache_misses": seen["fxgraph_cache_miss"]}
    else:
        facts |= {"cache_key": None, "cache_hits": None, "cache_misses": None}
    return facts
