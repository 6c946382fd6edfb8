"""What needs an NVIDIA GPU; skips with its reason elsewhere. The same trial, on the device, measured by NVML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.energy.reader import gpu_devices
from rayscale.errors import RayscaleError
from rayscale.record import Record


def visible() -> int:
    try:
        return len(gpu_devices())
    except RayscaleError:
        return 0


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(visible() == 0, reason="no NVIDIA GPU is visible here")]


def test_one_trial_on_the_gpu_is_measured_by_nvml(tmp_path: Path) -> None:
    sweep = tmp_path / "gpu.yaml"
    text = TINY.replace("gpus: 0", "gpus: 1").replace("tokens: [512, 1024]", "tokens: [16_384]")
    sweep.write_text(text.replace("tokens: 20_000", "tokens: 60_000").replace("idle: 40ms", "idle: 2s"))
    command = [
        sys.executable,
        "-m",
        "rayscale.trial",
        "--sweep",
        str(sweep),
        "--tokens",
        "16384",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    record = Record.from_json((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record.training.trained_tokens == 16_384
    assert record.device.kind == "cuda"
    assert record.device.uuid == gpu_devices()[0].uuid
    assert record.energy.source == "nvml"
    assert not record.energy.estimated
    assert record.energy.phases["idle"].mean_w
