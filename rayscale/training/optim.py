"""AdamW and learning-rate schedules. A schedule is a pure function of tokens, so any budget can be drawn beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from rayscale.spec import TrainSpec
    from rayscale.training.order import Budget


def build_optimizer(model: nn.Module, train: TrainSpec) -> Any:
    """Build AdamW with decoupled decay of matrices only; norms and biases are not pulled to zero.

    Args:
        model: The model, on its device.
        train: The settings.

    Returns:
        A fused `torch.optim.AdamW` (one kernel per group instead of several per tensor; CPU and CUDA have it).
    """
    import torch

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas, eps=train.eps, fused=True)


def learning_rate(train: TrainSpec, first: int, last: int, budget: int) -> float:
    """Tell the learning rate of a step, taken at the middle of its tokens.

    The warm-up counts in tokens, not as a share of the budget, so all budgets start alike. After it:
    constant: 1; cosine: m + (1-m)(1+cos(pi x))/2 with x from 0 to 1 over the rest; wsd: 1, then over the last
    `cooldown` share of the budget 1 - (1-m)·sqrt(x) (Haegele et al., arXiv 2405.18392) or, with `cooldown_shape`
    linear, 1 - (1-m)·x. m = `min_lr_ratio`.

    Args:
        train: The settings.
        first: Tokens trained before the step.
        last: Tokens trained after it.
        budget: Tokens of the trial.

    Returns:
        The learning rate.
    """
    now = (first + last) / 2
    warmup = min(1.0, now / train.warmup_tokens) if train.warmup_tokens else 1.0
    return train.learning_rate * warmup * _decay(train, now, budget)


def _decay(train: TrainSpec, now: float, budget: int) -> float:
    low = train.min_lr_ratio
    if train.schedule == "cosine" and budget > train.warmup_tokens:
        share = (now - train.warmup_tokens) / (budget - train.warmup_tokens)
        return low + (1 - low) * (1 + math.cos(math.pi * min(1.0, max(0.0, share)))) / 2
    if train.schedule == "wsd":
        start = budget * (1 - train.cooldown)
        share = max(0.0, (now - start) / (budget - start))
        return 1 - (1 - low) * (share if train.cooldown_shape == "linear" else math.sqrt(share))
    return 1.0


def trunk_steps(train: TrainSpec, budget: Budget) -> int:
    """Count the leading steps of a wsd budget that any larger budget takes too: full ones before the decay.

    Args:
        train: The settings.
        budget: The budget.

    Returns:
        The number of steps; at least one step of the budget is left.
    """
    length, stable = budget.step_tokens, budget.tokens * (1 - train.cooldown)
    steps = min(int(stable / length + 0.5), budget.tokens // length, budget.steps - 1)
    while steps > 0 and _decay(train, (steps - 0.5) * length, budget.tokens) != 1.0:
        steps -= 1  # rounding: the schedule itself has the last word
    return max(0, steps)
