"""Slots of this machine: one per GPU, or one on the CPU, each with the custom Ray resource that pins a block to it."""

from __future__ import annotations

from dataclasses import dataclass

from rayscale.energy.reader import gpu_devices
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import ResourcesSpec


@dataclass(frozen=True)
class SlotDevice:
    """Where one slot trains.

    Attributes:
        name: `gpu:<uuid>` or `cpu:<index>`; also the name of the custom Ray resource.
        uuid: UUID of the GPU; None for a CPU slot.
        label: For people.
    """

    name: str
    uuid: str | None
    label: str


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
    if gpus:
        chosen = gpus[: resources.slots] if resources.slots else gpus
        return [SlotDevice(f"gpu:{gpu.uuid}", gpu.uuid, gpu.name) for gpu in chosen]
    return [SlotDevice(f"cpu:{index}", None, f"CPU slot {index}") for index in range(resources.slots or 1)]
