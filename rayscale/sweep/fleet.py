"""The devices of a running Ray cluster, which come and go with its nodes.

Every node is asked once, by a small task on it, before its devices are used: does it see the ledger, has it the same
rayscale? A node that fails this at the start ends the run with one line; one that joins later is left out, with one.

    ray.nodes() ── new node ──▶ task on it ──▶ same versions, same ledger? ──▶ its devices are in the fleet
               ── node dead ──▶ its devices are not in the fleet any more
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayscale import __version__
from rayscale.errors import EnvironmentUnusableError, RayscaleError
from rayscale.ledger import Ledger
from rayscale.spec import ResourcesSpec
from rayscale.sweep.devices import FixedFleet, SlotDevice
from rayscale.sweep.nodes import (
    Node,
    alive_nodes,
    cluster_devices,
    devices_of,
    refuse_ambiguous,
    refuse_empty,
    wants_gpus,
)

LOOK_S = 1.0
"""Time between two looks at the cluster's nodes."""
ASK_TIMEOUT_S = 120.0
"""How long a node may take to answer: it starts a worker that imports rayscale."""
PATIENCE_S = 600.0
"""How long a run waits for a device when all of them are gone."""
MOST_DEVICES = 1024
TOKEN = "attached.txt"
"""File in the ledger by which nodes show that they see it."""


@dataclass(frozen=True)
class NodeAnswer:
    """What a node says of itself.

    Attributes:
        version: Its rayscale.
        token: What it reads in the ledger's token file; None without one.
        problem: Why it could not read the ledger, None if it could.
    """

    version: str
    token: str | None
    problem: str | None = None


def answer(location: str) -> NodeAnswer:
    """Look at the ledger from the node that runs this.

    Args:
        location: The ledger.

    Returns:
        What is seen from here.
    """
    try:
        content = Ledger(location).storage.read(TOKEN)
    except RayscaleError as error:
        return NodeAnswer(__version__, None, str(error))
    return NodeAnswer(__version__, content.decode() if content is not None else None)


def objection(found: NodeAnswer, host: str, token: str, ledger: Ledger) -> str | None:
    """Say why a node cannot take part.

    Args:
        found: What it said.
        host: Its name.
        token: What the ledger's token file holds.
        ledger: The ledger.

    Returns:
        One line, None if it can.
    """
    if found.version != __version__:
        return f"node {host} has rayscale {found.version}, this driver {__version__}; expected the same everywhere"
    if found.problem is not None:
        return f"node {host} cannot use the ledger: {found.problem}"
    if found.token != token:
        return (
            f"{ledger}: node {host} does not see this directory; expected --storage s3://..., gs://..., "
            "or a path that all nodes share"
        )
    return None


class RayFleet:
    """The devices of the cluster that this process is connected to."""

    capacity = MOST_DEVICES

    def __init__(self, resources: ResourcesSpec, ledger: Ledger, say: Callable[[str], None]) -> None:
        """Ask all nodes that have devices.

        Args:
            resources: The sweep's resources.
            ledger: The ledger, which all nodes must see.
            say: Shows a line to the user.

        Raises:
            EnvironmentUnusableError: If there is no usable device, two nodes name the same one, or a node with devices
                has another rayscale or does not see the ledger.
        """
        self._resources, self._ledger, self._say = resources, ledger, say
        self._location = ledger.location if ledger.remote else str(ledger.root.absolute())
        self._token = secrets.token_hex(8)
        ledger.storage.write(TOKEN, self._token.encode())
        self._asked: dict[str, tuple[Any, float]] = {}
        self._objections: dict[str, str | None] = {}
        self._found: tuple[SlotDevice, ...] = ()
        self._looked, self._empty_since = -LOOK_S, time.monotonic()
        nodes = alive_nodes(ray.nodes())
        refuse_ambiguous(nodes)
        refuse_empty(nodes, resources)
        self._gpus = wants_gpus(nodes, resources)
        self._ask(nodes)
        ray.wait([task for task, _ in self._asked.values()], num_returns=len(self._asked), timeout=ASK_TIMEOUT_S)
        self._hear(nodes)
        for node in nodes:
            problem = self._objections.get(node.node_id)
            if problem is not None:
                raise EnvironmentUnusableError(problem)

    def __reduce__(self) -> tuple[type[FixedFleet], tuple[tuple[SlotDevice, ...]]]:
        """Leave the cluster out when Tune pickles its own state, which is never restored."""
        return FixedFleet, (self._found,)

    def devices(self) -> tuple[SlotDevice, ...]:
        """Return the devices that are there now; Ray is asked once in `LOOK_S`."""
        if time.monotonic() - self._looked >= LOOK_S:
            nodes = alive_nodes(ray.nodes())
            self._ask(nodes)
            self._hear(nodes)
            willing = [node for node in nodes if self._objections.get(node.node_id, "") is None]
            self._tell(self._chosen(cluster_devices(willing, self._resources, gpus=self._gpus)))
            self._looked = time.monotonic()
        return self._found

    def may_grow(self) -> bool:
        """Whether it is worth waiting for a device while there is none."""
        return time.monotonic() - self._empty_since < PATIENCE_S

    def _chosen(self, found: list[SlotDevice]) -> tuple[SlotDevice, ...]:
        """Take at most `resources.slots`, those that are in use first."""
        used = {one.name for one in self._found}
        return tuple(sorted(found, key=lambda one: one.name not in used)[: self._resources.slots])

    def _tell(self, found: tuple[SlotDevice, ...]) -> None:
        """Say what came and went; the first devices are said as a number."""
        before, now = {one.name for one in self._found}, {one.name for one in found}
        if not self._found and found:
            kinds = ", ".join(sorted({f"{one.kind} on {one.node}" for one in found}))
            self._say(f"{len(found)} device{'s' if len(found) > 1 else ''}: {kinds}")
        else:
            for one in found:
                if one.name not in before:
                    self._say(f"{one.name} on {one.node} joins")
        for one in self._found:
            if one.name not in now:
                self._say(f"{one.name} on {one.node} is gone")
        self._found = self._found if found == self._found else found
        if found:
            self._empty_since = time.monotonic()

    def _ask(self, nodes: list[Node]) -> None:
        for node in nodes:
            has_any = bool(devices_of(node, self._resources, gpus=self._gpus))
            if has_any and node.node_id not in self._asked:
                there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
                task = ray.remote(num_cpus=0, max_retries=0)(answer).options(scheduling_strategy=there)
                self._asked[node.node_id] = (task.remote(self._location), time.monotonic())

    def _hear(self, nodes: list[Node]) -> None:
        """Take the answers that are there; a node that never answers cannot take part."""
        for node in nodes:
            if node.node_id in self._objections or node.node_id not in self._asked:
                continue
            task, asked = self._asked[node.node_id]
            ready, _ = ray.wait([task], timeout=0)
            if ready or time.monotonic() - asked >= ASK_TIMEOUT_S:
                problem = self._objection(node, task) if ready else f"node {node.host} does not answer"
                self._objections[node.node_id] = problem
                if problem is not None and self._looked > 0:  # at the start it ends the run
                    self._say(f"left out: {problem}")

    def _objection(self, node: Node, task: Any) -> str | None:
        try:
            found: NodeAnswer = ray.get(task)
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return f"node {node.host} cannot run rayscale: {lines[-1] if lines else type(error).__name__}"
        return objection(found, node.host, self._token, self._ledger)
