"""Who listens where, from /proc: so that a tunnel talks to its own ssh only, and tests see what is open."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"
"""TCP_LISTEN of the kernel's include/net/tcp_states.h."""


@dataclass(frozen=True)
class Listener:
    """A TCP socket that a process listens on."""

    pid: int
    """The process."""
    address: str
    """The address it is bound to."""
    port: int
    """The port."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ip_address(self.address)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback


def listeners(pids: Iterable[int], proc: Path = Path("/proc")) -> list[Listener]:
    """List what processes listen on; a process that has ended has nothing.

    Args:
        pids: The processes.
        proc: The proc file system.

    Returns:
        One entry per process and socket, by port.
    """
    open_sockets = dict(_listening(proc))
    found = {
        Listener(pid, *open_sockets[inode]) for pid in pids for inode in _sockets(pid, proc) if inode in open_sockets
    }
    return sorted(found, key=lambda listener: (listener.port, listener.pid))


def free_port() -> int:
    """Return a TCP port on loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def decode_address(text: str) -> tuple[str, int]:
    """Read `0100007F:1F90` of /proc/net/tcp: an address as the processor's 32-bit words (here: low byte first), a port.

    Args:
        text: The second column.

    Returns:
        Address and port.
    """
    words, port = text.split(":")
    raw = b"".join(bytes.fromhex(words[start : start + 8])[::-1] for start in range(0, len(words), 8))
    address = IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
    return str(address), int(port, 16)


def _listening(proc: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    for table in ("tcp", "tcp6"):
        path = proc / "net" / table
        for line in path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield fields[9], decode_address(fields[1])


def _sockets(pid: int, proc: Path) -> Iterator[str]:
    try:
        links = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        return
    for link in links:
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
        except OSError:  # closed meanwhile
            continue
        if match:
            yield match[1]
