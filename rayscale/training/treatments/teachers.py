"""Models that are there before a trial trains: weights to start from, and a distillation teacher.

Either exists (a directory, a hub name), or the sweep trains it once on its own data and keeps it in the cache, which
makes a study whole: `model.pretrain: {tokens: 200K}` for adapters and pruning, which need weights that know something,
and `model.distill_from: {tokens: 200K, config: {hidden_size: 256}}`. The trial that finds no such model trains it in
its `load` phase, outside the measured training; what that took is in the facts of every trial that uses it, since a
fair account of the alternative includes it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.environment import cache_directory, cpu_name
from rayscale.errors import InputError
from rayscale.spec import EvalSpec, ModelSpec, PretrainSpec, TeacherSpec, TrainSpec
from rayscale.training.cachefiles import digest_of, made_once
from rayscale.training.flops import shape_from_model
from rayscale.training.loss import split_model
from rayscale.training.model import build_model
from rayscale.training.treatments.distilling import Teacher

if TYPE_CHECKING:
    from rayscale.spec import SweepSpec
    from rayscale.training.data import PreparedData

FACTS = "made.json"
REPETITION = 2**31 - 1
"""Repetition whose data order such a model gets: no trial's."""


def check_teacher(spec: SweepSpec) -> None:
    """Look for a teacher that the sweep file gives by path, before anything starts.

    Args:
        spec: The resolved sweep.

    Raises:
        InputError: If it is written as a path and there is no model.
    """
    source = spec.model.distill_from
    if not isinstance(source, str):
        return
    local = source.startswith((".", "/", "~")) or Path(source).is_dir()
    if local and not (Path(source) / "config.json").is_file():
        raise InputError(f"model.distill_from: {source}: no such model; expected a directory with a config.json")


@dataclass(frozen=True)
class Given:
    """Models that were there before a trial.

    Attributes:
        teacher: Whose distribution is part of the target; None: nobody's.
        start: Directory of the weights to start from; None: as the sweep file says.
        start_facts: What those weights took.
    """

    teacher: Teacher | None = None
    start: str | None = None
    start_facts: dict[str, Any] | None = None

    def starting(self, spec: SweepSpec) -> SweepSpec:
        """Let a sweep start from the weights that were trained for it.

        Args:
            spec: The resolved sweep.

        Returns:
            The sweep, with those weights as its pretrained model.
        """
        if self.start is None:
            return spec
        loaded = {"pretrained": self.start, "pretrain": None, "preset": None, "config": None}
        return spec.model_copy(update={"model": spec.model.model_copy(update=loaded)})


def open_given(spec: SweepSpec, data: PreparedData, device: str) -> Given:
    """Load what a trial needs to be there; train it first where it is the sweep's own and not there yet.

    Args:
        spec: The resolved sweep.
        data: The prepared data.
        device: `cpu` or `cuda`.

    Returns:
        The models.

    Raises:
        InputError: If one cannot be loaded, or has another vocabulary than the data.
        EnvironmentUnusableError: If weights cannot be fetched.
    """
    teacher = _open_teacher(spec, data, device)
    if spec.model.pretrain is None:
        return Given(teacher)
    return Given(teacher, *_own_model(spec, spec.model.pretrain, data, device))


def _open_teacher(spec: SweepSpec, data: PreparedData, device: str) -> Teacher | None:
    source = spec.model.distill_from
    if source is None:
        return None
    place, facts = (source, {"source": source}) if isinstance(source, str) else _own_model(spec, source, data, device)
    plain = spec.model_copy(
        update={"model": ModelSpec(pretrained=place), "train": spec.train.model_copy(update={"checkpointing": False})}
    )
    try:
        built = build_model(plain, data.vocab_size, 0, device)
    except InputError as error:
        raise InputError(f"model.distill_from: {error}") from None
    built.module.eval().requires_grad_(requires_grad=False)
    shape, train = shape_from_model(built.module), spec.train
    facts = {**facts, "params": shape.params, "revision": built.revision}
    return Teacher(
        built.module, split_model(built.module), shape, train.distill_weight, train.distill_temperature, facts
    )


