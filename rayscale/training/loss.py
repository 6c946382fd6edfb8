"""Head and loss without a full matrix of logits.

For 16,384 targets and 32,000 tokens the fp32 logits, their log-softmax and the gradients of both take some 8 GB, more
than the weights of a 1.1 B model. Three ways, chosen once per session and recorded:

    linear_cross_entropy  torch's fused head and loss: CUDA, where torch has it
    chunked               rows are taken in chunks; each chunk's logits live from its product to its gradient only
    full                  the model's own logits: models whose logits are more than a linear layer of the last state

Chunked needs no second forward pass: the last hidden state is cut off the graph, every chunk runs forward and backward
at once into the cut, and what has gathered there goes back through the body in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rayscale.training.body import Body, direct_body, model_body
from rayscale.training.memory import CHUNK_BYTES
from rayscale.training.order import IGNORED

if TYPE_CHECKING:
    import torch

LossPath = Literal["linear_cross_entropy", "chunked", "full"]


@dataclass(frozen=True)
class SplitModel:
    """A causal language model as its body and its head.

    Attributes:
        body: From token ids to the last hidden state.
        head: The linear layer from there to logits.
    """

    body: Body
    head: Any

    def hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the body.

        Args:
            inputs: Token ids, shape (rows, T).

        Returns:
            Last hidden states, shape (rows · T, width).
        """
        return self.body(inputs).flatten(0, 1)


def split_model(model: Any) -> SplitModel | None:
    """Split a model into body and head, if its logits are exactly a linear layer of its last hidden state.

    Whether they are is tried out on eight tokens: some architectures scale or cap their logits in between.

    Args:
        model: A causal language model of transformers.

    Returns:
        The parts; None where the model's logits are something else.
    """
    import torch

    head = model.get_output_embeddings()
    if model.base_model is model or not isinstance(head, torch.nn.Linear):
        return None
    training = model.training
    tokens = torch.arange(8, device=head.weight.device).remainder(head.out_features)[None]
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
        ways = [SplitModel(body, head) for body in (direct_body(model), model_body(model)) if body is not None]
        split = next((way for way in ways if torch.equal(head(way.hidden(tokens)), expected)), None)
    model.train(training)
    return split


def choose_loss(split: SplitModel | None, device_type: str) -> LossPath:
    """Choose how head and loss are computed.

    torch's fused function is slower than plain products on a CPU (research: 13.3 s against 5.3 s), so it is for CUDA.

    Args:
        split: The model's parts; None if it cannot be split.
        device_type: `cpu` or `cuda`.

    Returns:
        The path.
    """
    import torch

    if split is None:
        return "full"
    fused = hasattr(torch.nn.functional, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions")
    return "linear_cross_entropy" if fused and device_type == "cuda" else "chunked"


def chunk_rows(vocab_size: int, limit: int = CHUNK_BYTES) -> int:
    """Tell how many rows of fp32 logits fit the limit.

    Args:
        vocab_size: Width of the logits.
        limit: Size of a chunk. Units: B.

    Returns:
        Rows per chunk, at least 1.
    """
    return max(1, limit // (4 * vocab_size))


def backward_chunked(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    divisor: int,
    rows: int,
) -> torch.Tensor:
    """Compute the loss and all gradients, a chunk of rows at a time.

    Args:
        logits_of: The head, under autocast where that is wanted (the backward pass is not).
        hidden: Last hidden states with their graph, shape (N, width).
        targets: Token ids or `IGNORED`, shape (N,).
        divisor: What the sum of the losses is divided by: the targets of the optimiser step.
        rows: Rows per chunk.

    Returns:
        Summed loss / divisor, without a graph.
    """
    import torch

    if len(hidden) <= rows:  # the usual case of a small model: nothing to cut, one pass
        return _backward_logits(logits_of(hidden), targets, divisor)
    losses, gradients = [], []
    for piece, wanted in zip(hidden.detach().split(rows), targets.split(rows), strict=True):
        leaf = piece.requires_grad_()
        losses.append(_backward_logits(logits_of(leaf), wanted, divisor))
        gradients.append(leaf.grad)
    hidden.backward(torch.cat(gradients))
    return torch.stack(losses).sum()


def _backward_logits(logits: torch.Tensor, targets: torch.Tensor, divisor: int) -> torch.Tensor:
    """Send (softmax - one-hot of the target) / divisor back from logits, made in the log-softmax's own memory.

    Autograd would fill a second matrix with zeros to hold one number a row, and a third with the result.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    with torch.no_grad():
        slope = F.log_softmax(logits.float(), dim=1)
        losses = F.nll_loss(slope, targets, ignore_index=IGNORED, reduction="none")
        weight = (targets != IGNORED).to(slope.dtype).div_(divisor)[:, None]
        slope.exp_().mul_(weight)
        where = targets.clamp_min(0)[:, None]
        slope.scatter_(1, where, slope.gather(1, where) - weight)
    logits.backward(slope.to(logits.dtype))
    return losses.sum() / divisor


def fused_loss(
    split: SplitModel, hidden: torch.Tensor, targets: torch.Tensor, divisor: int, dtype: torch.dtype
) -> torch.Tensor:
    """Compute the loss by torch's fused linear layer and cross entropy.

    Args:
        split: The model's parts.
        hidden: Last hidden states, shape (N, width).
        targets: Token ids or `IGNORED`, shape (N,).
        divisor: What the sum of the losses is divided by.
        dtype: Type of the products; autocast does not know the function, so its operands are cast here.

    Returns:
        Summed loss / divisor, with its graph.
    """
    import torch

    bias = split.head.bias
    total = torch.nn.functional.linear_cross_entropy(
        hidden.to(dtype),
        split.head.weight.to(dtype),
        targets,
        linear_bias=None if bias is None else bias.to(dtype),
        reduction="sum",
        ignore_index=IGNORED,
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return total.float() / divisor


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the cross entropy of every target in fp32; ignored ones give 0.

    Args:
        logits: Shape (N, vocabulary).
        targets: Token ids or `IGNORED`, shape (N,).

    Returns:
        Losses, shape (N,). Units: nats.
    """
    import torch.nn.functional as F  # noqa: N812

    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")


def evaluated_losses(split: SplitModel, hidden: torch.Tensor, targets: torch.Tensor, rows: int) -> torch.Tensor:
    """Compute the loss of every target without gradients, a chunk of rows at a time.

    Args:
        split: The model's parts.
        hidden: Last hidden states, shape (N, width).
        targets: Token ids or `IGNORED`, shape (N,).
        rows: Rows per chunk.

    Returns:
        Losses, shape (N,). Units: nats.
    """
    import torch

    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([token_losses(split.head(piece), wanted) for piece, wanted in pieces])
