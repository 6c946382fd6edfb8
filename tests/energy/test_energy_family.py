"""CPU time of a trial of several processes: each counts once, from the edge at which it is first seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.energy.estimated import EstimatedReader, FamilyClock, process_cpu_seconds

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
BURN += "print('x', flush=True)\ninput()"


def test_a_child_counts_from_the_edge_that_finds_it() -> None:
    used, children = {1: 10.0, 2: 3.0, 3: 4.0}, {1: [2]}
    clock = FamilyClock(used.get, lambda pid: children.get(pid, []))
    assert clock(1) == 10.0
    clock.look(1)
    assert clock(1) == 13.0
    children[1].append(3)
    assert clock(1) == 13.0  # polls do not look for children
    clock.look(1)
    clock.look(1)
    assert clock(1) == 17.0


def test_a_child_that_has_ended_keeps_its_time_and_the_sampler_has_none() -> None:
    used = {1: 1.0, 2: 5.0, os.getpid(): 100.0}
    clock = FamilyClock(used.get, lambda _: [2, os.getpid()])
    clock.look(1)
    assert clock(1) == 6.0
    del used[2]
    used[1] = 2.0
    assert clock(1) == 7.0
    del used[1]
    assert clock(1) is None  # without the trial there is nothing to read


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10)), max_size=30))
def test_the_clock_never_goes_back(steps: list[tuple[int, float]]) -> None:
    used = dict.fromkeys(range(4), 0.0)
    clock, before = FamilyClock(used.get, lambda _: [1, 2, 3]), 0.0
    for pid, more in steps:
        used[pid] += more
        clock.look(0)
        now = clock(0)
        assert now is not None
        assert now >= before
        assert now == pytest.approx(sum(used.values()))
        before = now


def test_the_reader_counts_a_real_child_once() -> None:
    """A trial's process that sleeps while its child works: all the energy above idle is the child's."""
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(0.4)!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the child has worked, and waits
        reader = EstimatedReader(process.pid, idle_w=0.0, w_per_cpu=10.0)
        alone, both = reader.read(), reader.read_edge()
        own = process_cpu_seconds(process.pid)
        time.sleep(0.05)
        again = reader.read_edge()
        process.communicate(b"\n")
    assert alone.energy_j is not None
    assert both.energy_j is not None
    assert own is not None
    assert alone.energy_j == pytest.approx(10.0 * own, abs=0.1)
    assert 4.0 <= both.energy_j - alone.energy_j < 8.0  # 0.4 s and the interpreter's start, at 10 W
    assert again.energy_j == pytest.approx(both.energy_j, abs=0.1)
