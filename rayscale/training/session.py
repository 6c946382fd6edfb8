"""One trial's training, from prepared data to a result: open, evaluate, warm up, train, evaluate.

The loop never waits for the device except to log: losses stay on it in one tensor made beforehand. Importing this
module imports neither torch nor transformers; `preload` names what a fork server should hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from rayscale.training.compiling import compile_blocks
from rayscale.training.data import PreparedData, check_budget
from rayscale.training.engine import Engine, quiet_collector
from rayscale.training.feed import Feed, stream_gather
from rayscale.training.flops import ModelShape, evaluation_flops, flops_6nd
from rayscale.training.optim import learning_rate, trunk_steps
from rayscale.training.order import Budget, processed_tokens, row_sequence, rows_in
from rayscale.training.progress import ProgressLog
from rayscale.training.ranks import ALONE
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
from rayscale.training.setup import Setup, configure_process, set_up
from rayscale.training.shipping import pack_bundle
from rayscale.training.treatments.pruning import nonzero_params
from rayscale.training.treatments.quantizing import Quantized, quantize_model
from rayscale.training.treatments.teachers import open_given

if TYPE_CHECKING:
    from pathlib import Path

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
        setup: Model, optimiser and the choices made for them.
        train_feed: The budget's batches.
        eval_feed: The held-out batches.
        data_s: Time to open the streams and move them to the device. Units: s.
        build_s: Time to build the model and the optimiser. Units: s.
        compile_s: Time of the first step and the first evaluation batch under torch.compile; 0 without. Units: s.
        steps_done: Optimiser steps of the budget that the weights have seen, those of a shared trunk included.
        steps_taken_over: Of these, steps that another trial took (`take_trunk`).
    """

    spec: SweepSpec
    data: PreparedData
    setup: Setup
    train_feed: Feed
    eval_feed: Feed
    data_s: float
    build_s: float
    compile_s: float = 0.0
    steps_done: int = 0
    steps_taken_over: int = 0
    _losses: torch.Tensor | None = None
    _trained: bool = False

    @property
    def engine(self) -> Engine:
        """Model and optimiser."""
        return self.setup.engine

    @property
    def shape(self) -> ModelShape:
        """Counts of the model."""
        return self.setup.shape

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
        built, peak = self.setup.built, self.setup.peak
        return Facts(
            params=self.setup.treated.params,
            matmul_params=self.shape.matmul_params,
            precision=self.engine.precision,
            threads=torch.get_num_threads(),
            attention=built.attention,
            device_name=name,
            device_uuid=uuid,
            peak_tflops=peak.tflops if peak else None,
            peak_source=peak.source if peak else None,
            revision=built.revision,
            versions={
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "transformers": metadata.version("transformers"),
            },
            settings=self.setup.settings(),
        )

    def warmup(self) -> None:
        """Run `train.warmup_steps` real steps and undo them, so that training starts at step 0 with everything warm.

        Compilation happens here too, of training and of evaluation: neither is left to a measured phase.
        """
        steps = self.spec.train.warmup_steps
        if steps == 0 and not self.setup.compile.on:
            return
        with self.engine.thrown_away():
            if self.setup.compile.on:
                self._compile()
            for step in range(steps):
                self._step(min(step, self.train_feed.budget.steps - 1))
        self.synchronize()

    def _compile(self) -> None:
        import torch

        start = time.monotonic()
        compile_blocks(self.engine.model)
        self._step(0)
        self.engine.model.eval()
        with torch.no_grad():
            self.engine.token_losses(*self.eval_feed.batch(0).micro_batches[0])
        self.engine.model.train()
        self.synchronize()
        self.compile_s = time.monotonic() - start
        if self.setup.bundle:
            pack_bundle(self.setup.bundle)

    def evaluate(self) -> EvalResult:
        """Measure the loss on the first `eval.tokens` held-out targets, the same for every trial; ranks share the work.

        Returns:
            Loss, perplexity and bits per byte. Sums are in float64 and leave the device once, at the end.
        """
        import torch

        engine, tokens = self.engine, self.eval_feed.budget.tokens
        ranks = engine.ranks or ALONE
        sums = torch.zeros(self.eval_feed.budget.steps, dtype=torch.float64, device=engine.device)
        engine.model.eval()
        with torch.no_grad():
            for index, counts in ranks.turns(len(sums)):
                inputs, targets = self.eval_feed.batch(index).micro_batches[0]  # a batch is one
                found = engine.token_losses(inputs, targets).sum(dtype=torch.float64)
                if counts:
                    sums[index] = found
        engine.model.train()
        ranks.add_up([sums])
        total = math.fsum(sums.tolist())
        text = self.data.eval_bytes(tokens)
        bits = total / math.log(2) / text if text else None
        flops = self.setup.treated.evaluation_flops(self.shape, tokens, self.spec.data.sequence_length)
        return EvalResult(tokens, total / tokens, perplexity_of(total / tokens), bits, flops)

    def nonzero_params(self) -> int:
        """Count the parameters that are not zero now; all ranks must ask."""
        return nonzero_params(self.engine.model, self.engine.ranks if self.engine.sharded else None)

    def quantize(self) -> Quantized | None:
        """Quantise the trained model as `eval.quantize` says, and evaluate one batch so that the next one is warm.

        Returns:
            What was done; None if nothing was asked for. The model cannot be trained afterwards.
        """
        import torch

        if self.spec.eval.quantize == "none":
            return None
        done = quantize_model(self.engine.model, self.spec.eval.quantize)
        self.engine.model.eval()
        with torch.no_grad():
            self.engine.token_losses(*self.eval_feed.batch(0).micro_batches[0])
        self.synchronize()
        return done

    def train(self, on_log: Callable[[StepLog], None]) -> TrainResult:
        """Train on exactly the budget, or on what is left of it.

        Args:
            on_log: Receives progress every `train.log_every` seconds and after the last step.

        Returns:
            What was done, steps taken over included.

        Raises:
            Diverged: If a loss is NaN or infinite: on a CPU at once, on a GPU when the losses are read next.
            RuntimeError: If this session has trained already.
        """
        losses = self.advance(on_log, self.train_feed.budget.steps)
        self._trained = True
        return self._result(losses.cpu().numpy())

    def advance(self, on_log: Callable[[StepLog], None], until: int) -> torch.Tensor:
        """Train on the budget's steps from where it stands up to one of them.

        Args:
            on_log: Receives progress.
            until: Index of the first step that is not taken.

        Returns:
            The losses of all steps of the budget, on the device; 0 for steps not taken yet.

        Raises:
            Diverged: As in `train`.
            RuntimeError: If this session has trained already.
        """
        if self._trained:
            raise RuntimeError("this session has trained its budget; open another one")
        losses, budget = self._all_losses(), self.train_feed.budget
        with quiet_collector():
            logger = ProgressLog(budget, self.spec.train.log_every, on_log, self.steps_done)
            self._loop(losses, logger, self.steps_done, until)
        self.steps_done = max(self.steps_done, until)
        return losses

    @property
    def branch_step(self) -> int:
        """First step that larger budgets of the same trunk do not share (wsd)."""
        return trunk_steps(self.spec.train, self.train_feed.budget)

    def keep_trunk(self, path: Path, identity: str) -> None:
        """Write the present state to a file, for the next larger budget.

        Args:
            path: The file.
            identity: What the run is, apart from its budget.
        """
        from rayscale.training.trunk import write_state

        write_state(path, self.engine, self.steps_done, self._all_losses()[: self.steps_done], identity)

    def take_trunk(self, path: Path, identity: str) -> None:
        """Go on from the state that a smaller budget has left; nothing is changed if that is not possible.

        Args:
            path: Its file.
            identity: What the run must be.

        Raises:
            ValueError: If the file is no state of this run, or lies past this budget's branch.
            OSError: If it cannot be read.
        """
        from rayscale.training.trunk import read_state, restore

        state = read_state(path, identity)
        if not 0 < state["step"] <= self.branch_step:
            raise ValueError(f"{path}: step {state['step']}; expected one up to the branch at {self.branch_step}")
        restore(self.engine, state)
        self._all_losses()[: state["step"]] = state["losses"]
        self.steps_done = self.steps_taken_over = state["step"]

    def _all_losses(self) -> torch.Tensor:
        import torch

        if self._losses is None:
            self._losses = torch.zeros(self.train_feed.budget.steps, dtype=torch.float32, device=self.engine.device)
        return self._losses

    def _loop(self, losses: torch.Tensor, logger: ProgressLog, first: int, until: int) -> None:
        # Reading a loss costs nothing on a CPU; on a GPU it would stop the stream of kernels.
        every_step = self.engine.device.type == "cpu"
        for step in range(first, until):
            losses[step] = self._step(step)
            due = logger.due(time.monotonic()) or step == until - 1
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
        treated, teacher = self.setup.treated, self.engine.teacher
        targets = np.asarray([budget.targets(step) for step in range(budget.steps)])
        available = rows_in(self.data.train_tokens, length) * length
        return TrainResult(
            steps=budget.steps,
            trained_tokens=int(targets.sum()),
            processed_tokens=processed_tokens(budget, self.train_feed.world),
            epochs=budget.tokens / available,
            train_loss=tail_loss(losses, targets),
            loss_digest=digest_losses(losses),
            losses=losses,
            flops=treated.training_flops(self.shape, budget.tokens, length),
            flops_6nd=flops_6nd(self.shape, budget.tokens),
            matmul_flops=treated.training_flops(self.shape, budget.tokens, 0),
            flops_formula=treated.formula,
            teacher_flops=evaluation_flops(teacher.shape, budget.tokens, length) if teacher else None,
        )


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
    configure_process(spec, device)
    start, target = time.monotonic(), torch.device(device)
    setup = set_up(spec, data.vocab_size, seed, target, open_given(spec, data, device))
    if device == "cuda":
        torch.cuda.synchronize()
    built = time.monotonic()
    train_feed = _train_feed(spec, data, tokens, repetition, setup)
    session = Session(spec, data, setup, train_feed, _eval_feed(spec, data, setup), 0.0, built - start)
    torch.manual_seed(seed)
    session.synchronize()
    session.data_s = time.monotonic() - built
    return session


def _train_feed(spec: SweepSpec, data: PreparedData, tokens: int, repetition: int, setup: Setup) -> Feed:
    length = spec.data.sequence_length
    budget = Budget(tokens, length, spec.train.batch_size, setup.rows.rows)
    row_ids = row_sequence(spec.design.seed, repetition, rows_in(data.train_tokens, length), budget.rows)
    return Feed(budget, row_ids, stream_gather(data.train(), length, setup.engine.device))


def _eval_feed(spec: SweepSpec, data: PreparedData, setup: Setup) -> Feed:
    import numpy as np

    # Alone, the training micro-batch; several ranks have smaller ones, but the same shapes give the same bits.
    whole = spec.world > 1 and spec.train.micro_batch_size is None
    rows = spec.eval.batch_size or (spec.train.batch_size if whole else setup.rows.rows)
    length = spec.data.sequence_length
    budget = Budget(spec.eval.tokens, length, rows, rows)
    held_out = data.held_out()[: budget.rows * length + 1]
    return Feed(budget, np.arange(budget.rows), stream_gather(held_out, length, setup.engine.device))
