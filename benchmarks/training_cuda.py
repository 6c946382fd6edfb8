"""TinyLlama-1.1B on one GPU: tokens/s, MFU, peak memory, J per token and start, for several micro-batches and ways.

Every cell is a process forked from a server that holds torch and transformers, as a slot's trials are: `start` is the
time from the fork to the first measured step, model, compilation and warm-up included. Ways:

    eager                transformers as shipped: SDPA, cross entropy over fp32 logits
    compile as shipped   the same under torch.compile
    rayscale             a session as trials open it, not compiled
    rayscale compiled    the same, block by block; the second time from the warm cache

Run by `python -m benchmarks.training --device cuda`. What no longer fits into `LIMIT_S` is left out, and said so.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rayscale.energy.devices import GpuDevice, gpu_devices
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import SweepSpec
from rayscale.spec.trial import PRESETS

LIMIT_S = 570.0
SLOWEST_CELL_S = {"eager": 25.0, "compile as shipped": 100.0, "rayscale": 25.0, "rayscale compiled": 60.0}
"""A cell is only begun if so much time is left. Units: s."""
WARM_STEPS = 3


@dataclass(frozen=True)
class Task:
    """One cell.

    Attributes:
        way: How to train.
        micro_batch: Rows per step.
        device: `cuda` (or `cpu`, to try the code out).
        config: Fields of the Llama config.
        length: T.
        tokens: Tokens to measure.
        cache: Where data and compiled kernels are kept.
        deterministic: `train.deterministic` of rayscale's ways.
    """

    way: str
    micro_batch: int
    device: str = "cuda"
    config: Any = None
    length: int = 2048
    tokens: int = 300_000
    cache: str = ""
    deterministic: bool = True

    @property
    def steps(self) -> int:
        """Measured steps."""
        return max(4, round(self.tokens / (self.micro_batch * self.length)))

    @property
    def label(self) -> str:
        """Name of the row."""
        return self.way if self.deterministic else f"{self.way}, deterministic off"


@dataclass(frozen=True)
class Cell:
    """What one cell gave.

    Attributes:
        tokens_per_s: Throughput.
        mfu: Share of the device's dense bf16 peak; None if that is unknown.
        peak_bytes: Most memory that tensors held; None on a CPU.
        planned_bytes: The memory planner's sum; None for others' loops.
        joules_per_token: From the energy counter; None without one.
        first_step_at: CLOCK_MONOTONIC of the first measured step.
        compile_s: Time to compile, or to load what was compiled before.
    """

    tokens_per_s: float
    mfu: float | None
    peak_bytes: int | None
    planned_bytes: int | None
    joules_per_token: float | None
    first_step_at: float
    compile_s: float


class Meter:
    """Time and energy of some steps."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.synchronize()
        self._joules, self.begin = self._counter(), time.monotonic()

    def _counter(self) -> float | None:
        """Read the energy counter. Units: J."""
        if not self._cuda:
            return None
        import torch

        from rayscale.energy.devices import nvml_session

        with nvml_session() as nvml:
            try:
                handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
                return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
            except nvml.NVMLError:
                return None

    def stop(self) -> tuple[float, float | None]:
        """Wait for the device; return seconds and joules."""
        import torch

        if self._cuda:
            torch.cuda.synchronize()
        seconds, joules = time.monotonic() - self.begin, self._counter()
        return seconds, None if joules is None or self._joules is None else joules - self._joules


