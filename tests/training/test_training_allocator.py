"""Freed memory stays with the process: using it again costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource
from rayscale.training.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
bytearray(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    for size in (2**23, 2**26):
        bytearray(size)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> tuple[bool, int]:
    done = subprocess.run([sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return bool(int(kept)), int(count)


def test_freed_memory_is_used_again_without_page_faults() -> None:
    kept, few = faults(keep=True)
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults(keep=False)
    pages = 2**26 // 4096
    assert few < 2 * pages  # what had never been mapped
    assert many > 3 * few
