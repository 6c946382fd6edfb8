"""Devices that slots train on: one per GPU, or some on a CPU, each with the Ray resources that pin a block to it.

gpu:<uuid>            a GPU by its identity; machines and clusters alike
cpu:<index>           CPU slots of this machine
cpu:<host>-<index>    CPU slots of a cluster's node (`rayscale node-resources`)
gpu:any@<node>-<i>    some GPU of a node that names none: best effort
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal, Protocol

from rayscale.energy.reader import gpu_devices
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import ResourcesSpec

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
        name: See above; also the name of the custom Ray resource.
        uuid: UUID of the GPU; None for a CPU, or where only the slot will know.
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
        One slot per visible GPU (at most `slots`); CPU slots where no GPU is wanted or visible.

    Raises:
        EnvironmentUnusableError: If GPUs are asked for and none is visible.
    """
    gpus = gpu_devices() if resources.gpus != 0 else []
    if resources.gpus == 1 and not gpus:
        raise EnvironmentUnusableError(
            "resources.gpus: 1 asked for, but no NVIDIA GPU is visible here; expected one, or `gpus: auto` or 0"
        )
    node = socket.gethostname()
    if gpus:
        chosen = gpus[: resources.slots] if resources.slots else gpus
        return [gpu_slot(gpu.uuid, gpu.name, gpu.name, node, "uuid", ray_gpu=True) for gpu in chosen]
    names = [f"cpu:{index}" for index in range(resources.slots or 1)]
    return [SlotDevice(name, None, f"CPU slot {name[4:]}", "cpu", node, claims=((name, 1.0),)) for name in names]


def gpu_slot(uuid: str, label: str, kind: str, node: str, binding: Binding, *, ray_gpu: bool) -> SlotDevice:
    """Make the slot of one GPU.

    Args:
        uuid: The GPU.
        label: For people.
        kind: Its type.
        node: Its host.
        binding: What holds a block on it.
        ray_gpu: Whether Ray counts its GPUs there: then one is reserved, so that nobody else gets it.

    Returns:
        The slot.
    """
    name = f"gpu:{uuid}"
    return SlotDevice(name, uuid, label, kind, node, binding, ((name, 1.0), *((("GPU", 1.0),) if ray_gpu else ())))