def check_vocabulary(teacher: Teacher, student: Any) -> None:
    """Compare the vocabularies of teacher and student; that they mean the same tokens cannot be seen from models.

    Args:
        teacher: The teacher.
        student: The model that learns.

    Raises:
        InputError: If their sizes differ.
    """
    theirs, ours = teacher.model.config.vocab_size, student.config.vocab_size
    if theirs != ours:
        raise InputError(
            f"model.distill_from: the teacher has a vocabulary of {theirs}, the student of {ours}; "
            "expected the same tokenizer"
        )


def beforehand(spec: SweepSpec, wanted: PretrainSpec) -> SweepSpec:
    """Describe the training of a model of the sweep's own: its settings without treatments, a teacher's shape.

    Args:
        spec: The resolved sweep.
        wanted: What to train.

    Returns:
        The sweep to train it by.
    """
    fields = wanted.config if isinstance(wanted, TeacherSpec) else None
    model = ModelSpec(preset=spec.model.preset, config={**(spec.model.config or {}), **(fields or {})})
    if spec.model.fields is None or (spec.model.pretrained is not None and not fields):
        model = ModelSpec(pretrained=spec.model.pretrained, revision=spec.model.revision, config=spec.model.config)
    threads = spec.train.threads if spec.world == 1 else spec.threads
    train = TrainSpec(batch_size=wanted.batch_size, learning_rate=wanted.learning_rate, threads=threads)
    alone = spec.resources.alone  # the first of several ranks to come trains it, the others wait
    changes = {"model": model, "train": train, "eval": EvalSpec(tokens=spec.eval.tokens), "resources": alone}
    return spec.model_copy(update=changes)


def _own_model(spec: SweepSpec, wanted: PretrainSpec, data: PreparedData, device: str) -> tuple[str, dict[str, Any]]:
    """Find or train a model of the sweep's own; returns its directory and the facts that were written beside it."""
    target = cache_directory() / "models" / _name(spec, wanted, data, device)
    with made_once(target) as directory:
        if directory is not None:
            facts = _train(beforehand(spec, wanted), wanted, data, device, directory)
            (directory / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return str(target), json.loads((target / FACTS).read_text(encoding="utf-8"))


def _train(spec: SweepSpec, wanted: PretrainSpec, data: PreparedData, device: str, directory: Path) -> dict[str, Any]:
    from transformers.utils import logging

    # session imports this module
    from rayscale.training.session import open_session

    logging.disable_progress_bar()
    start = time.monotonic()
    session = open_session(spec, data, tokens=wanted.tokens, seed=wanted.seed, repetition=REPETITION, device=device)
    trained = session.train(lambda _: None)
    evaluation = session.evaluate()
    session.engine.model.save_pretrained(directory)
    return {
        "source": "trained on the sweep's data",
        "tokens": trained.trained_tokens,
        "training_flops": trained.flops,
        "training_s": time.monotonic() - start,
        "eval_loss": evaluation.loss,
        "loss_digest": trained.loss_digest,
    }


def _name(spec: SweepSpec, wanted: PretrainSpec, data: PreparedData, device: str) -> str:
    """Name the model by everything that changes its weights."""
    import torch
    import transformers

    plain = beforehand(spec, wanted)
    recipe = {
        "model": plain.model.model_dump(mode="json", exclude_defaults=True),
        "train": plain.train.model_dump(mode="json", exclude_defaults=True),
        "tokens": wanted.tokens,
        "seeds": [wanted.seed, spec.design.seed],
        "data": [data.fingerprint, spec.data.sequence_length, spec.data.max_epochs],
        "machine": [device, torch.cuda.get_device_name() if device == "cuda" else cpu_name(), spec.threads],
        "versions": [torch.__version__, transformers.__version__],
    }
    return digest_of(recipe)[:16]
