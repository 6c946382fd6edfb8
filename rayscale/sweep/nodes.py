"""From the nodes of a Ray cluster, as Ray lists them, to the devices that a sweep can use. No Ray in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayscale.energy.deviceset import SEPARATOR
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import ResourcesSpec
from rayscale.sweep.devices import SAMPLER_CPUS, SlotDevice, gpu_slot, grouped, kind_of

_ACCELERATOR = "accelerator_type:"
_NODE_SHARE = 0.001
"""Part of `node:<address>` that a slot claims to be placed there."""


@dataclass(frozen=True)
class Node:
    """One alive node.

    Attributes:
        node_id: Ray's name for it.
        host: Its host name.
        address: Its address.
        resources: What it has in all.
    """

    node_id: str
    host: str
    address: str
    resources: Mapping[str, float]

    @property
    def kind(self) -> str:
        """Type of its accelerators as Ray found it, `cpu` without any."""
        found = (name.removeprefix(_ACCELERATOR) for name in self.resources if name.startswith(_ACCELERATOR))
        return next(found, "gpu" if self.resources.get("GPU") else "cpu")

    def named(self, prefix: str) -> list[str]:
        """Return its custom resources with a prefix, sorted."""
        return sorted(name for name, amount in self.resources.items() if name.startswith(prefix) and amount >= 1)


def alive_nodes(listing: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Read what `ray.nodes()` returns.

    Args:
        listing: One mapping per node.

    Returns:
        The alive ones, by node id.
    """
    nodes = [
        Node(one["NodeID"], one["NodeManagerHostname"], one["NodeManagerAddress"], one.get("Resources", {}))
        for one in listing
        if one.get("Alive")
    ]
    return sorted(nodes, key=lambda node: node.node_id)


def devices_of(node: Node, resources: ResourcesSpec, *, gpus: bool) -> list[SlotDevice]:
    """List the slots that one node can serve.

    Args:
        node: The node.
        resources: The sweep's resources.
        gpus: GPUs, or CPU slots.

    Returns:
        What it names; GPUs that it has and does not name as best effort; no more than its CPUs can feed.
    """
    counted, size = int(node.resources.get("GPU", 0)), resources.world
    names = node.named("gpu:" if gpus else "cpu:")
    kind = kind_of([node.kind] * size) if gpus else node.kind
    if gpus and names:
        sets = map(SEPARATOR.join, grouped([name.removeprefix("gpu:") for name in names], size))
        slots = [gpu_slot(one, kind, kind, node.host, "resource", ray_gpu=counted > 0) for one in sets]
    elif gpus:
        claims = (("GPU", float(size)), (f"node:{node.address}", _NODE_SHARE))
        unnamed = [f"gpu:any@{node.node_id[:8]}-{index}" for index in range(counted // size)]
        slots = [SlotDevice(name, None, kind, kind, node.host, "best effort", claims) for name in unnamed]
    else:
        slots = [SlotDevice(name, None, name, node.kind, node.host, "resource", ((name, 1.0),)) for name in names]
    return slots[: int((node.resources.get("CPU", 0.0) + 1e-6) // (resources.cpus + SAMPLER_CPUS))]


def wants_gpus(nodes: Sequence[Node], resources: ResourcesSpec) -> bool:
    """Decide between GPUs and CPU slots: `gpus: auto` takes GPUs where the cluster has any."""
    has_gpus = any(node.named("gpu:") or node.resources.get("GPU") for node in nodes)
    return resources.needs_gpus or (resources.gpus == "auto" and has_gpus)


def cluster_devices(nodes: Sequence[Node], resources: ResourcesSpec, *, gpus: bool) -> list[SlotDevice]:
    """List the slots of a cluster.

    Args:
        nodes: Its alive nodes.
        resources: The sweep's resources.
        gpus: GPUs, or CPU slots.

    Returns:
        All that fit. A device that two nodes name counts once; see `refuse_ambiguous`.
    """
    found: dict[str, SlotDevice] = {}
    for node in nodes:
        for device in devices_of(node, resources, gpus=gpus):
            found.setdefault(device.name, device)
    return list(found.values())


def refuse_ambiguous(nodes: Sequence[Node]) -> None:
    """Refuse a cluster in which two nodes name the same device.

    Args:
        nodes: Its alive nodes.

    Raises:
        EnvironmentUnusableError: Two trials would share it, and their energy could not be told apart.
    """
    named = Counter(name for node in nodes for prefix in ("gpu:", "cpu:") for name in node.named(prefix))
    twice = next((name for name, count in named.items() if count > 1), None)
    if twice is not None:
        hosts = ", ".join(sorted(node.host for node in nodes if twice in node.resources))
        raise EnvironmentUnusableError(
            f"{twice} is advertised by {named[twice]} nodes ({hosts}); expected each device on one node: "
            'ray start --resources="$(rayscale node-resources)" once per machine'
        )


def refuse_empty(nodes: Sequence[Node], resources: ResourcesSpec) -> None:
    """Refuse a cluster without any device that the sweep can use.

    Args:
        nodes: Its alive nodes.
        resources: The sweep's resources.

    Raises:
        EnvironmentUnusableError: Says whether devices or CPUs for them are missing.
    """
    gpus = wants_gpus(nodes, resources)
    if cluster_devices(nodes, resources, gpus=gpus):
        return
    count = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if cluster_devices(nodes, resources.model_copy(update={"cpus": 0}), gpus=gpus):
        need = resources.cpus + SAMPLER_CPUS
        raise EnvironmentUnusableError(
            f"no device of the cluster ({count}) has the CPUs that a trial needs: {need:g} "
            f"(resources.cpus: {resources.cpus}, {SAMPLER_CPUS} for the sampler); expected fewer, or larger nodes"
        )
    if resources.world > 1 and cluster_devices(nodes, _one_gpu(resources), gpus=gpus):
        raise EnvironmentUnusableError(
            f"no node of the cluster ({count}) has the GPUs that a trial needs: resources.gpus: {resources.gpus}, all "
            "of one node; expected fewer, or larger nodes"
        )
    raise EnvironmentUnusableError(
        f"no node of the cluster ({count}) advertises a device for resources.gpus: {resources.gpus}; expected nodes "
        'started with: ray start --resources="$(rayscale node-resources)"'
    )


def _one_gpu(resources: ResourcesSpec) -> ResourcesSpec:
    return resources.model_copy(update={"gpus": 1 if resources.needs_gpus else resources.gpus, "ranks": 1, "cpus": 0})
