"""What a ledger in an object store is asked for: requests per sweep, not per trial, wherever nothing was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.specfile import parse_spec
from rayscale.storage import LocalStorage, Storage, open_storage

SPEC = """\
name: x
design: {factors: {tokens: [1, 2, 4]}, repetitions: 20}
model: {config: {}}
data: {synthetic: {}, sequence_length: 8}
"""


class Counting:
    """A storage that counts what it is asked for."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., object]:
        self.calls[name] += 1
        return getattr(self.inner, name)  # type: ignore[no-any-return]


@pytest.fixture
def plan() -> Plan:
    return plan_sweep(parse_spec(SPEC, "x.yaml"))


@pytest.fixture
def counted(plan: Plan, tmp_path: Path) -> tuple[Ledger, Counting]:
    (tmp_path / "x").mkdir()  # of a directory pyarrow asks more than of a bucket
    ledger = Ledger(f"file://{tmp_path}/x")
    ledger.write_plan(plan, {})
    storage = Counting(ledger.storage)
    ledger.storage = storage  # type: ignore[assignment]
    return ledger, storage


def test_a_fresh_sweep_is_not_asked_for_each_of_its_trials(plan: Plan, counted: tuple[Ledger, Counting]) -> None:
    ledger, storage = counted
    assert ledger.completed() == set()
    assert ledger.begun() == set()
    assert ledger.records(plan) == []
    assert ledger.status(plan).pending == len(plan.trials)
    assert storage.calls.total() <= 10


def test_only_what_was_tried_is_asked_for(plan: Plan, counted: tuple[Ledger, Counting]) -> None:
    ledger, storage = counted
    directory = Path(str(ledger.location).removeprefix("file://"))
    LocalStorage(directory).write(f"trials/{plan.trials[0].trial_key}/attempt-1/started.json", b"{}")
    storage.calls.clear()
    status = ledger.status(plan)
    assert (status.pending, status.attempts) == (len(plan.trials), 1)  # nobody holds the lock: the attempt was cut off
    assert ledger.begun() == {plan.trials[0].trial_key}
    assert storage.calls.total() <= 10


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_tree_of_a_storage(scheme: str, tmp_path: Path) -> None:
    LocalStorage(tmp_path).write("trials/a/attempt-1/log.jsonl", b"")
    LocalStorage(tmp_path).write("trials/b/record.json", b"{}")
    storage = open_storage(f"{scheme}{tmp_path}")
    assert sorted(storage.tree("trials")) == ["a/attempt-1/log.jsonl", "b/record.json"]
    assert storage.tree("nothing") == []
