"""Devices that slots train on: one per GPU, or some on a CPU, each with the Ray resources that pin a block to it.

gpu:<uuid>            a GPU by its identity; machines and clusters alike
gpu:<uuid>+<uuid>     GPUs of one node that train one trial together (`resources.gpus: 2`)
cpu:<index>           CPU slots of this machine
cpu:<host>-<index>    CPU slots of a cluster's node (`rayscale node-resources`)
gpu:any@<node>-<i>    some GPU of a node that names none: best effort
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from rayscale.energy.deviceset import SEPARATOR, devices_in
from rayscale.energy.reader import gpu_devices
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import ResourcesSpec

T = TypeVar("T")

Binding = Literal["uuid", "resource", "slot", "best effort"]
"""What holds a block on its device: the GPU's identity, a node's custom resource, a slot of one CPU, or nothing."""
SAMPLER_CPUS = 0.1
"""Reserved in a bundle of its own, so that a busy trial cannot starve the sampler's place."""
FIRM: tuple[Binding, ...] = ("uuid", "resource")
"""Bindings to one physical device, which a block must not leave."""


@dataclass(frozen=True)
class SlotDevice:
    """Where one slot trains.

    Attributes:
        name: See above; of a CPU and a single GPU also the name of the custom Ray resource.
        uuid: UUID of the GPU, or several joined by `+`; None for a CPU, or where only the slot will know.
        label: For people.
        kind: Type of device, e.g. `A10G`; blocks are spread over types.
        node: Host that has it.
        binding: What holds a block on it.
        claims: Ray resources that a slot asks for beside its CPUs.
    """

    name: str
    uuid: str | None
    label: str
    kind: str = ""
    node: str = ""
    binding: Binding = "slot"
    claims: tuple[tuple[str, float], ...] = ()

    def document(self) -> dict[str, str]:
        """Write the binding as a record keeps it."""
        return {"device": self.name, "node": self.node, "by": self.binding}


class Fleet(Protocol):
    """The devices that a run may use, which may come and go."""

    @property
    def capacity(self) -> int:
        """The most devices there can be."""

    def devices(self) -> tuple[SlotDevice, ...]:
        """Return the devices that are there now; the same object while nothing changes."""

    def may_grow(self) -> bool:
        """Whether it is worth waiting for a device while there is none."""


@dataclass(frozen=True)
class FixedFleet:
    """Devices that stay."""

    slots: tuple[SlotDevice, ...]

    @property
    def capacity(self) -> int:
        """Their number."""
        return len(self.slots)

    def devices(self) -> tuple[SlotDevice, ...]:
        """Return all of them."""
        return self.slots

    def may_grow(self) -> bool:
        """Return False."""
        return False


def local_slots(resources: ResourcesSpec) -> list[SlotDevice]:
    """List the slots of this machine.

    Args:
        resources: The sweep's resources.

    Returns:
        One slot per visible GPU, or per `gpus` of them (at most `slots`); CPU slots where no GPU is wanted or visible.

    Raises:
        EnvironmentUnusableError: If more GPUs are asked for than are visible.
    """
    gpus = gpu_devices() if resources.gpus != 0 else []
    if resources.needs_gpus and len(gpus) < resources.world:
        there = f"{len(gpus)} NVIDIA GPU{'s are' if len(gpus) > 1 else ' is'}" if gpus else "no NVIDIA GPU is"
        raise EnvironmentUnusableError(
            f"resources.gpus: {resources.gpus} asked for, but {there} visible here; expected as many, or `gpus: auto` "
            "or 0"
        )
    node = socket.gethostname()
    if gpus:
        sets = grouped(gpus, resources.world)[: resources.slots]
        kinds = [kind_of([gpu.name for gpu in one]) for one in sets]
        joined = [SEPARATOR.join(gpu.uuid for gpu in one) for one in sets]
        return [
            gpu_slot(uuid, kind, kind, node, "uuid", ray_gpu=True) for uuid, kind in zip(joined, kinds, strict=True)
        ]
    names = [f"cpu:{index}" for index in range(resources.slots or 1)]
    return [SlotDevice(name, None, f"CPU slot {name[4:]}", "cpu", node, claims=((name, 1.0),)) for name in names]


def grouped(devices: Sequence[T], size: int) -> list[list[T]]:
    """Put the GPUs of one node into sets of those that train together, neighbours first.

    Args:
        devices: The GPUs, always in the same order.
        size: How many train one trial.

    Returns:
        The sets; GPUs that are left over are not used.
    """
    return [list(devices[first : first + size]) for first in range(0, len(devices) - size + 1, size)]


def kind_of(names: Sequence[str]) -> str:
    """Name the type of a set: `2 x A10G`.

    Args:
        names: The type of each GPU.
    """
    counts = {name: names.count(name) for name in names}
    return " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def gpu_slot(uuid: str, label: str, kind: str, node: str, binding: Binding, *, ray_gpu: bool) -> SlotDevice:
    """Make the slot of one GPU, or of several that train together.

    Args:
        uuid: The GPU, or the GPUs joined by `+`.
        label: For people.
        kind: Their type.
        node: Their host.
        binding: What holds a block on them.
        ray_gpu: Whether Ray counts its GPUs there: then as many are reserved, so that nobody else gets them.

    Returns:
        The slot; it claims each GPU by its name.
    """
    single = devices_in(uuid)
    claims = [(f"gpu:{one}", 1.0) for one in single] + ([("GPU", float(len(single)))] if ray_gpu else [])
    return SlotDevice(f"gpu:{uuid}", uuid, label, kind, node, binding, tuple(claims))
