"""What a trial's settings do to its model, in which order, and what training then costs.

    random or pretrained weights -> prune -> adapters -> training (with a teacher) -> evaluation -> quantised evaluation

Pruning comes before adapters, so that frozen weights below adapters are pruned too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rayscale.spec import TeacherSpec
from rayscale.training.flops import ModelShape, evaluation_flops, training_flops
from rayscale.training.treatments.adapter import (
    FORMULA,
    Adapter,
    add_lora,
    lora_flops,
    planned_adapter_params,
    require_peft,
)
from rayscale.training.treatments.pruning import prune_model
from rayscale.training.treatments.teachers import check_teacher

if TYPE_CHECKING:
    from rayscale.spec import SweepSpec

DENSE_FORMULA = "6·N_matmul + 12·L·H·Q·T per token"


@dataclass(frozen=True)
class Treated:
    """What was done to a model before training.

    Attributes:
        params: All parameters, adapters included.
        trainable_params: Those that train; pruned weights are not among them.
        pruned: Weights that are zero and stay so.
        adapter: The adapters; None where all weights train.
        notes: What a reader should know.
    """

    params: int
    trainable_params: int
    pruned: int = 0
    adapter: Adapter | None = None
    notes: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """How training FLOPs are counted, in words."""
        if self.adapter is not None:
            return FORMULA
        return f"{DENSE_FORMULA} (dense kernels: pruned weights are multiplied too)" if self.pruned else DENSE_FORMULA

    def training_flops(self, shape: ModelShape, tokens: int, sequence_length: int) -> float:
        """Count the FLOPs of training, a teacher's aside.

        Units: FLOP.

        Args:
            shape: The model without adapters.
            tokens: Trained tokens.
            sequence_length: T.

        Returns:
            The number.
        """
        if self.adapter is None:
            return training_flops(shape, tokens, sequence_length)
        return lora_flops(shape, self.adapter.params, tokens, sequence_length)

    def evaluation_flops(self, shape: ModelShape, tokens: int, sequence_length: int) -> float:
        """Count the FLOPs of a forward pass, adapters included.

        Units: FLOP.

        Args:
            shape: The model without adapters.
            tokens: Evaluated tokens.
            sequence_length: T.

        Returns:
            The number.
        """
        added = 0 if self.adapter is None else 2 * self.adapter.params * tokens
        return evaluation_flops(shape, tokens, sequence_length) + added

    def facts(self) -> dict[str, Any]:
        """Write it down for the record, as plain values."""
        return asdict(self) | {"notes": list(self.notes)}


def treat_model(spec: SweepSpec, model: Any, seed: int) -> Treated:
    """Prune a model and give it adapters, as the settings say.

    Args:
        spec: The resolved sweep.
        model: The model on its device; changed in place.
        seed: Seed of the adapters.

    Returns:
        What was done.

    Raises:
        InputError: If the model has no layers to treat.
        EnvironmentUnusableError: If peft is asked for and not installed.
    """
    pruned = prune_model(model, spec.model.prune) if spec.model.prune else 0
    train = spec.train
    adapter = add_lora(model, train.lora_rank, train.lora_alpha, seed) if train.lora_rank else None
    params = sum(parameter.numel() for parameter in model.parameters())
    trainable = params - pruned if adapter is None else adapter.params
    return Treated(params, trainable, pruned, adapter, tuple(treatment_notes(spec)))


def check_treatments(spec: SweepSpec) -> None:
    """Refuse what this machine cannot do, before anything starts.

    Args:
        spec: The resolved sweep.

    Raises:
        EnvironmentUnusableError: If peft is asked for and not installed.
        InputError: If a teacher's directory holds no model.
    """
    if spec.train.lora_rank:
        require_peft()
    check_teacher(spec)


def treatment_notes(spec: SweepSpec) -> list[str]:
    """Say what a reader should know of a trial's treatments.

    Args:
        spec: The resolved sweep.

    Returns:
        Sentences.
    """
    notes = []
    if spec.train.lora_rank and spec.model.pretrained is None and spec.model.pretrain is None:
        notes.append("LoRA on random weights: the frozen weights know nothing; expect a high loss")
    if spec.model.prune:
        notes.append("pruned weights are multiplied by dense kernels: time, energy and FLOPs do not fall")
    if spec.eval.quantize == "int4":
        notes.append("int4 evaluation is simulated: its loss counts, its time and energy do not")
    if isinstance(spec.model.distill_from, TeacherSpec) or spec.model.pretrain is not None:
        notes.append("models that the sweep trains beforehand are in no `train` phase; the record says what they took")
    return notes


def planned_flops(spec: SweepSpec, shape: ModelShape, tokens: int) -> float:
    """Count a trial's training FLOPs from its settings alone.

    Units: FLOP.

    Args:
        spec: The resolved sweep; its model's fields are known.
        shape: The model without adapters.
        tokens: Trained tokens.

    Returns:
        The number, a teacher's aside.
    """
    length = spec.data.sequence_length
    if not spec.train.lora_rank:
        return training_flops(shape, tokens, length)
    return lora_flops(shape, planned_adapter_params(spec.model.fields or {}, spec.train.lora_rank), tokens, length)
