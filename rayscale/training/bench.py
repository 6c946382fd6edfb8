"""How fast the device multiplies matrices: the yardstick that relates efficiency to what the hardware can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tflops_bench(device: str, threads: int) -> float:
    """Measure the rate of a dense matrix product: fp32 on a CPU, bf16 on a GPU; the best of several.

    Units: TFLOP/s.

    Args:
        device: `cpu`, `cuda` or `cuda:<index>`.
        threads: CPU threads to use; the process's own number is put back.

    Returns:
        2·n³ / time.
    """
    import torch

    if device.startswith("cuda"):
        matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        return _rate(matrix, lambda: torch.cuda.synchronize(matrix.device), 10)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _rate(torch.randn(768, 768), lambda: None, 8)
    finally:
        torch.set_num_threads(before)


def together_rate(gpus: int, threads: int) -> float:
    """Measure all devices of a trial, one after the other.

    Units: TFLOP/s.

    Args:
        gpus: Number of visible GPUs that it trains on; 0: the CPU.
        threads: CPU threads of all its processes together.

    Returns:
        The sum of their rates.
    """
    return sum(tflops_bench(f"cuda:{index}", threads) for index in range(gpus)) or tflops_bench("cpu", threads)


def _rate(matrix: torch.Tensor, synchronize: Callable[[], None], repeats: int) -> float:
    import torch

    out, best = torch.empty_like(matrix), float("inf")
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * matrix.shape[0] ** 3 / best / 1e12
