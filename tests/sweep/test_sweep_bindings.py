"""Which blocks belong to a device, and how one is taken back, on a real ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import bucket
from ledgers import example_spec, make_ledger

from rayscale.design import plan_sweep
from rayscale.ledger import INTERRUPTED, Ledger
from rayscale.record import Record
from rayscale.storage import join
from rayscale.sweep.bindings import BlockKeeper, binding_of


def bound(record: Record, device: str, by: str = "resource") -> Record:
    binding = {"device": device, "node": "n", "by": by}
    return record.model_copy(update={"environment": record.environment | {"binding": binding}})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Four blocks of three trials: 0 finished on a, 1 and 2 begun on b, 3 not begun."""
    ledger = make_ledger(tmp_path, example_spec(4))
    for record in ledger.records():
        where = {0: "cpu:a-0", 1: "cpu:b-0", 2: "cpu:b-0"}.get(record.block)
        position = record.run_order % 3
        if where is None or (record.block in (1, 2) and position >= record.block):
            ledger.storage.remove(f"trials/{record.trial_key}/record.json")
        else:
            ledger.write_record(bound(record, where))
    return ledger


def keeper_of(ledger: Ledger, said: list[str]) -> BlockKeeper:
    return BlockKeeper(ledger.read_plan(), ledger, said.append)


def test_unfinished_blocks_belong_to_the_device_that_began_them(ledger: Ledger) -> None:
    keeper = keeper_of(ledger, [])
    assert keeper.blocks_begun() == {1: "cpu:b-0", 2: "cpu:b-0"}
    assert keeper.blocks_done() == ["cpu:a-0"]


@pytest.mark.parametrize("by", ["slot", "best effort"])
def test_what_nothing_holds_belongs_to_no_device(ledger: Ledger, by: str) -> None:
    for record in ledger.records():
        ledger.write_record(bound(record, "cpu:0", by))
    assert keeper_of(ledger, []).blocks_begun() == {}


def test_a_block_that_is_taken_back_is_to_do_as_a_whole_and_its_records_are_kept(ledger: Ledger) -> None:
    said: list[str] = []
    keeper, plan = keeper_of(ledger, said), ledger.read_plan()
    before = {record.trial_key: record for record in ledger.records()}
    block = plan.blocks()[2]
    assert keeper.take_back(2, "cpu:b-0") == block
    withdrawn = {trial.trial_key for trial in block[:2]}
    assert keeper.withdrawn == withdrawn
    assert said == ["block 2: cpu:b-0 is gone; 2 finished trials set aside, the block is done again elsewhere"]
    assert {record.trial_key for record in ledger.records()} == set(before) - withdrawn
    for key in withdrawn:
        attempt = before[key].attempt
        kept = ledger.storage.read(f"trials/{key}/attempt-{attempt}/superseded.json")
        assert kept is not None
        assert Record.from_json(kept.decode()) == before[key]
        failure = ledger.failure(key, attempt)
        assert failure is not None
        assert failure.reason == INTERRUPTED
    assert (ledger.status().completed, ledger.status().failed) == (4, 0)
    assert keeper.take_back(2, "cpu:b-0") == block  # a second time changes nothing
    assert len(said) == 1


def test_a_finished_block_is_not_taken_back(ledger: Ledger) -> None:
    before = [record.to_json() for record in ledger.records()]
    assert keeper_of(ledger, []).take_back(0, "cpu:a-0") == []
    assert [record.to_json() for record in ledger.records()] == before


def test_records_in_a_bucket_are_set_aside_as_well(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "cache"))
    with bucket() as address:
        remote = Ledger(join(address, "sweep"))
        remote.write_plan(ledger.read_plan(), {})
        for record in ledger.records():
            remote.write_record(record)
        assert keeper_of(remote, []).take_back(1, "cpu:b-0") == ledger.read_plan().blocks()[1]
        first = ledger.read_plan().blocks()[1][0].trial_key
        assert remote.record(first) is None
        assert remote.storage.list(f"trials/{first}/attempt-1") == ["failure.json", "superseded.json"]
        assert len(remote.records()) == len(ledger.records()) - 1
        assert binding_of(remote.records()[0])["device"] == "cpu:a-0"


def test_finished_trials_stay_where_the_sweep_says_so(ledger: Ledger) -> None:
    spec = ledger.read_plan().spec
    resources = spec.resources.model_copy(update={"lost_device": "keep_finished"})
    plan = plan_sweep(spec.model_copy(update={"resources": resources}))
    keeper = BlockKeeper(plan, ledger, print)
    assert keeper.take_back(2, "cpu:b-0") == plan.blocks()[2][2:]
    assert keeper.withdrawn == set()
    assert {trial.trial_key for trial in plan.blocks()[2][:2]} <= ledger.completed()
