"""The ledger: atomic, resumable, locked by one run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ledgers import make_ledger

from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import Failure, Ledger
from rayscale.record import Record, flatten
from rayscale.spec import SweepSpec
from rayscale.storage import LocalStorage

HOLD = """
import sys, time
from rayscale.ledger import Ledger
with Ledger(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_plan_comes_back_as_it_was(tmp_path: Path, tiny_spec: SweepSpec) -> None:
    ledger, plan = Ledger(tmp_path / "tiny"), plan_sweep(tiny_spec)
    ledger.write_plan(plan, {"versions": {}})
    assert [trial.trial_key for trial in ledger.read_plan().trials] == [trial.trial_key for trial in plan.trials]


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path / "made")
    record = ledger.records()[0]
    again = Record.from_json(record.to_json())
    assert again == record
    assert flatten(again) == flatten(record)


def test_the_row_has_the_columns_of_the_contract(tmp_path: Path) -> None:
    columns = set(flatten(make_ledger(tmp_path / "made").records()[0]))
    contract = """trial_key tokens repetition run_order seed device_uuid device_name duration_s import_s build_s
        compile_s warmup_s eval_s steps trained_tokens processed_tokens params train_loss eval_loss perplexity
        tokens_per_s flops mfu energy_method energy_j net_energy_j energy_counter_j energy_integral_j power_mean_w
        power_rms_w idle_w power_samples coverage temp_start_c temp_end_c verdict reasons attempts started_at"""
    assert set(contract.split()) <= columns


def test_writes_are_whole_or_not_at_all(tmp_path: Path) -> None:
    """A writer killed at any moment leaves the old content or the new, never a part of it."""
    storage = LocalStorage(tmp_path)
    old, new = b"a" * 3_000_000, b"b" * 3_000_000
    storage.write("file", old)
    script = (
        "import sys, pathlib; from rayscale.storage import LocalStorage; s = LocalStorage(pathlib.Path(sys.argv[1]))\n"
        "print('go', flush=True)\nwhile True: s.write('file', b'b' * 3_000_000)"
    )
    for delay in (0.0, 0.003, 0.01):
        writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.wait()
        assert storage.read("file") in (old, new)


def test_status_counts_every_state(tmp_path: Path, tiny_spec: SweepSpec) -> None:
    ledger, plan = Ledger(tmp_path / "tiny"), plan_sweep(tiny_spec)
    ledger.write_plan(plan, {})
    first, second = plan.trials[0].trial_key, plan.trials[1].trial_key
    ledger.write_failure(first, ledger.new_attempt(first), Failure("diverged", "loss is nan", "now"))
    assert ledger.new_attempt(first) == 2
    ledger.write_failure(first, 2, Failure("killed", "signal 9", "now"))
    ledger.new_attempt(second)
    status = ledger.status(plan)
    assert (status.planned, status.failed, status.running, status.pending) == (4, 1, 0, 3)
    assert status.attempts == 3
    assert ledger.failure(first, 2) == Failure("killed", "signal 9", "now")
    with ledger.lock():
        assert ledger.status(plan).running == 1


def test_only_one_run_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "tiny")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(ledger.root)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert f"pid {holder.pid}" in (ledger.lock_holder() or "")
        with pytest.raises(EnvironmentUnusableError, match=f"being run by pid {holder.pid}"), ledger.lock():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with ledger.lock():  # the dead holder's lock is taken over at once
        assert f"pid {os.getpid()}" in (tmp_path / "tiny" / "lock").read_text()
    assert ledger.lock_holder() is None


def test_what_is_no_ledger_or_is_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ledger here"):
        Ledger(tmp_path).read_plan()
    ledger = make_ledger(tmp_path / "made")
    key = ledger.records()[0].trial_key
    ledger.storage.write(f"trials/{key}/record.json", b'{"sweep": 3')
    with pytest.raises(InputError, match=r"record\.json: unreadable record") as caught:
        ledger.records()
    assert len(caught.value.problems) == 1
    ledger.storage.write("plan.json", b"{}")
    with pytest.raises(InputError, match=r"plan\.json: unreadable plan"):
        ledger.read_plan()
