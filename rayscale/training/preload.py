"""What a fork server imports once, so that a trial's process starts with it in memory.

Importing these neither initialises CUDA nor starts a thread pool: OpenMP threads would be lost in a fork, and a CUDA
context cannot cross one.
"""

from __future__ import annotations

PRELOAD: list[str] = [
    "numpy",
    "torch",
    "torch.optim.adamw",
    "torch.utils.deterministic",
    "transformers",
    "transformers.models.auto.configuration_auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.configuration_llama",
    "transformers.models.llama.modeling_llama",
    "transformers.integrations.sdpa_attention",
    "rayscale.training.session",
]
"""Modules in the order of import."""
