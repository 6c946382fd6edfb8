"""What every section of the sweep file shares: its base class and the types of its quantities."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from rayscale.quantities import parse_bytes, parse_count, parse_duration


def _quantity(example: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [example]})


Duration = Annotated[float, BeforeValidator(parse_duration), _quantity("100ms")]
Count = Annotated[int, BeforeValidator(parse_count), _quantity("500K")]
Size = Annotated[int, BeforeValidator(parse_bytes), _quantity("4MB")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = int | float | str | bool

TRIAL_SECTIONS = ("model", "data", "train", "eval", "energy")
"""Sections whose settings change a trial's result; only these may be factors and enter the trial key."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen, field docstrings go to the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
