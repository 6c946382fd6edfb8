"""Waiting for a cluster's first device: asked for once, said, given up in time, and nothing is asked for afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError
from rayscale.ledger import Ledger
from rayscale.spec import ResourcesSpec, SweepSpec
from rayscale.sweep.demand import MOST, SAY_EVERY_S, await_device, devices_wanted, slot_bundles
from rayscale.sweep.devices import SAMPLER_CPUS
from rayscale.sweep.nodes import Node

HEAD = Node("h", "head", "10.0.0.1", {"CPU": 0.0})
WORKER = Node("w", "worker", "10.0.0.2", {"CPU": 4.0, "GPU": 1.0, "gpu:GPU-1": 1.0})


@dataclass
class Cluster:
    """A cluster whose worker comes some time after it was asked for; time passes by sleeping only."""

    comes_after_s: float
    now: float = 0.0
    asked_at: float | None = None
    asked: list[tuple[list[dict[str, float]], int]] = field(default_factory=list)
    released: int = 0

    def nodes(self) -> list[Node]:
        there = self.asked_at is not None and self.now - self.asked_at >= self.comes_after_s
        return [HEAD, WORKER] if there else [HEAD]

    def ask(self, bundles: list[dict[str, float]], count: int) -> None:
        self.asked_at = self.now
        self.asked.append((bundles, count))

    def release(self) -> None:
        self.released += 1

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


GPU = ResourcesSpec(gpus=1, cpus=2)


def wait(cluster: Cluster, wait_s: float) -> list[str]:
    said: list[str] = []
    await_device(GPU, 4, wait_s, cluster, said.append, clock=cluster.clock, sleep=cluster.sleep)
    return said


def test_nodes_are_asked_for_and_waited_for_visibly() -> None:
    cluster = Cluster(comes_after_s=2.5 * SAY_EVERY_S)
    said = wait(cluster, 600)
    assert cluster.asked == [([{"CPU": 2.0, "GPU": 1.0}, {"CPU": SAMPLER_CPUS}], 4)]
    assert cluster.released == 1
    assert said[0] == "no device is up yet; asked for 4 devices, waiting up to 10 min 00 s"
    assert said[1:] == ["no device is up yet, after 30 s", "no device is up yet, after 1 min 00 s"]


def test_a_device_that_is_there_is_not_waited_for() -> None:
    cluster = Cluster(comes_after_s=0, asked_at=0.0)
    assert wait(cluster, 600) == []
    assert (cluster.asked, cluster.now) == ([], 0.0)


def test_the_wait_ends_with_the_reason_and_takes_the_request_back() -> None:
    cluster = Cluster(comes_after_s=1e9)
    with pytest.raises(EnvironmentUnusableError, match=r"no node of the cluster \(1 node\).*\(waited 2 min"):
        wait(cluster, 120)
    assert cluster.now == pytest.approx(120, abs=1)
    assert cluster.released == 1


def test_without_a_wait_nothing_is_asked_for() -> None:
    cluster = Cluster(comes_after_s=0)
    with pytest.raises(EnvironmentUnusableError, match="where nodes start on demand: --wait 20min"):
        wait(cluster, 0)
    assert cluster.asked == []


def test_as_many_devices_as_the_blocks_that_are_left_can_use(tiny_spec: SweepSpec, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "tiny")

    def wanted(repetitions: int, slots: int | None) -> int:
        spec = tiny_spec.model_copy(
            update={
                "design": tiny_spec.design.model_copy(update={"repetitions": repetitions}),
                "resources": tiny_spec.resources.model_copy(update={"slots": slots}),
            }
        )
        return devices_wanted(plan_sweep(spec), ledger)

    assert (wanted(3, None), wanted(3, 2), wanted(100, None)) == (3, 2, MOST)


def test_a_cpu_sweep_asks_for_cpus_only() -> None:
    assert slot_bundles(ResourcesSpec(gpus=0, cpus=3)) == [{"CPU": 3.0}, {"CPU": SAMPLER_CPUS}]
