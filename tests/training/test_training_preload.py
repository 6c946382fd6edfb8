from __future__ import annotations

import json
import subprocess
import sys

import torch

from rayscale.training.bench import tflops_bench

PRELOADED = """
import importlib, json, os, sys
from rayscale.training.preload import PRELOAD
for name in PRELOAD:
    importlib.import_module(name)
import torch
openmp = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
loaded = set(sys.modules)
reader, writer = os.pipe()
if os.fork() == 0:
    # The child must be able to start its own threads and find all modules of a trial in memory.
    torch.set_num_threads(2)
    value = float((torch.ones(600, 600) @ torch.ones(600, 600)).sum())
    from rayscale.training.model import random_config
    from rayscale.spec import SweepSpec
    spec = SweepSpec.model_validate(json.loads(sys.argv[1]))
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_config(random_config(spec, 64))
    new = sorted(set(sys.modules) - loaded)
    os.write(writer, json.dumps([value, new]).encode())
    os._exit(0)
os.wait()
print(json.dumps([torch.cuda.is_initialized(), *json.loads(os.read(reader, 10**6))]))
"""


def test_a_fork_of_the_preloaded_server_can_work_at_once() -> None:
    spec = {
        "name": "x",
        "design": {"factors": {"tokens": [10]}, "repetitions": 1},
        "model": {"config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}},
        "data": {"synthetic": {}, "sequence_length": 16},
    }
    command = [sys.executable, "-c", PRELOADED, json.dumps(spec)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    initialised, value, new = json.loads(found.stdout)
    assert not initialised
    assert value == 600.0**3
    heavy = [name for name in new if name.startswith(("torch.", "transformers.models"))]
    assert len(heavy) < 5, heavy


def test_bench_gives_a_believable_rate_and_puts_threads_back() -> None:
    before = torch.get_num_threads()
    rate = tflops_bench("cpu", 1)
    assert 1e-4 < rate < 20
    assert torch.get_num_threads() == before
