"""Listening sockets as the kernel tells them."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.cluster.sockets import Listener, decode_address, free_port, listeners


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_an_own_socket_is_found_with_its_address(address: str, loopback: bool) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        found = [listener for listener in listeners([os.getpid()]) if listener.port == port]
        assert found == [Listener(os.getpid(), address, port)]
        assert found[0].loopback is loopback
    assert all(listener.port != port for listener in listeners([os.getpid()]))


def test_a_process_that_is_gone_has_nothing(tmp_path: Path) -> None:
    assert listeners([2**22 - 1], tmp_path) == []


@pytest.mark.skipif(sys.byteorder != "little", reason="the examples are written by a little-endian kernel")
def test_the_kernels_examples() -> None:
    assert decode_address("0100007F:1F90") == ("127.0.0.1", 8080)
    assert decode_address("00000000000000000000000001000000:0016") == ("::1", 22)
    assert Listener(1, decode_address("0000000000000000FFFF00000100007F:AE77")[0], 1).loopback
    assert not Listener(1, decode_address("00000000000000000000000000000000:0016")[0], 22).loopback


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_is_read_back(address: IPv4Address | IPv6Address, port: int) -> None:
    raw = address.packed
    words = "".join(raw[start : start + 4][::-1].hex().upper() for start in range(0, len(raw), 4))
    text, found = decode_address(f"{words}:{port:04X}")
    assert (ip_address(text), found) == (address, port)


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[0] == "127.0.0.1"