def run_cell(task: Task) -> Cell:
    """Train one cell in this process.

    Args:
        task: What to train.

    Returns:
        Its figures.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{task.cache}/inductor"  # cold at first, whatever the user has compiled
    return _ours(task) if task.way.startswith("rayscale") else _shipped(task)


def _spec(task: Task) -> SweepSpec:
    compiled = "on" if task.way.endswith("compiled") else "off"
    train = {"batch_size": task.micro_batch, "precision": "bf16", "compile": compiled, "warmup_steps": WARM_STEPS}
    tokens = task.steps * task.micro_batch * task.length
    tree = {
        "name": "benchmark",
        "design": {"factors": {"tokens": [tokens]}, "repetitions": 1},
        "model": {"config": dict(task.config)},
        "data": {
            "synthetic": {"kind": "zipf", "vocab_size": 32000, "tokens": max(20_000, 4 * tokens)},
            "sequence_length": task.length,
        },
        "train": {**train, "log_every": 3600, "deterministic": task.deterministic},
        "eval": {"tokens": task.length, "batch_size": 1},
    }
    return SweepSpec.model_validate(tree)


def _ours(task: Task) -> Cell:
    from rayscale.training.data import prepare
    from rayscale.training.session import open_session

    spec = _spec(task)
    data, tokens = prepare(spec, Path(task.cache)), int(spec.design.factors["tokens"][0])
    session = open_session(spec, data, tokens=tokens, seed=0, repetition=0, device=task.device)
    session.warmup()
    meter = Meter(task.device)
    session.train(lambda _: None)
    seconds, joules = meter.stop()
    planned = session.setup.need.total(task.micro_batch) if session.setup.need else None
    return _cell(task, tokens, seconds, joules, meter.begin, planned, session.compile_s)


def _shipped(task: Task) -> Cell:
    """Train as a plain script would."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {name: value for name, value in task.config.items() if name != "model_type"}
    with torch.device(task.device):
        model = LlamaForCausalLM(LlamaConfig(**fields, use_cache=False)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if task.way.startswith("compile") else model
    stream = torch.randint(0, 32000, (task.micro_batch, task.length + 1), device=task.device)

    def step() -> None:
        with torch.autocast(task.device, dtype=torch.bfloat16):
            logits = run(input_ids=stream[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), stream[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.monotonic()
    step()
    if task.device == "cuda":
        torch.cuda.synchronize()
    first_s = time.monotonic() - start
    for _ in range(WARM_STEPS - 1):
        step()
    meter = Meter(task.device)
    for _ in range(task.steps):
        step()
    seconds, joules = meter.stop()
    compile_s = first_s if run is not model else 0.0
    return _cell(task, task.steps * task.micro_batch * task.length, seconds, joules, meter.begin, None, compile_s)


def _cell(
    task: Task, tokens: int, seconds: float, joules: float | None, begin: float, planned: int | None, compile_s: float
) -> Cell:
    import torch

    from rayscale.training.flops import shape_from_config, training_flops
    from rayscale.training.peaks import peak_tflops

    cuda = task.device == "cuda"
    peak = peak_tflops(torch.cuda.get_device_name(0), "bf16") if cuda else None
    flops = training_flops(shape_from_config(task.config, 32000), tokens, task.length)
    return Cell(
        tokens_per_s=tokens / seconds,
        mfu=flops / seconds / (peak * 1e12) if peak else None,
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else None,
        planned_bytes=planned,
        joules_per_token=None if joules is None else joules / tokens,
        first_step_at=begin,
        compile_s=compile_s,
    )


def tasks(**common: Any) -> Iterator[Task]:
    """List the cells: the most telling first, since the last may not fit the time."""
    for micro in (8, 16, 32):
        for way in ("rayscale", "eager", "rayscale compiled"):
            yield Task(way, micro, **common)
    yield Task("rayscale compiled", 8, **common)
    yield Task("rayscale", 8, deterministic=False, **common)
    for micro in (8, 16, 32):
        yield Task("compile as shipped", micro, **common)


def describe(task: Task, cell: Cell, forked_at: float) -> str:
    """Write one row of the table."""

    def text(value: float | None, form: str) -> str:
        return "n/a" if value is None else format(value, form)

    memory = text(None if cell.peak_bytes is None else cell.peak_bytes / 1e9, ".1f")
    planned = text(None if cell.planned_bytes is None else cell.planned_bytes / 1e9, ".1f")
    energy = text(cell.joules_per_token, ".5f")
    start = cell.first_step_at - forked_at
    return (
        f"{task.label:<30}{task.micro_batch:>6}{cell.tokens_per_s:>12,.0f}{text(cell.mfu, '.1%'):>8}"
        f"{memory:>9}{planned:>9}{energy:>10}{start:>9.1f}{cell.compile_s:>10.1f}"
    )


def run_all(
    every: Iterable[Task],
    call: Callable[[Callable[[Task], Cell], Task], Cell],
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the cells one after the other and print a row for each.

    Args:
        every: The cells.
        call: Runs a function on a cell, in a process of its own.
        limit_s: Time for all of them; a cell that might not end within it is not begun. Units: s.
        clock: CLOCK_MONOTONIC, which all processes share. Units: s.
    """
    begin = clock()
    print(f"{'':<30}{'rows':>6}{'tokens/s':>12}{'MFU':>8}{'peak GB':>9}{'planned':>9}{'J/token':>10}{'start s':>9}"
          f"{'compile s':>10}", flush=True)  # fmt: skip
    for task in every:
        if clock() - begin + SLOWEST_CELL_S[task.way] > limit_s:
            print(f"{task.label:<30}{task.micro_batch:>6}  left out: no time left", flush=True)
            continue
        forked_at = clock()
        try:
            row = describe(task, call(run_cell, task), forked_at)
        except Exception as error:
            row = f"{task.label:<30}{task.micro_batch:>6}  failed: {type(error).__name__}: {str(error)[:60]}"
        print(row, flush=True)


def obstacle(devices: Callable[[], list[GpuDevice]] = gpu_devices) -> str | None:
    """Tell why the benchmark cannot run on this machine.

    Args:
        devices: Lists the visible GPUs.

    Returns:
        One line; None if it can.
    """
    try:
        found = devices()
    except EnvironmentUnusableError as error:
        return str(error)
    if not found:
        return "no NVIDIA GPU is visible, so there is no CUDA; expected one"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use CUDA on the {found[0].name}; expected its CUDA build and a driver"
    return None


def run_on_gpu() -> int:
    """Run the benchmark on the first visible GPU.

    Returns:
        Exit code: 0, or 3 without a usable GPU.
    """
    from rayscale.environment import versions
    from rayscale.sweep.forkserver import ForkServer
    from rayscale.training.preload import PRELOAD

    problem = obstacle()
    if problem:
        print(f"benchmarks.training: {problem}", file=sys.stderr)
        return 3
    gpu = gpu_devices()[0]
    software = f"torch {versions()['torch']}, transformers {versions()['transformers']}"
    print(f"{date.today()}  {gpu.name}, driver {gpu.driver}; {software}; TinyLlama-1.1B, T 2048, bf16")
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as cache:
        begin = time.monotonic()
        forks = ForkServer(["benchmarks.training_cuda", *PRELOAD])
        forks.missing()  # starts the server
        run_all(
            tasks(config=dict(PRESETS["tinyllama-1.1b"]), cache=cache), forks.call, LIMIT_S - (time.monotonic() - begin)
        )
    return 0
