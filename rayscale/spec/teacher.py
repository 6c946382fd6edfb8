"""Models that the sweep trains itself, once, before its trials need them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rayscale.spec.base import Count, Positive, Section


class PretrainSpec(Section):
    """A model trained once on the sweep's own data and kept in the cache.

    Its training has settings of its own, so that it is the same for all levels of `train` that the sweep compares.
    """

    tokens: Annotated[Count, Field(gt=0)]
    """What it is trained on."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per optimiser step."""
    learning_rate: Positive = 1e-3
    """Peak learning rate; the schedule is a cosine, all else `train`'s defaults."""
    seed: int = Field(default=0, ge=0)
    """Seed of its initial weights; one model serves all repetitions."""


class TeacherSpec(PretrainSpec):
    """A distillation teacher of that kind."""

    config: dict[str, Any] | None = None
    """Fields of the transformers config that differ from the student's, e.g. {hidden_size: 256}."""
