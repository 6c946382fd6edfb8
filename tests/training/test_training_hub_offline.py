"""The hub's client lets its HTTP library's own errors through; a hub that is out of reach must not be a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

ASK = """
from rayscale.spec import DataSpec
from rayscale.training.hub import DatasetSource
print("revision", DatasetSource(DataSpec(dataset="nobody/nothing", sequence_length=8)).revision)
"""


def test_the_commit_of_an_unreachable_dataset_is_unknown() -> None:
    """Seen offline: huggingface_hub raised httpx's ConnectError, which is no OSError, through `rayscale run`."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.strip() == "revision None"
