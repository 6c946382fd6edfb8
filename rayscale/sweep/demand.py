"""Waiting for the first device of a cluster whose nodes are started on demand.

    no device ── placement groups like those of the trials, one per block ──▶ Ray's autoscaler starts nodes
              ◀── the first device is there: the groups go, the trials come with groups of their own ──

Placement groups and not Ray's `request_resources`: that request outlives the run that made it, and would keep nodes up,
and paid, after it was killed. These end with the run, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from rayscale.design import Plan
from rayscale.errors import EnvironmentUnusableError
from rayscale.ledger import Ledger
from rayscale.quantities import format_duration
from rayscale.spec import ResourcesSpec
from rayscale.sweep.devices import SAMPLER_CPUS
from rayscale.sweep.nodes import Node, alive_nodes, refuse_empty

LOOK_S = 1.0
"""Time between two looks at the cluster's nodes."""
SAY_EVERY_S = 30.0
"""Time between two lines that say what is waited for."""
MOST = 64
"""The most devices that are asked for at once."""


class Demand(Protocol):
    """A cluster that can be asked for devices."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are there now."""

    def ask(self, bundles: list[dict[str, float]], count: int) -> None:
        """Ask for room for some slots."""

    def release(self) -> None:
        """Ask for nothing any more."""


class RayDemand:
    """The cluster that this process is connected to."""

    def __init__(self) -> None:
        """Ask for nothing yet."""
        self._groups: list[Any] = []

    def nodes(self) -> list[Node]:
        """Return the alive nodes."""
        import ray

        return alive_nodes(ray.nodes())

    def ask(self, bundles: list[dict[str, float]], count: int) -> None:
        """Make placement groups that nothing runs in."""
        from ray.util.placement_group import placement_group

        self._groups += [placement_group(bundles, strategy="STRICT_PACK") for _ in range(count)]

    def release(self) -> None:
        """Remove them, so that trials get the place."""
        from ray.util.placement_group import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)
        self._groups.clear()


def await_device(
    resources: ResourcesSpec,
    count: int,
    wait_s: float,
    cluster: Demand,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the cluster has a device that the sweep can use.

    Args:
        resources: The sweep's resources.
        count: Devices to ask for.
        wait_s: Longest wait. Units: s.
        cluster: The cluster.
        say: Shows a line, at once and then every `SAY_EVERY_S`, while it waits.
        clock: Seconds that only grow.
        sleep: Waits.

    Raises:
        EnvironmentUnusableError: If none is there in time.
    """
    began = clock()
    said: float | None = None
    try:
        while (refusal := _refusal(cluster.nodes(), resources)) is not None:
            waited = clock() - began
            if waited >= wait_s:
                raise EnvironmentUnusableError(_explain(refusal, wait_s))
            if said is None:
                cluster.ask(slot_bundles(resources), count)
                many = f"{count} device{'s' if count > 1 else ''}"
                say(f"no device is up yet; asked for {many}, waiting up to {format_duration(wait_s)}")
                said = waited
            elif waited - said >= SAY_EVERY_S:
                say(f"no device is up yet, after {format_duration(waited)}")
                said = waited
            sleep(LOOK_S)
    finally:
        cluster.release()


def devices_wanted(plan: Plan, ledger: Ledger) -> int:
    """Return how many devices the blocks that are left can use at once, at most `MOST`."""
    completed = ledger.completed()
    blocks = {trial.block for trial in plan.trials if trial.trial_key not in completed}
    return max(1, min(len(blocks), plan.spec.resources.slots or MOST, MOST))


def slot_bundles(resources: ResourcesSpec) -> list[dict[str, float]]:
    """Return what a slot reserves, but for the name of its device, which nobody knows yet."""
    gpus = resources.gpus if isinstance(resources.gpus, int) else 0
    slot = {"CPU": float(resources.cpus), **({"GPU": float(gpus)} if gpus else {})}
    return [slot, {"CPU": SAMPLER_CPUS}]


def _refusal(nodes: list[Node], resources: ResourcesSpec) -> str | None:
    try:
        refuse_empty(nodes, resources)
    except EnvironmentUnusableError as error:
        return str(error)
    return None


def _explain(refusal: str, wait_s: float) -> str:
    if wait_s:
        return f"{refusal} (waited {format_duration(wait_s)})"
    return f"{refusal}; where nodes start on demand: --wait 20min"
