from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest
from ledgers import make_ledger

from rayscale.tracking.guard import GuardedMirror
from rayscale.tracking.mirror import Mirror


@dataclass
class FakeMirror:
    """Records calls; raises what stands in `fails`, once per entry; waits at `gate` if there is one."""

    fails: list[Exception] = field(default_factory=list)
    gate: threading.Event | None = None
    calls: list[tuple[str, object]] = field(default_factory=list)

    def _call(self, name: str, argument: object = None) -> None:
        if self.gate is not None:
            self.gate.wait(10)
        self.calls.append((name, argument))
        if self.fails:
            raise self.fails.pop(0)

    def ensure_plan(self, plan):
        self._call("ensure_plan", plan)

    def trial_started(self, trial_key, attempt):
        self._call("trial_started", (trial_key, attempt))

    def trial_finished(self, trial_key):
        self._call("trial_finished", trial_key)

    def summaries(self, analysis_tree):
        self._call("summaries", analysis_tree)

    def attach(self, paths):
        self._call("attach", list(paths))

    def close(self, status):
        self._call("close", status)

    def sync(self):
        self._call("sync")


def names(mirror: FakeMirror) -> list[str]:
    return [name for name, _ in mirror.calls]


def test_everything_is_passed_on_in_order_and_nothing_is_said():
    mirror, told = FakeMirror(), []
    guard = GuardedMirror(mirror, told.append)
    guard.trial_started("k", 1)
    guard.trial_finished("k")
    guard.summaries({"results": {}})
    guard.attach([])
    guard.close("FINISHED")
    assert guard.finish(5)
    assert names(mirror) == ["trial_started", "trial_finished", "summaries", "attach", "close"]
    assert told == []


def test_failures_are_told_once_per_kind_and_a_final_sync_catches_up():
    now = [0.0]
    mirror, told = FakeMirror(fails=[ConnectionError("no route\nto host")]), []
    guard = GuardedMirror(mirror, told.append, clock=lambda: now[0])
    for index in range(20):
        guard.trial_finished(f"k{index}")
    assert guard.finish(5)
    assert names(mirror) == ["trial_finished", "sync"]  # one try, then left alone, then the last try
    assert told == ["MLflow mirror is behind (the sweep goes on): no route"]


def test_after_the_back_off_a_sync_stands_for_what_was_dropped():
    now = [0.0]
    mirror, told = FakeMirror(fails=[OSError("down")]), []
    guard = GuardedMirror(mirror, told.append, clock=lambda: now[0])
    guard.trial_finished("a")
    guard.trial_finished("dropped")
    _until(lambda: guard._tasks.empty() and len(mirror.calls) == 1)
    now[0] = 31.0
    guard.trial_finished("b")
    guard.trial_finished("c")
    assert guard.finish(5)
    assert mirror.calls == [("trial_finished", "a"), ("sync", None), ("trial_finished", "c")]


def test_a_mirror_that_stays_down_is_named_at_the_end():
    mirror, told = FakeMirror(fails=[OSError("down")] * 9), []
    guard = GuardedMirror(mirror, told.append)
    guard.ensure_plan(None)
    assert not guard.finish(5)
    assert len(told) == 2
    assert "rayscale sync" in told[-1]


def test_a_mirror_that_hangs_delays_nobody():
    gate, told = threading.Event(), []
    guard = GuardedMirror(FakeMirror(gate=gate), told.append)
    start = time.monotonic()
    for index in range(100):
        guard.trial_finished(str(index))
    assert time.monotonic() - start < 1
    assert not guard.finish(0.1)
    assert "did not finish within 0 s" in told[0]
    gate.set()


def test_an_unreachable_server_is_soon_known_and_stalls_nothing(tmp_path):
    ledger = make_ledger(tmp_path, repetitions=1)
    told: list[str] = []
    guard = GuardedMirror(Mirror(ledger, "http://127.0.0.1:1"), told.append)
    start = time.monotonic()
    guard.ensure_plan(ledger.read_plan())
    for trial in ledger.read_plan().trials:
        guard.trial_started(trial.trial_key, 1)
        guard.trial_finished(trial.trial_key)
    assert time.monotonic() - start < 1
    assert not guard.finish(60)
    assert time.monotonic() - start < 30
    assert told[0].startswith("MLflow mirror is behind (the sweep goes on): MLflow at http://127.0.0.1:1: ")
    assert "rayscale sync" in told[-1]


def test_a_refused_uri_is_said_and_stalls_nothing(tmp_path):
    ledger, told = make_ledger(tmp_path, repetitions=1), []
    guard = GuardedMirror(Mirror(ledger, "file:///tmp/mlruns"), told.append)
    guard.ensure_plan(ledger.read_plan())
    assert not guard.finish(10)
    assert "file store" in told[0]


def _until(condition, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("timed out")
        time.sleep(0.005)
