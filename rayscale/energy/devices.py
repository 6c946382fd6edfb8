"""Which NVIDIA GPUs this process may use, by UUID, resolved from CUDA_VISIBLE_DEVICES the way CUDA does.

CUDA's rules (CUDA C Programming Guide, environment variables; torch/cuda/__init__.py follows the same): unset means
all; the first invalid entry hides itself and all after it (hence "0,-1" is GPU 0 only, "" and "-1" are none); a
repeated entry means none; UUIDs may be shortened to an unambiguous prefix. What power NVML cannot attribute (MIG) is
refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rayscale.errors import EnvironmentUnusableError


@dataclass(frozen=True)
class GpuDevice:
    """One physical NVIDIA GPU.

    Attributes:
        uuid: `GPU-...`.
        name: Product name.
        index: NVML index (PCI bus order), which need not be CUDA's.
        memory_bytes: Installed memory, in B.
        driver: Driver version.
    """

    uuid: str
    name: str
    index: int
    memory_bytes: int
    driver: str


def text(value: str | bytes) -> str:
    """Decode what older bindings return as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def gpu_devices(*, nvml: Any = None, environ: Mapping[str, str] | None = None) -> list[GpuDevice]:
    """List the GPUs that this process may use, in CUDA's order.

    Args:
        nvml: The binding; None imports `pynvml`.
        environ: The environment; None takes this process's.

    Returns:
        The visible GPUs; empty without NVML, driver or visible GPU.

    Raises:
        EnvironmentUnusableError: If NVML is there but unusable, a visible GPU is in MIG mode, or indices are ambiguous.
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip().startswith("MIG-"):
        raise EnvironmentUnusableError(f"CUDA_VISIBLE_DEVICES={visible}: {MIG_REASON}")
    with nvml_session(nvml) as session:
        if session is None:
            return []
        present = [_device(session, index) for index in range(session.nvmlDeviceGetCount())]
        order = visible_indices(visible, [device.uuid for device in present])
        chosen = [present[index] for index in order]
        _check_order(visible, environ.get("CUDA_DEVICE_ORDER"), present)
        for device in chosen:
            refuse_mig(session, session.nvmlDeviceGetHandleByIndex(device.index), device.uuid)
    return chosen


def visible_indices(visible: str | None, uuids: list[str]) -> list[int]:
    """Resolve CUDA_VISIBLE_DEVICES.

    Args:
        visible: Its value; None when unset.
        uuids: UUIDs of all GPUs, by index.

    Returns:
        Indices of the visible GPUs, in the order in which CUDA numbers them.
    """
    if visible is None:
        return list(range(len(uuids)))
    by_uuid = visible.strip().startswith("GPU-")
    indices: list[int] = []
    for entry in visible.split(","):
        index = _by_prefix(entry.strip(), uuids) if by_uuid else _by_number(entry.strip(), len(uuids))
        if index is None:
            break
        if index in indices:
            return []
        indices.append(index)
    return indices


def _by_number(entry: str, count: int) -> int | None:
    # CUDA reads numbers like strtoul: "1gpu" is 1
    match = re.match(r"\+?(\d+)", entry)
    index = int(match[1]) if match else count
    return index if index < count else None


def _by_prefix(entry: str, uuids: list[str]) -> int | None:
    hits = [index for index, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
    return hits[0] if len(hits) == 1 else None


def _check_order(visible: str | None, order: str | None, present: list[GpuDevice]) -> None:
    """Refuse indices on a box of mixed cards, where CUDA's default order (fastest first) is not NVML's (PCI bus)."""
    by_index = visible is not None and re.search(r"\d", visible) and not visible.strip().startswith("GPU-")
    if by_index and order != "PCI_BUS_ID" and len({device.name for device in present}) > 1:
        raise EnvironmentUnusableError(
            f"CUDA_VISIBLE_DEVICES={visible}: indices are ambiguous on a machine with different GPUs; "
            "expected GPU UUIDs, or CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )


MIG_REASON = "MIG instances share one power sensor, so their energy cannot be told apart; expected a whole GPU"


def refuse_mig(nvml: Any, handle: Any, uuid: str) -> None:
    """Refuse a GPU that is split into MIG instances.

    Args:
        nvml: The binding.
        handle: The GPU.
        uuid: Its name in the message.

    Raises:
        EnvironmentUnusableError: If MIG is on, or the driver does not tell.
    """
    ask = getattr(nvml, "nvmlDeviceGetMigMode", None)
    if ask is None:
        return  # a binding older than MIG
    try:
        current, _pending = ask(handle)
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return  # a GPU or a driver older than MIG
        # anything else says nothing about MIG, and the energy of an instance would be taken for the whole GPU's
        raise EnvironmentUnusableError(f"{uuid}: MIG mode is not told: {error}; expected on or off") from None
    if current:
        raise EnvironmentUnusableError(f"{uuid} is in MIG mode: {MIG_REASON}")


@contextmanager
def nvml_session(nvml: Any = None) -> Iterator[Any]:
    """Hold NVML open.

    Args:
        nvml: The binding; None imports `pynvml`.

    Yields:
        The binding, or None where there is no NVIDIA driver.

    Raises:
        EnvironmentUnusableError: If the driver is there but NVML does not start.
    """
    opened = start_nvml(nvml)
    try:
        yield opened
    finally:
        if opened is not None:
            opened.nvmlShutdown()


def start_nvml(nvml: Any = None) -> Any | None:
    """Initialise NVML; every success needs its own `nvmlShutdown`.

    Args:
        nvml: The binding; None imports `pynvml`.

    Returns:
        The binding, or None where there is no NVIDIA driver.

    Raises:
        EnvironmentUnusableError: If the driver is there but NVML does not start (e.g. versions do not match).
    """
    if nvml is None:
        import pynvml  # the module of nvidia-ml-py

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return None
        raise EnvironmentUnusableError(f"NVML does not start: {error}; expected a working NVIDIA driver") from None
    return nvml


def _device(nvml: Any, index: int) -> GpuDevice:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return GpuDevice(
            uuid=text(nvml.nvmlDeviceGetUUID(handle)),
            name=text(nvml.nvmlDeviceGetName(handle)),
            index=index,
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            driver=text(nvml.nvmlSystemGetDriverVersion()),
        )
    except nvml.NVMLError as error:
        raise EnvironmentUnusableError(f"GPU {index} does not answer NVML: {error}; see nvidia-smi") from None
