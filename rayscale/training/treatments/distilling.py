"""Distillation: a frozen teacher's distribution over the next token is part of the target.

    loss = (1 - w)·CE(student, text) + w·T²·KL(teacher at T || student at T)       summed over targets / targets

(Hinton et al., arXiv 1503.02531; T² keeps the gradients' size as T grows.) The teacher reads the same rows inside the
step, so its forward pass is in the trial's `train` phase, time and energy included; its FLOPs are counted apart. What a
step reports is CE(student, text) alone, which compares with the loss of any other trial.

Logits of student and teacher live a chunk of rows at a time, as in `loss.backward_chunked`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale.training.loss import SplitModel, token_losses
from rayscale.training.order import IGNORED

if TYPE_CHECKING:
    import torch

    from rayscale.training.flops import ModelShape

Head = Callable[["torch.Tensor"], "torch.Tensor"]
"""From hidden states of shape (N, width) to logits of shape (N, vocabulary)."""


@dataclass(frozen=True)
class Teacher:
    """A frozen model and how much it says.

    Attributes:
        model: The model, in evaluation mode, on the student's device.
        split: Its body and head; None where its logits are more than a linear layer.
        shape: Its counts.
        weight: w.
        temperature: T.
        facts: Where it comes from, for the record.
    """

    model: Any
    split: SplitModel | None
    shape: ModelShape
    weight: float
    temperature: float
    facts: dict[str, Any]

    def hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the body, or the whole model where it cannot be split; without gradients.

        Args:
            inputs: Token ids, shape (rows, T).

        Returns:
            Last hidden states, or logits: shape (rows · T, width).
        """
        import torch

        with torch.no_grad():
            if self.split is not None:
                return self.split.hidden(inputs)
            return self.model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Finish what `hidden` began.

        Args:
            hidden: Some of its rows.

        Returns:
            Logits, without a graph.
        """
        import torch

        with torch.no_grad():
            return hidden if self.split is None else self.split.head(hidden)


def divergences(
    student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Compute T²·KL(teacher at T || student at T) of every target in fp32; ignored ones give 0.

    Args:
        student: Logits, shape (N, vocabulary).
        teacher: Logits, shape (N, vocabulary).
        targets: Token ids or `IGNORED`, shape (N,).
        temperature: T.

    Returns:
        Divergences, shape (N,). Units: nats.
    """
    import torch.nn.functional as F  # noqa: N812

    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    given = F.log_softmax(student.float() / temperature, dim=1)
    found = F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * found.masked_fill(targets == IGNORED, 0.0)


def distilled_backward(
    student: Head,
    hidden: torch.Tensor,
    teacher: Teacher,
    teacher_hidden: torch.Tensor,
    targets: torch.Tensor,
    divisor: int,
    rows: int,
) -> torch.Tensor:
    """Add the gradients of the mixed loss, a chunk of rows at a time.

    Args:
        student: Its head, under autocast where that is wanted; the identity if `hidden` holds its logits.
        hidden: The student's last hidden states with their graph, shape (N, width).
        teacher: The teacher.
        teacher_hidden: What its `hidden` gave for the same rows.
        targets: Token ids or `IGNORED`, shape (N,).
        divisor: Targets of the whole optimiser step.
        rows: Rows per chunk.

    Returns:
        CE(student, text) summed over the targets / divisor, without a graph.
    """
    import torch

    told, gradients = [], []
    pieces = zip(hidden.detach().split(rows), teacher_hidden.split(rows), targets.split(rows), strict=True)
    for piece, wanted, expected in pieces:
        leaf = piece.requires_grad_()
        logits = student(leaf)
        text = token_losses(logits, expected).sum() / divisor
        soft = divergences(logits, teacher.logits(wanted), expected, teacher.temperature).sum() / divisor
        ((1 - teacher.weight) * text + teacher.weight * soft).backward()
        told.append(text.detach())
        gradients.append(leaf.grad)
    hidden.backward(torch.cat(gradients))
    return torch.stack(told).sum()
