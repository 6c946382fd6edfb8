"""rayscale: the instrument for token-scale studies of language-model training."""

from __future__ import annotations

__version__ = "0.1.0"
