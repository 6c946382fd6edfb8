"""From a sweep to an engine that can train: model, optimiser, micro-batch, and every choice with its reason.

Order matters: the model is built where it runs; what memory it leaves decides the micro-batch (where the sweep says
`auto`), first by arithmetic, then by one measured row; only then are batches laid out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError
from rayscale.training.allocator import keep_freed_memory
from rayscale.training.body import keep_angles
from rayscale.training.compiling import CompileChoice, choose_compile, compile_facts, use_shared_cache
from rayscale.training.engine import Engine
from rayscale.training.flops import ModelShape, shape_from_model
from rayscale.training.lean import lean_blocks
from rayscale.training.loss import choose_loss, split_model
from rayscale.training.memory import MemoryNeed, RowChoice, choose_rows, corrected, memory_limit, spec_need
from rayscale.training.model import BuiltModel, build_model
from rayscale.training.norms import lean_norms
from rayscale.training.optim import build_optimizer
from rayscale.training.parallel import sharded_need
from rayscale.training.peaks import Peak, known_peak
from rayscale.training.shipping import bundle_name, load_bundle
from rayscale.training.treatments.applying import Treated, treat_model
from rayscale.training.treatments.fp8 import require_fp8, use_fp8
from rayscale.training.treatments.teachers import Given, check_vocabulary

if TYPE_CHECKING:
    import torch

    from rayscale.spec import SweepSpec


@dataclass(frozen=True)
class Setup:
    """What one trial trains with.

    Attributes:
        engine: Model, optimiser and how a step is taken.
        built: The model as it was built.
        shape: Its counts.
        rows: The micro-batch.
        need: The memory it takes; None for an architecture that cannot be counted.
        compile: Whether blocks are compiled.
        cache_key: Key of the compiler's cache; None without compilation.
        bundle: Name of the file in which what was compiled travels; None without compilation.
        peak: What MFU is a share of; None if unknown.
        treated: What pruning and adapters did to the model.
        pretrain: What the weights that training starts from took; None where the sweep did not train them.
    """

    engine: Engine
    built: BuiltModel
    shape: ModelShape
    rows: RowChoice
    need: MemoryNeed | None
    compile: CompileChoice
    cache_key: str | None
    bundle: str | None
    peak: Peak | None
    treated: Treated
    pretrain: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """Write the choices down for the record.

        Returns:
            Plain values; memory in B.
        """
        return {
            "attention": self.built.attention,
            "attention_note": self.built.attention_note,
            "loss": self.engine.loss_path,
            "micro_batch_size": self.rows.rows,
            "micro_batch_reason": self.rows.reason,
            "memory_bytes": None if self.need is None else self.need.total(self.rows.rows),
            "memory_peak_bytes": _peak_bytes(self.engine.device),
            "compile": compile_facts(self.compile, self.cache_key) | {"bundle": self.bundle},
            "pretrain": self.pretrain,
            "treatment": self.treated.facts(),
            "teacher": self.engine.teacher.facts if self.engine.teacher else None,
        }


def configure_process(spec: SweepSpec, device: str) -> None:
    """Set what torch keeps per process: threads, deterministic kernels.

    Args:
        spec: The resolved sweep.
        device: `cpu` or `cuda`.

    Raises:
        EnvironmentUnusableError: If there is no such device.
    """
    import torch

    if device == "cuda":
        # cuBLAS reads it at its first call; without it a matrix product may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if not torch.cuda.is_available():
            raise EnvironmentUnusableError("device cuda: torch finds no usable NVIDIA GPU; expected one, or device cpu")
    if device == "cpu":
        keep_freed_memory()
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(spec.train.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every new tensor twice
    torch.backends.cudnn.benchmark = False


def set_up(spec: SweepSpec, vocab_size: int, seed: int, device: torch.device, given: Given | None = None) -> Setup:
    """Build what trains.

    Args:
        spec: The resolved sweep.
        vocab_size: Vocabulary of the data.
        seed: Seed of random weights.
        device: Where it runs.
        given: Models that were there before: weights to start from, a teacher; None: neither.

    Returns:
        The setup.

    Raises:
        InputError: If the config, the weights or the micro-batch cannot be as the sweep file says.
        EnvironmentUnusableError: If weights cannot be fetched.
    """
    import torch

    given = given or Given()
    spec, teacher = given.starting(spec), given.teacher
    built = build_model(spec, vocab_size, seed, device.type)
    if teacher is not None:
        check_vocabulary(teacher, built.module)
    shape, precision = shape_from_model(built.module), _precision(spec, device.type)
    treated = treat_model(spec, built.module, seed)
    if precision == "fp8":
        require_fp8(device)
        use_fp8(built.module)
    keep_angles(built.module)
    split = split_model(built.module)
    optimizer = build_optimizer(built.module, spec.train)
    path = choose_loss(split, device.type)
    engine = Engine(built.module, optimizer, device, precision, spec.train.grad_clip, split, path, None, teacher)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    peak = known_peak(name, precision, spec.train.peak_tflops)
    choice = choose_compile(spec, shape, device.type, peak.tflops if peak else None)
    key = use_shared_cache(name) if choice.on else None
    bundle = bundle_name(spec, key) if key else None
    if bundle:
        load_bundle(bundle)
    if device.type == "cpu" and precision == "fp32" and not choice.on and not spec.sharded:  # it holds the weights
        lean_norms(built.module)
        lean_blocks(built.module)
    need, rows = _fit(spec, built, shape, engine)
    engine = replace(engine, expected_bytes=None if need is None else need.total(rows.rows))
    return Setup(engine, built, shape, rows, need, choice, key, bundle, peak, treated, given.start_facts)


def _precision(spec: SweepSpec, device: str) -> str:
    import torch

    if spec.train.precision != "auto":
        return spec.train.precision
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _fit(spec: SweepSpec, built: BuiltModel, shape: ModelShape, engine: Engine) -> tuple[MemoryNeed | None, RowChoice]:
    """Choose the micro-batch; under `auto` on a GPU a measured row corrects the sum."""
    import torch

    cuda = engine.device.type == "cuda"
    need = spec_need(spec, built.module.config.to_dict(), shape, engine.precision, cuda=cuda)
    if need is not None and engine.teacher is not None:
        need = replace(need, context=need.context + sum(p.nbytes for p in engine.teacher.model.parameters()))
    limit = memory_limit(torch.cuda.get_device_properties(engine.device).total_memory if cuda else None)
    limit = limit if cuda else limit / spec.world  # ranks on a CPU share its memory
    if need is not None and spec.sharded:
        need = sharded_need(need, spec.world, shape.layers)
    elif need is not None and cuda and spec.train.micro_batch_size == "auto":
        need = corrected(need, probe_peak(engine, spec.data.sequence_length), 1)
    return need, choose_rows(spec.train, need, limit, spec.world)


def probe_peak(engine: Engine, sequence_length: int) -> int:
    """Send one row forward and back and read how much memory tensors held at most. Weights stay as they are.

    Units: B.

    Args:
        engine: On a GPU.
        sequence_length: T.

    Returns:
        The peak, without what lay on the device before beside the weights.
    """
    import torch

    device = engine.device
    row = torch.zeros((1, sequence_length), dtype=torch.long, device=device)
    before = torch.cuda.memory_allocated(device) - sum(weight.nbytes for weight in engine.model.parameters())
    torch.cuda.reset_peak_memory_stats(device)
    with torch.random.fork_rng(devices=[device]):
        engine.backward(row, row, sequence_length)
    peak = torch.cuda.max_memory_allocated(device)
    engine.optimizer.zero_grad(set_to_none=True)
    return peak - before


def _peak_bytes(device: torch.device) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
