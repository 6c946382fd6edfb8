"""Trials of a block that share a trunk, in real forked processes: same results, parts that add up, states that go."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sweep_attempts import ThreadSampler
from tiny import TINY

from rayscale.design import Plan, plan_sweep
from rayscale.environment import cache_directory
from rayscale.ledger import Ledger
from rayscale.record import Record, flatten
from rayscale.specfile import parse_spec
from rayscale.sweep.attempts import SlotHost, run_attempt
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.training.data import prepare

CHANGES = (
    ("tokens: [512, 1024]", "tokens: [1280, 2560, 5120]"),
    ("learning_rate: 1.0e-2", "learning_rate: 1.0e-2, schedule: wsd"),
)


def plan_of(*, shared: bool) -> Plan:
    text = TINY
    for old, new in CHANGES:
        assert old in text
        text = text.replace(old, new, 1)
    return plan_sweep(parse_spec(text.replace("wsd", "wsd, share_prefix: true") if shared else text, "tiny.yaml"))


def host_of(root: Path, forks: ForkServer, plan: Plan, device: str = "cpu:0") -> SlotHost:
    return SlotHost(Ledger(root), forks, ThreadSampler(), SlotDevice(device, None, "CPU"), 0.1, plan)


def run_block(host: SlotHost, plan: Plan, skip: int | None = None) -> dict[int, Record]:
    found = {}
    for trial in plan.blocks()[0]:
        if trial.tokens != skip:
            result = run_attempt(host, trial, prepare(trial.spec, cache_directory()), last_try=True)
            assert result.record is not None, result.failure
            found[trial.tokens] = result.record
    return found


def states() -> list[Path]:
    return sorted((cache_directory() / "trunks").rglob("*.pt"))


def test_a_shared_trunk_gives_the_results_of_trials_that_share_nothing(tmp_path: Path, forks: ForkServer) -> None:
    shared, alone = plan_of(shared=True), plan_of(shared=False)
    ours = run_block(host_of(tmp_path / "shared", forks, shared), shared)
    theirs = run_block(host_of(tmp_path / "alone", forks, alone), alone)
    assert list(ours) == [1280, 2560, 5120]  # ascending, whatever the design's order
    for tokens, record in ours.items():
        other = theirs[tokens]
        assert record.training.loss_digest == other.training.loss_digest
        assert record.evaluation.loss == other.evaluation.loss
        assert record.evaluation.loss_before == other.evaluation.loss_before
        assert record.training.trained_tokens == tokens
        assert record.trial_key != other.trial_key
    assert states() == []  # every state was used, and went when its user had its record
    # 4/5 of each budget is trunk: 1024, 2048, 4096 targets; the rows add up what made the weights
    rows = [flatten(record) for record in ours.values()]
    assert [row["segment_tokens"] for row in rows] == [1280, 2560 - 1024, 5120 - 2048]
    for row, record in zip(rows, ours.values(), strict=True):
        assert record.sharing is not None
        parts = record.sharing.segments
        assert [part.first_token for part in parts] == [0, *(part.last_token for part in parts[:-1])]
        assert parts[-1].last_token == row["trained_tokens"] == row["tokens"]
        assert row["shared_prefix"] is True
        assert row["energy_j"] == pytest.approx(sum(part.energy_j or 0.0 for part in parts))
        assert row["duration_s"] == pytest.approx(sum(part.duration_s for part in parts))
        own = [part for part in parts if part.trial_key == record.trial_key]
        assert row["segment_energy_j"] == pytest.approx(sum(part.energy_j or 0.0 for part in own))
        assert row["segment_s"] == row["train_s"] == pytest.approx(sum(part.duration_s for part in own))
        assert row["net_energy_j"] < row["energy_j"]
    small, middle, large = (record.sharing.segments for record in ours.values() if record.sharing)
    assert [part.trial_key for part in large] == [ours[tokens].trial_key for tokens in ours]
    assert [part.last_token for part in large] == [1024, 2048, 5120]
    assert large[0] == middle[0] == small[0]


def test_without_a_state_a_trial_trains_all_of_its_budget_and_says_so(tmp_path: Path, forks: ForkServer) -> None:
    plan = plan_of(shared=True)
    host = host_of(tmp_path / "tiny", forks, plan)
    first = run_block(host, plan, skip=1280)  # as after a smaller budget that failed
    assert first[2560].sharing is not None
    assert first[2560].sharing.note is not None
    assert first[2560].sharing.segment_tokens == 2560
    assert first[5120].sharing is not None
    assert first[5120].sharing.segment_tokens == 5120 - 2048
    # the small one comes later: nobody is left to take its state, and it leaves none
    late = run_attempt(host, plan.trials[0], prepare(plan.spec, cache_directory()), last_try=True).record
    assert late is not None
    assert late.sharing is not None
    assert late.sharing.segment_tokens == 1280
    assert states() == []


def test_another_device_does_not_take_the_state_and_a_new_block_clears_it(tmp_path: Path, forks: ForkServer) -> None:
    plan = plan_of(shared=True)
    here, there = (host_of(tmp_path / "tiny", forks, plan, device) for device in ("cpu:0", "cpu:1"))
    data = prepare(plan.spec, cache_directory())
    small, middle = plan.blocks()[0][:2]
    assert run_attempt(here, small, data, last_try=True).record is not None
    assert len(states()) == 1
    record = run_attempt(there, middle, data, last_try=True).record
    assert record is not None
    assert record.sharing is not None
    assert record.sharing.note == "no smaller budget of the block left a state on this device"
    assert len(states()) == 2
    assert run_attempt(here, plan.blocks()[1][0], data, last_try=True).record is not None
    assert sorted(path.name.split(".")[1] for path in states()) == ["0", "1"]  # its own old state is gone
    for path in states():
        path.unlink()
