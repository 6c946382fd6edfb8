"""Trials on several GPUs: how the set is written, and where each of its devices leaves its power trace.

A set is written as its UUIDs joined by `+`, wherever one device is its UUID: in jobs, slots, bindings and records.

    one device     attempt-1/power.parquet
    several        attempt-1/power-0/power.parquet, power-1/power.parquet, ...    each device by itself
                   attempt-1/power.parquet                                        their sum, when sampling has ended
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SEPARATOR = "+"


def join_devices(uuids: Iterable[str]) -> str | None:
    """Write a set of GPUs.

    Args:
        uuids: Their UUIDs, in the order of the ranks.

    Returns:
        The UUIDs, joined; None without any.
    """
    return SEPARATOR.join(uuids) or None


def devices_in(device_uuid: str | None) -> tuple[str, ...]:
    """Read what `join_devices` wrote.

    Args:
        device_uuid: One UUID, or several joined; None: no GPU.

    Returns:
        The UUIDs.
    """
    return tuple(device_uuid.split(SEPARATOR)) if device_uuid else ()


def places(directory: Path, device_uuid: str | None) -> tuple[Path, ...]:
    """Tell where the devices of an attempt leave their traces.

    Args:
        directory: The attempt's directory.
        device_uuid: Its devices.

    Returns:
        The directory itself for one device, one below it for each of several.
    """
    count = len(devices_in(device_uuid))
    return (directory,) if count <= 1 else tuple(directory / f"power-{index}" for index in range(count))
