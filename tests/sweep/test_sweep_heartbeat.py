"""The heartbeat between two real processes: it beats, it falls silent, it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rayscale.sweep.heartbeat import Heartbeat, beating

BEATER = """
import sys, time
from rayscale.sweep.heartbeat import beating
beat = beating(sys.argv[1])
print("ready", flush=True)
while True:
    beat(time.monotonic())
    time.sleep(0.01)
"""


def test_a_stopped_process_falls_silent_and_is_heard_again_when_it_goes_on() -> None:
    heartbeat = Heartbeat()
    command = [sys.executable, "-c", BEATER, heartbeat.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.2)
            assert heartbeat.age_s() < 0.15
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            assert heartbeat.age_s() > 0.4
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.3)
            assert heartbeat.age_s() < 0.2
        finally:
            process.kill()
    heartbeat.close()


def test_it_beats_once_when_it_is_made_or_reset() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.age_s() < 0.1
    beating(heartbeat.path)(time.monotonic() - 5)
    assert heartbeat.age_s() == pytest.approx(5, abs=0.1)
    heartbeat.reset()
    assert heartbeat.age_s() < 0.1
    heartbeat.close()


def test_nobody_beats_for_a_listener_that_is_gone() -> None:
    heartbeat = Heartbeat()
    heartbeat.close()
    with pytest.raises(OSError, match="No such file"):
        beating(heartbeat.path)
