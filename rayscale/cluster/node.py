"""The custom resources by which a node of a Ray cluster names its devices.

    ray start --address=... --resources="$(rayscale node-resources)"

A GPU is named by its UUID, so a block finds the card that it began on, whatever order drivers number cards in. A node
without GPUs names CPU slots by its host; one is the default, since trials on one CPU disturb each other.
"""

from __future__ import annotations

import re
import socket

from rayscale.energy.reader import gpu_devices


def node_resources(cpu_slots: int = 1, host: str | None = None) -> dict[str, int]:
    """Name the devices of this node.

    Args:
        cpu_slots: CPU slots of a node without GPUs.
        host: Its name; None takes the host name.

    Returns:
        `{"gpu:GPU-<uuid>": 1, ...}`, without GPUs `{"cpu:<host>-0": 1, ...}`.

    Raises:
        EnvironmentUnusableError: If there are GPUs that cannot be used (see `rayscale.energy.devices`).
    """
    gpus = gpu_devices()
    if gpus:
        return {f"gpu:{gpu.uuid}": 1 for gpu in gpus}
    name = re.sub(r"[^A-Za-z0-9.-]", "-", host or socket.gethostname())
    return {f"cpu:{name}-{index}": 1 for index in range(cpu_slots)}
