"""From a cluster's nodes to devices: names, best effort, CPUs, what is refused; what a node's own answer must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayscale import __version__
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.ledger import Ledger
from rayscale.spec import ResourcesSpec
from rayscale.sweep.fleet import TOKEN, NodeAnswer, answer, objection
from rayscale.sweep.nodes import Node, alive_nodes, cluster_devices, refuse_ambiguous, refuse_empty, wants_gpus
from rayscale.sweep.session import checked_address

UUIDS = ("GPU-aaaa", "GPU-bbbb")


def node(name: str, **resources: float) -> Node:
    return Node(f"{name}00000000", name, f"10.0.0.{len(name)}", {"CPU": 8.0, **resources})


def gpu_node(name: str, *uuids: str, kind: str = "A10G") -> Node:
    named = {f"gpu:{uuid}": 1.0 for uuid in uuids}
    return node(name, GPU=float(len(uuids) or 2), **{f"accelerator_type:{kind}": 1.0}, **named)


def test_named_gpus_are_devices_by_identity() -> None:
    found = cluster_devices([gpu_node("a", *UUIDS), node("head")], ResourcesSpec(), gpus=True)
    assert [(one.name, one.uuid, one.kind, one.node, one.binding) for one in found] == [
        (f"gpu:{uuid}", uuid, "A10G", "a", "resource") for uuid in UUIDS
    ]
    assert dict(found[0].claims) == {"gpu:GPU-aaaa": 1.0, "GPU": 1.0}


def test_gpus_without_names_are_best_effort_on_their_node() -> None:
    found = cluster_devices([gpu_node("a")], ResourcesSpec(), gpus=True)
    assert [(one.uuid, one.binding) for one in found] == [(None, "best effort")] * 2
    assert len({one.name for one in found}) == 2
    assert set(dict(found[0].claims)) == {"GPU", "node:10.0.0.1"}


def test_gpus_hidden_from_ray_are_not_claimed_as_rays() -> None:
    hidden = node("a", **{"gpu:GPU-aaaa": 1.0})
    assert dict(cluster_devices([hidden], ResourcesSpec(), gpus=True)[0].claims) == {"gpu:GPU-aaaa": 1.0}


@pytest.mark.parametrize(("gpus", "expected"), [("auto", True), (0, False), (1, True)])
def test_gpus_are_taken_where_there_are_any(gpus: object, expected: bool) -> None:
    assert wants_gpus([gpu_node("a"), node("b", **{"cpu:b-0": 1.0})], ResourcesSpec(gpus=gpus)) is expected  # type: ignore[arg-type]
    assert wants_gpus([node("b")], ResourcesSpec(gpus="auto")) is False


def test_a_node_serves_no_more_slots_than_its_cpus_feed() -> None:
    slots = {f"cpu:a-{index}": 1.0 for index in range(5)}
    found = cluster_devices([node("a", **slots)], ResourcesSpec(gpus=0, cpus=2), gpus=False)
    assert [one.name for one in found] == ["cpu:a-0", "cpu:a-1", "cpu:a-2"]  # 8 CPUs, 2.1 each


@pytest.mark.parametrize(
    ("nodes", "gpus", "words"),
    [
        ([node("head")], "auto", "no node of the cluster (1 node) advertises a device"),
        ([node("head"), node("b", **{"cpu:b-0": 1.0})], 1, "no node of the cluster (2 nodes) advertises a device"),
        ([node("b", CPU=2.0, **{"cpu:b-0": 1.0})], 0, "CPUs that a trial needs: 2.1"),
    ],
)
def test_a_cluster_without_a_usable_device_is_refused(nodes: list[Node], gpus: object, words: str) -> None:
    with pytest.raises(EnvironmentUnusableError) as caught:
        refuse_empty(nodes, ResourcesSpec(gpus=gpus))  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_a_device_that_two_nodes_name_is_refused() -> None:
    refuse_ambiguous([gpu_node("a", UUIDS[0]), gpu_node("b", UUIDS[1])])
    with pytest.raises(EnvironmentUnusableError, match=r"gpu:GPU-aaaa is advertised by 2 nodes \(a, b\)"):
        refuse_ambiguous([gpu_node("b", *UUIDS), gpu_node("a", UUIDS[0])])


def test_dead_nodes_are_not_listed() -> None:
    listing = [
        {"NodeID": "2", "Alive": False, "NodeManagerHostname": "b", "NodeManagerAddress": "x", "Resources": {}},
        {"NodeID": "1", "Alive": True, "NodeManagerHostname": "a", "NodeManagerAddress": "x", "Resources": {"CPU": 1}},
    ]
    assert [one.host for one in alive_nodes(listing)] == ["a"]


def test_a_node_must_see_the_ledger_and_run_the_same_version(tmp_path: Path) -> None:
    ledger, elsewhere = Ledger(tmp_path / "shared" / "sweep"), tmp_path / "other disk" / "sweep"
    ledger.storage.write(TOKEN, b"token")
    assert objection(answer(str(ledger.root)), "n1", "token", ledger) is None
    local = objection(answer(str(elsewhere)), "n1", "token", ledger)
    assert local is not None
    assert "node n1 does not see this directory; expected --storage s3://" in local
    (elsewhere / TOKEN).parent.mkdir(parents=True)
    (elsewhere / TOKEN).write_text("of another run")
    assert objection(answer(str(elsewhere)), "n1", "token", ledger) == local
    old = objection(NodeAnswer("0.0.1", "token"), "n1", "token", ledger)
    assert old == f"node n1 has rayscale 0.0.1, this driver {__version__}; expected the same everywhere"


def test_a_node_without_access_to_the_bucket_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    location = f"file://{tmp_path}/file/sweep"
    found = objection(answer(location), "n1", "token", Ledger(location))
    assert found is not None
    assert found.startswith("node n1 cannot use the ledger: ")


def test_addresses() -> None:
    assert [checked_address(one) for one in (None, "", "local")] == [None] * 3
    for good in ("auto", "127.0.0.1:6379", "head.example:6379", "[::1]:6379"):
        assert checked_address(good) == good
    for bad in ("ray://head:10001", "head", "http://head:8265", "head:port"):
        with pytest.raises(InputError, match="expected auto or HOST:PORT"):
            checked_address(bad)
