"""Three ways to train the same Llama, timed alike: rayscale, a hand-written loop, the Trainer of transformers."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayscale.spec import SweepSpec
from rayscale.training.data import PreparedData, prepare
from rayscale.training.session import open_session

SKIPPED = 3
"""Steps at the start of each round that no way counts: buffers are made and caches filled."""


@dataclass(frozen=True)
class Size:
    """A model and its batches.

    Attributes:
        name: For people.
        config: Fields of the Llama config.
        sequence_length: T.
        batch_size: Rows per optimiser step.
    """

    name: str
    config: dict[str, Any]
    sequence_length: int
    batch_size: int

    @property
    def step_tokens(self) -> int:
        """Targets of one step."""
        return self.batch_size * self.sequence_length

    def spec(self, steps: int, **train: Any) -> SweepSpec:
        """Describe a trial of so many steps."""
        settings = {"batch_size": self.batch_size, "schedule": "cosine", "threads": 1, "log_every": 3600, **train}
        tokens = (steps + SKIPPED) * self.step_tokens
        source = {"vocab_size": self.config["vocab_size"], "tokens": max(200_000, 2 * tokens)}
        tree = {
            "name": "benchmark",
            "design": {"factors": {"tokens": [tokens]}, "repetitions": 1},
            "model": {"config": self.config},
            "data": {"synthetic": source, "sequence_length": self.sequence_length},
            "train": settings,
            "eval": {"tokens": self.step_tokens},
        }
        return SweepSpec.model_validate(tree)


def llama(hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    """Return the config of a small Llama with grouped queries."""
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 3 * hidden,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
    }


SIZES = (Size("base", llama(128, 4, 512), 128, 8), Size("small", llama(64, 2, 512), 64, 4))


@dataclass(frozen=True)
class Span:
    """Time per step. Units: s."""

    wall: float
    cpu: float


class Clock:
    """Wall and CPU time of this process since the start."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def span(self, steps: int) -> Span:
        """Divide what has passed by a number of steps."""
        return Span((time.perf_counter() - self._wall) / steps, (time.process_time() - self._cpu) / steps)


TRIAL_STEPS = 150
"""Steps of the trial that is timed end to end."""


class Way(Protocol):
    """A way to train: one round of steps, timed."""

    name: str

    def round(self, steps: int) -> Span:
        """Train a fresh model for some steps."""


class Ours:
    """rayscale's session: all of `train`, its result included."""

    def __init__(self, size: Size, cache: Path, name: str = "rayscale", **train: Any) -> None:
        self.name, self._size, self._cache, self._train = name, size, cache, train

    def round(self, steps: int) -> Span:
        """Train a fresh model for some steps; the skipped ones are its warm-up."""
        spec = self._size.spec(steps, warmup_steps=SKIPPED, **self._train)
        data = prepare(spec, self._cache)
        tokens = steps * self._size.step_tokens
        session = open_session(spec, data, tokens=tokens, seed=0, repetition=0, device="cpu")
        session.warmup()
        clock = Clock()
        result = session.train(lambda _: None)
        span = clock.span(steps)
        if result.steps != steps:
            raise RuntimeError(f"{result.steps} steps; expected {steps}")
        return span


class Bare:
    """A loop as in nanoGPT's train.py: random windows, cross entropy over the logits, clip, AdamW, cosine rate."""

    def __init__(self, size: Size, cache: Path) -> None:
        self.name, self._size, self._cache = "bare loop", size, cache

    def round(self, steps: int) -> Span:
        """Train a fresh model for some steps."""
        import torch

        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)
        stream = prepare(self._size.spec(steps), self._cache).train()
        model = bare_model(self._size)
        groups = [
            {"params": [weight for weight in model.parameters() if weight.dim() >= 2], "weight_decay": 0.1},
            {"params": [weight for weight in model.parameters() if weight.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
        clock = Clock()
        for step in range(steps + SKIPPED):
            if step == SKIPPED:
                clock = Clock()
            rate = 1e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * step / (steps + SKIPPED))))
            bare_step(model, optimizer, windows(stream, self._size), rate)
        return clock.span(steps)


