"""One trial's training, from prepared data to a result: open, evaluate, warm up, train, evaluate.

The loop never waits for the device except to log: losses stay on it in one tensor made beforehand. Importing this
module imports neither torch nor transformers; `preload` names what a fork server should hold.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rayscale.errors import EnvironmentUnusableError
from rayscale.training.data import PreparedData, check_budget
from rayscale.training.engine import Engine, quiet_collector
from rayscale.training.feed import Feed, stream_gather
from rayscale.training.flops import ModelShape, flops_6nd, shape_from_model, training_flops
from rayscale.training.model import BuiltModel, build_model
from rayscale.training.optim import build_optimizer, learning_rate
from rayscale.training.order import Budget, row_sequence, rows_in
from rayscale.training.peaks import peak_tflops
from rayscale.training.results import (
    Diverged,
    EvalResult,
    Facts,
    StepLog,
    TrainResult,
    digest_losses,
    perplexity_of,
    tail_loss,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rayscale.spec import SweepSpec

__all__ = ["Diverged", "EvalResult", "Facts", "Session", "StepLog", "TrainResult", "open_session"]


@dataclass
class Session:
    """One trial's training in this process. Make it with `open_session`; train once.

    Attributes:
        spec: The resolved sweep.
        data: The prepared data.
        engine: Model and optimiser.
        built: The model as it was built.
        shape: Its counts.
        train_feed: The budget's batches.
        eval_feed: The held-out batches.
        data_s: Time to open the streams and move them to the device. Units: s.
        build_s: Time to build the model and the optimiser. Units: s.
        compile_s: Time of the first warm-up step under torch.compile; 0 without. Units: s.
    """

    spec: SweepSpec
    data: PreparedData
    engine: Engine
    built: BuiltModel
    shape: ModelShape
    train_feed: Feed
    eval_feed: Feed
    data_s: float
    build_s: float
    compile_s: float = 0.0
    _trained: bool = False

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        import torch

        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)

    def describe(self) -> Facts:
        """Tell what was built, and on what."""
        import torch

        name = uuid = None
        if self.engine.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.engine.device)
            name, uuid = properties.name, f"GPU-{properties.uuid}"
        return Facts(
            params=self.shape.params,
            matmul_params=self.shape.matmul_params,
            precision=self.engine.precision,
            threads=torch.get_num_threads(),
            attention=self.built.attention,
            device_name=name,
            device_uuid=uuid,
            peak_tflops=peak_tflops(name, self.engine.precision) if name else None,
            revision=self.built.revision,
            versions={
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "transformers": metadata.version("transformers"),
            },
        )

    def warmup(self) -> None:
        """Run `train.warmup_steps` real steps and undo them, so that training starts at step 0 with everything warm."""
        steps = self.spec.train.warmup_steps
        if steps == 0 and self.spec.train.compile != "on":
            return
        with self.engine.thrown_away():
            if self.spec.train.compile == "on":
                start = time.monotonic()
                self._step(0)
                self.synchronize()
                self.compile_s = time.monotonic() - start
            for step in range(steps):
                self._step(min(step, self.train_feed.budget.steps - 1))
        self.synchronize()

    def evaluate(self) -> EvalResult:
        """Measure the loss on the first `eval.tokens` held-out targets, the same for every trial.

        Returns:
            Loss, perplexity and bits per byte. Sums are in float64 and leave the device once, at the end.
        """
        import torch

        model, sums = self.engine.model, []
        model.eval()
        with torch.no_grad():
            for batch in self.eval_feed:
                for inputs, targets in batch.micro_batches:
                    sums.append(self.engine.token_losses(inputs, targets).sum(dtype=torch.float64))
        model.train()
        total, tokens = math.fsum(torch.stack(sums).tolist()), self.eval_feed.budget.tokens
        text = self.data.eval_bytes(tokens)
        bits = total / math.log(2) / text if text else None
        return EvalResult(tokens, total / tokens, perplexity_of(total / tokens), bits)

    def train(self, on_log: Callable[[StepLog], None]) -> TrainResult:
        """Train on exactly the budget.

        Args:
            on_log: Receives progress every `train.log_every` seconds and after the last step.

        Returns:
            What was done.

        Raises:
            Diverged: If a loss is NaN or infinite: on a CPU at once, on a GPU when the losses are read next.
            RuntimeError: If this session has trained already.
        """
        import torch

        if self._trained:
            raise RuntimeError("this session has trained its budget; open another one")
        self._trained = True
        losses = torch.zeros(self.train_feed.budget.steps, dtype=torch.float32, device=self.engine.device)
        with quiet_collector():
            self._loop(losses, _Logger(self.train_feed.budget, self.spec.train.log_every, on_log))
        return self._result(losses.cpu().numpy())

    def _loop(self, losses: torch.Tensor, logger: _Logger) -> None:
        # Reading a loss costs nothing on a CPU; on a GPU it would stop the stream of kernels.
        every_step = self.engine.device.type == "cpu"
        steps = self.train_feed.budget.steps
        for step in range(steps):
            losses[step] = self._step(step)
            due = logger.due(time.monotonic()) or step == steps - 1
            if due or every_step:
                logger.check(step, losses)
            if due:
                logger.log(step, float(losses[step]), time.monotonic())

    def _step(self, step: int) -> torch.Tensor:
        budget = self.train_feed.budget
        batch, first = self.train_feed.batch(step), step * budget.step_tokens
        rate = learning_rate(self.spec.train, first, first + batch.targets, budget.tokens)
        return self.engine.step(batch, rate)

    def _result(self, losses: np.ndarray) -> TrainResult:
        import numpy as np

        budget, length = self.train_feed.budget, self.spec.data.sequence_length
        targets = np.asarray([budget.targets(step) for step in range(budget.steps)])
        available = rows_in(self.data.train_tokens, length) * length
        return TrainResult(
            steps=budget.steps,
            trained_tokens=int(targets.sum()),
            processed_tokens=budget.processed_tokens,
            epochs=budget.tokens / available,
            train_loss=tail_loss(losses, targets),
            loss_digest=digest_losses(losses),
            losses=losses,
            flops=training_flops(self.shape, budget.tokens, length),
            flops_6nd=flops_6nd(self.shape, budget.tokens),
        )


class _Logger:
    """Decides when to log, computes speeds, and looks at every loss once for divergence."""

    def __init__(self, budget: Budget, period: float, on_log: Callable[[StepLog], None]) -> None:
        self._budget, self._period, self._on_log = budget, period, on_log
        self._begin = self._last = time.monotonic()
        self._last_tokens = self._checked = 0

    def due(self, now: float) -> bool:
        return now - self._last >= self._period

    def check(self, step: int, losses: torch.Tensor) -> None:
        for index, loss in enumerate(losses[self._checked : step + 1].tolist(), start=self._checked):
            if not math.isfinite(loss):
                raise Diverged(index, index * self._budget.step_tokens)
        self._checked = step + 1

    def log(self, step: int, loss: float, now: float) -> None:
        tokens = step * self._budget.step_tokens + self._budget.targets(step)
        speed = (tokens - self._last_tokens) / max(now - self._last, 1e-9)
        self._last, self._last_tokens = now, tokens
        self._on_log(StepLog(step + 1, self._budget.steps, tokens, loss, speed, now - self._begin))


def open_session(
    spec: SweepSpec, data: PreparedData, *, tokens: int, seed: int, repetition: int, device: str
) -> Session:
    """Load data and model for one trial.

    Threads, deterministic kernels and torch's seed are set for the whole process: a trial has one of its own.

    Args:
        spec: The resolved sweep.
        data: The prepared data.
        tokens: The budget: supervised targets.
        seed: Seed of initial weights (and of dropout, where a model has it).
        repetition: Index of the repetition; it and `design.seed` decide the data order.
        device: `cpu` or `cuda`.

    Returns:
        The session.

    Raises:
        InputError: If data, model and budget do not fit each other.
        EnvironmentUnusableError: If there is no such device or weights cannot be fetched.
    """
    import torch

    check_budget(data, spec, tokens)
    _configure(spec, device)
    start = time.monotonic()
    target = torch.device(device)
    train_feed = _train_feed(spec, data, tokens, repetition, target)
    eval_feed = _eval_feed(spec, data, target)
    loaded = time.monotonic()
    built = build_model(spec, data.vocab_size, seed, device)
    shape = shape_from_model(built.module)
    if spec.train.compile == "on":
        _compile_blocks(built.module)
    optimizer = build_optimizer(built.module, spec.train)
    engine = Engine(built.module, optimizer, target, _precision(spec, device), spec.train.grad_clip)
    torch.manual_seed(seed)
    session = Session(spec, data, engine, built, shape, train_feed, eval_feed, loaded - start, 0.0)
    session.synchronize()
    session.build_s = time.monotonic() - loaded
    return session


def _configure(spec: SweepSpec, device: str) -> None:
    """Set what torch keeps per process."""
    import torch

    if device == "cuda":
        # cuBLAS reads it at its first call; without it a matrix product may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if not torch.cuda.is_available():
            raise EnvironmentUnusableError("device cuda: torch finds no usable NVIDIA GPU; expected one, or device cpu")
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(spec.train.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every new tensor twice
    torch.backends.cudnn.benchmark = False


def _precision(spec: SweepSpec, device: str) -> str:
    import torch

    if spec.train.precision != "auto":
        return spec.train.precision
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _train_feed(spec: SweepSpec, data: PreparedData, tokens: int, repetition: int, device: torch.device) -> Feed:
    length, train = spec.data.sequence_length, spec.train
    budget = Budget(tokens, length, train.batch_size, train.micro_batch_size or train.batch_size)
    row_ids = row_sequence(spec.design.seed, repetition, rows_in(data.train_tokens, length), budget.rows)
    return Feed(budget, row_ids, stream_gather(data.train(), length, device))


def _eval_feed(spec: SweepSpec, data: PreparedData, device: torch.device) -> Feed:
    import numpy as np

    length, train = spec.data.sequence_length, spec.train
    rows = spec.eval.batch_size or train.micro_batch_size or train.batch_size
    budget = Budget(spec.eval.tokens, length, rows, rows)
    held_out = data.held_out()[: budget.rows * length + 1]
    return Feed(budget, np.arange(budget.rows), stream_gather(held_out, length, device))


def _compile_blocks(module: Any) -> None:
    """Compile each transformer block: as fast as the whole model, and the time to compile does not grow with depth."""
    depth = module.config.num_hidden_layers
    for child in module.modules():
        if type(child).__name__ == "ModuleList" and len(child) == depth:
            for block in child:
                block.compile(dynamic=False)
            return
