"""Memory that a trial has freed stays with it, so that the next step finds its pages mapped.

A step on a CPU allocates and frees the same activations again and again, a few MB each. By default glibc hands such
blocks back to the kernel, which then has to map and clear every page of them anew: some thousand page faults a step, on
a virtual machine 3 to 12 µs each. A trial's process lives for one trial, so it keeps what it has had; its peak of
memory does not grow, only the valleys between are filled.
"""

from __future__ import annotations

import ctypes

# glibc, malloc.h; the C library checks them, so an unknown one does nothing.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library of this process to keep what is freed.

    Returns:
        Whether it will; False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Large blocks come from the heap too (no mapping of their own), and the heap's end is never given back.
    return all(mallopt(option, value) == 1 for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)))