def bare_model(size: Size) -> Any:
    """Build the Llama as transformers ships it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    fields = {name: value for name, value in size.config.items() if name != "model_type"}
    return LlamaForCausalLM(LlamaConfig(**fields, use_cache=False)).train()


def windows(stream: Any, size: Size) -> tuple[Any, Any]:
    """Draw a batch of random windows (nanoGPT's get_batch)."""
    import numpy as np
    import torch

    length = size.sequence_length
    places = torch.randint(len(stream) - length - 1, (size.batch_size,)).tolist()
    inputs = torch.stack([torch.from_numpy(stream[i : i + length].astype(np.int64)) for i in places])
    targets = torch.stack([torch.from_numpy(stream[i + 1 : i + 1 + length].astype(np.int64)) for i in places])
    return inputs, targets


def bare_step(model: Any, optimizer: Any, batch: tuple[Any, Any], rate: float) -> None:
    """Take one step."""
    import torch

    inputs, targets = batch
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits = model(input_ids=inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class HfTrainer:
    """The Trainer of transformers (needs accelerate, which rayscale does not).

    `documented` takes the data as the causal-language-modelling example of transformers (run_clm.py) does: rows of
    input_ids, attention_mask and labels in a dataset of `datasets`, default collator. Otherwise the rows are tensors in
    a list, which costs the Trainer less than any documented use.
    """

    def __init__(self, size: Size, cache: Path, *, documented: bool = True) -> None:
        self.name = "HF Trainer" if documented else "HF Trainer, rows as tensors"
        self._size, self._cache, self._documented = size, cache, documented

    def round(self, steps: int) -> Span:
        """Train a fresh model for some steps; its own clock starts after the skipped ones."""
        data = prepare(self._size.spec(steps), self._cache)
        with tempfile.TemporaryDirectory() as directory:
            trainer, watch = hf_trainer(self._size, data, steps + SKIPPED, directory, documented=self._documented)
            trainer.train()
        return watch.span(steps)


def hf_trainer(
    size: Size, data: PreparedData, steps: int, directory: str, *, documented: bool = True
) -> tuple[Any, Any]:
    """Set a Trainer up with its defaults (logging every 500 steps, its loss, its sampler), but no saving and no bars.

    Returns:
        The trainer, and the callback that times its steps.
    """
    import numpy as np
    import torch
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)
    length, stream = size.sequence_length, data.train()
    rows = [torch.from_numpy(stream[i : i + length].astype(np.int64)) for i in range(0, len(stream) - length, length)]

    class Watch(TrainerCallback):
        """Times from the end of the skipped steps to the end of the last."""

        clock: Clock | None = None
        found: Span | None = None
        begun = ended = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = self.begun or time.monotonic()
            if state.global_step == SKIPPED:
                self.clock = Clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == steps and self.clock is not None:
                self.found, self.ended = self.clock.span(1), time.monotonic()

        def span(self, counted: int) -> Span:
            if self.found is None:
                raise RuntimeError("the Trainer did not reach its last step")
            return Span(self.found.wall / counted, self.found.cpu / counted)

    watch = Watch()
    arguments = TrainingArguments(
        output_dir=directory,
        max_steps=steps,
        per_device_train_batch_size=size.batch_size,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    dataset: Any = [{"input_ids": row, "labels": row} for row in rows]
    if documented:
        from datasets import Dataset

        ids = [row.tolist() for row in rows]
        dataset = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * length for _ in ids], "labels": ids})
    trainer = Trainer(model=bare_model(size), args=arguments, train_dataset=dataset, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    return trainer, watch


def warm_trial(cache: str) -> float:
    """Run a 150-step trial in this process as a slot's trial process does, evaluation before and after included.

    Returns:
        Time of its training phase. Units: s.
    """
    size = SIZES[1]
    spec = size.spec(TRIAL_STEPS)
    data, tokens = prepare(spec, Path(cache)), TRIAL_STEPS * size.step_tokens
    session = open_session(spec, data, tokens=tokens, seed=0, repetition=0, device="cpu")
    session.evaluate()
    session.warmup()
    start = time.monotonic()
    session.train(lambda _: None)
    trained = time.monotonic() - start
    session.evaluate()
    return trained


def fresh_trainer(cache: str) -> float:
    """Run 150 steps with the Trainer in this process, and evaluate once.

    Returns:
        Time from the first step's start to the last one's end. Units: s.
    """
    size = SIZES[1]
    data = prepare(size.spec(TRIAL_STEPS), Path(cache))
    with tempfile.TemporaryDirectory() as directory:
        trainer, watch = hf_trainer(size, data, TRIAL_STEPS, directory, documented=False)
        trainer.train()
        trainer.evaluate(trainer.train_dataset[: size.batch_size])
    return watch.ended - watch.begun
