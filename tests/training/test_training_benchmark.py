"""`python -m benchmarks.training`: what needs no GPU to be known of the GPU part, and that ways compare alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import training, training_cuda
from benchmarks.training_cuda import LIMIT_S, SLOWEST_CELL_S, Cell, Task, obstacle, run_all, run_cell, tasks
from benchmarks.training_loops import Span
from rayscale.errors import EnvironmentUnusableError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 32000,
}


def test_without_cuda_it_says_so_and_ends_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--device", "cuda"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert training.main() == 3
    assert "there is no CUDA" in capsys.readouterr().err


def test_a_gpu_that_cannot_be_used_is_named() -> None:
    def refused() -> list[object]:
        raise EnvironmentUnusableError("GPU 0 is in MIG mode")

    assert obstacle(refused) == "GPU 0 is in MIG mode"  # type: ignore[arg-type]


class Machine:
    """Cells that take all the time they may; a clock."""

    def __init__(self, share: float) -> None:
        self.now, self.share, self.ran = 0.0, share, [Task("", 0)][:0]

    def clock(self) -> float:
        return self.now

    def call(self, function: Callable[[Task], Cell], task: Task) -> Cell:
        self.ran.append(task)
        self.now += self.share * SLOWEST_CELL_S[task.way]
        if task.micro_batch == 32:
            raise MemoryError("out of memory")
        return Cell(1000.0, 0.5, 10**9, 10**9, 0.01, self.now, 1.0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_all_cells_end_within_ten_minutes_and_a_failure_costs_its_row_only(
    share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    machine, every = Machine(share), list(tasks(config=CONFIG))
    run_all(every, machine.call, clock=machine.clock)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert machine.now <= LIMIT_S < 600
    assert len(rows) == len(every)
    assert sum("left out" in row for row in rows) == len(every) - len(machine.ran)
    assert all("failed: MemoryError" in row for row in rows if row.split()[-1] == "memory")
    assert machine.ran[0].label == "rayscale"
    assert (len(machine.ran) == len(every)) == (share == 0.5)


def test_the_cells_are_the_ways_and_micro_batches_of_the_goal() -> None:
    found = {(task.way, task.micro_batch) for task in tasks(config=CONFIG)}
    assert found == {(way, rows) for way in SLOWEST_CELL_S for rows in (8, 16, 32)}
    warm = [task for task in tasks(config=CONFIG) if task.label == "rayscale compiled" and task.micro_batch == 8]
    assert len(warm) == 2  # cold, then from the cache
    assert any(not task.deterministic for task in tasks(config=CONFIG))  # the price of the deterministic mode


@pytest.mark.parametrize("way", ["rayscale", "eager"])
def test_a_cell_runs_without_a_gpu_too(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    task = Task(way, 2, device="cpu", config=CONFIG, length=16, tokens=64, cache=str(tmp_path))
    cell = run_cell(task)
    assert task.steps == 4
    assert cell.tokens_per_s > 0
    assert (cell.mfu, cell.peak_bytes, cell.joules_per_token) == (None, None, None)
    assert "n/a" in training_cuda.describe(task, cell, cell.first_step_at - 1.0)


class Constant:
    """A way whose steps take as long as it says."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.rounds = name, seconds, 0

    def round(self, steps: int) -> Span:
        self.rounds += 1
        return Span(2 * self.seconds, self.seconds * (1 + self.rounds % 2))  # the machine's speed changes for all


def test_ways_take_turns_and_their_ratio_is_within_rounds() -> None:
    ways = [Constant("a", 1.0), Constant("b", 1.5)]
    found = training.interleaved(ways, 10, 5)
    assert [len(spans) for spans in found.values()] == [5, 5]  # the first round of each is not counted
    assert training.ratio(found["b"], found["a"]) == pytest.approx((1.5, 1.5, 1.5))
