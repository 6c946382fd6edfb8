"""Being on time: real-time scheduling of one thread where it is permitted, and a plain answer where it is not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

from rayscale.energy.punctual import be_punctual, keep_garbage_collection_short, real_time_allowed

PROBE = """
import os, resource
from rayscale.energy.punctual import be_punctual, real_time_allowed
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(real_time_allowed(), be_punctual(), os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


def test_only_the_thread_that_asks_is_changed() -> None:
    seen: list[tuple[bool, int]] = []
    thread = threading.Thread(target=lambda: seen.append((be_punctual(), os.sched_getscheduler(0))))
    thread.start()
    thread.join()
    granted, policy = seen[0]
    in_real_time = policy & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    assert granted == in_real_time == real_time_allowed()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_without_permission_the_thread_stays_ordinary() -> None:
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False", "True"]


def test_what_is_imported_is_left_out_of_garbage_collection() -> None:
    before = gc.get_freeze_count()
    try:
        keep_garbage_collection_short()
        assert gc.get_freeze_count() > max(before, 1000)
    finally:
        gc.unfreeze()
