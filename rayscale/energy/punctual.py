"""Being on time: what a thread that polls on a schedule can ask of the kernel and of the interpreter.

A poll that comes late is not wrong (it carries its own time), but it widens what an edge or a step leaves open. On an
idle machine nothing here is needed; beside a training that keeps every CPU busy, an ordinary thread waits for its turn
some milliseconds, a real-time one does not. It sleeps 99.8 % of the time, so it takes nothing from the training.
"""

from __future__ import annotations

import ctypes
import gc
import os
from concurrent.futures import ThreadPoolExecutor

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1_000
_PRIORITY = 1
"""The lowest real-time priority: above every ordinary thread, below whatever else the system runs so."""


def be_punctual() -> bool:
    """Have the calling thread woken on time: least timer slack, real-time scheduling.

    Returns:
        Whether it runs in real time; False where that is not permitted (it usually needs root or CAP_SYS_NICE).
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
        # 0 is the calling thread, not the process; RESET_ON_FORK keeps children ordinary
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except (AttributeError, OSError):
        return False
    return True


def real_time_allowed() -> bool:
    """Tell whether a sampler started by this process would run in real time; tried on a thread that ends at once."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(be_punctual).result()


def keep_garbage_collection_short() -> None:
    """Take what has been imported out of garbage collection: a full round over it would hold up a poll by 10s of ms."""
    gc.freeze()
