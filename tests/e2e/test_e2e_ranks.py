"""A slot of two GPUs under Ray: both are claimed, sampled side by side, and what goes wrong is told once.

The GPUs are simulated (a libnvidia-ml that answers from a script), so the trial itself ends where torch looks for one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny import TINY

from rayscale.energy.trace import read_trace

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("RAYSCALE_CLUSTER_TEST" not in os.environ, reason="takes 20 s: RAYSCALE_CLUSTER_TEST=1"),
]

A, B = "GPU-aaaa0000-1111-2222-3333-444455556666", "GPU-bbbb0000-1111-2222-3333-444455556666"
CHANGES = (
    ("gpus: 0, cpus: 1", "gpus: 2, cpus: 2, max_attempts: 1"),
    ("[512, 1024]", "[512]"),
    ("repetitions: 2", "repetitions: 1"),
)


def test_a_slot_of_two_gpus_samples_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "energy"))
    native: ModuleType = __import__("native_nvml")
    script, text = tmp_path / "gpus.txt", TINY
    script.write_text(f"gpu {A} Simulated-H100 9\npower 0 60\ngpu {B} Simulated-H100 9\npower 0 80\n")
    for old, new in CHANGES:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "rayscale.cli", "run", "tiny.yaml", "--json"],
        cwd=tmp_path,
        env=native.environment(native.build(tmp_path / "nvml"), script),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "starting Ray and 1 trial slot (" in done.stderr
    (failure,) = json.loads(done.stdout)["failed"].values()
    assert (failure["reason"], "no usable NVIDIA GPU" in failure["detail"]) == ("bad_input", True)
    (attempt,) = (tmp_path / "results" / "tiny").glob("trials/*/attempt-1")
    parts = [read_trace(attempt / f"power-{index}") for index in range(2)]
    assert [trace.meta.device_uuid for trace in parts] == [A, B]
    assert [round(float(trace.power_w[-1])) for trace in parts] == [60, 80]
    whole = read_trace(attempt)
    assert whole.meta.device_uuid == f"{A}+{B}"
    assert round(float(whole.power_w[-1])) == 140
