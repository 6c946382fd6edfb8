"""`rayscale node-resources`: the names under which a node advertises its devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.cli import run_command
from rayscale.cluster.node import node_resources


def test_a_node_without_gpus_names_cpu_slots_by_its_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert node_resources(2, "rack_1") == {"cpu:rack-1-0": 1, "cpu:rack-1-1": 1}
    assert run_command(["node-resources", "--host", "n1"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cpu:n1-0": 1}


def test_gpus_are_named_by_uuid_whatever_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real binding, with the simulated NVML library that the energy tests compile."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "energy"))
    import native_nvml

    script, uuids = tmp_path / "gpus.txt", [f"GPU-5afe0000-1111-2222-3333-44445555000{index}" for index in range(3)]
    script.write_text("".join(f"gpu {uuid} Simulated-A10G 8\npower 0 60\n" for uuid in uuids), encoding="utf-8")
    environment = native_nvml.environment(native_nvml.build(tmp_path / "library"), script)

    def resources(**visible: str) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-m", "rayscale.cli", "node-resources"],
            env=environment | visible,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=os.fspath(tmp_path),
        )
        return dict(json.loads(done.stdout))

    assert resources() == {f"gpu:{uuid}": 1 for uuid in uuids}
    hidden = resources(CUDA_VISIBLE_DEVICES="2,0", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert hidden == {f"gpu:{uuids[2]}": 1, f"gpu:{uuids[0]}": 1}
