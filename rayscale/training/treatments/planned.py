"""What treatments take beside a trial's own training, from the settings alone: a teacher, models trained beforehand.

A distillation teacher runs forward on every trained token, inside `train`. A teacher or start weights that the sweep
trains itself are trained once per machine, in the `load` phase of the trial that needs them first, and then cached.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rayscale.errors import InputError
from rayscale.spec import PretrainSpec, SweepSpec
from rayscale.training.flops import (
    ModelShape,
    evaluation_flops,
    planned_vocab_size,
    shape_from_config,
    training_flops,
)
from rayscale.training.treatments.teachers import beforehand


@dataclass(frozen=True)
class ModelBeforehand:
    """A model that is trained once, before the trials that need it.

    Attributes:
        role: `teacher` or `start weights`.
        tokens: What it is trained on.
        flops: Training and one evaluation; None if its shape is not known. Units: FLOP.
    """

    role: str
    tokens: int
    flops: float | None


def planned_shape(spec: SweepSpec) -> ModelShape | None:
    """Derive the model's shape without loading it.

    Args:
        spec: The (resolved) sweep.

    Returns:
        The shape; None if it is only known to the hub, or of an architecture that is not counted.
    """
    vocabulary = planned_vocab_size(spec)
    if spec.model.fields is None or vocabulary is None:
        return None
    try:
        return shape_from_config(spec.model.fields, vocabulary)
    except InputError:
        return None  # an architecture whose products we do not count


def planned_teacher_flops(spec: SweepSpec, tokens: int) -> float | None:
    """Count the forward passes of a trial's teacher while training.

    Units: FLOP.

    Args:
        spec: The resolved sweep.
        tokens: Trained tokens.

    Returns:
        The number, 0 without a teacher; None if the teacher's shape is only known to the hub.
    """
    source = spec.model.distill_from
    if source is None:
        return 0.0
    shape = _stored_shape(source) if isinstance(source, str) else planned_shape(beforehand(spec, source))
    return None if shape is None else evaluation_flops(shape, tokens, spec.data.sequence_length)


def models_beforehand(specs: Iterable[SweepSpec]) -> list[ModelBeforehand]:
    """List the models that conditions share and that are trained before them, each once.

    Args:
        specs: The resolved sweep of each condition.

    Returns:
        One entry per model.
    """
    found: dict[str, ModelBeforehand] = {}
    for spec in specs:
        for role, wanted in (("teacher", spec.model.distill_from), ("start weights", spec.model.pretrain)):
            if isinstance(wanted, PretrainSpec):
                plain = beforehand(spec, wanted)
                recipe = repr((plain.model, plain.train, wanted.tokens, wanted.seed, plain.data.sequence_length))
                found.setdefault(recipe, ModelBeforehand(role, wanted.tokens, _flops(plain, wanted.tokens)))
    return list(found.values())


def _flops(plain: SweepSpec, tokens: int) -> float | None:
    shape, length = planned_shape(plain), plain.data.sequence_length
    if shape is None:
        return None
    return training_flops(shape, tokens, length) + evaluation_flops(shape, plain.eval.tokens, length)


def _stored_shape(source: str) -> ModelShape | None:
    """Read the shape of a model in a directory; None for one on the hub."""
    path = Path(source).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return shape_from_config(config, int(config["vocab_size"]))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
