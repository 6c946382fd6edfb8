"""The tunnel to a head, with an ssh that really forwards (between two ports of this machine) and one that fails."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayscale.cli import run_command
from rayscale.cluster.reach import cluster_pages
from rayscale.cluster.sockets import free_port, listeners
from rayscale.cluster.tunnel import Head, head_of, ssh_command, tunnel
from rayscale.errors import EnvironmentUnusableError, InputError

REPOSITORY = Path(__file__).parents[2]

FORWARD = """\
#!{python}
import socket, sys
arguments = sys.argv[1:]
open({log!r}, "w").write("\\n".join(arguments))
_, here, _, there = arguments[arguments.index("-L") + 1].split(":")
with socket.create_server(("127.0.0.1", int(here))) as server:
    while True:
        client, _ = server.accept()
        with client, socket.create_connection(("127.0.0.1", int(there))) as target:
            client.sendall(target.recv(100))
"""


def program(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def service() -> Iterator[int]:
    """Something on the head's loopback interface that greets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    with client:
                        client.sendall(b"dashboard")
            except OSError:  # closed: the test is over
                return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_the_tunnel_reaches_the_head_and_ends_with_its_context(tmp_path: Path, service: int) -> None:
    log = tmp_path / "arguments"
    ssh = program(tmp_path / "ssh", FORWARD.format(python=sys.executable, log=str(log)))
    with tunnel(Head("head.example", "ubuntu", "/k"), service, ssh=ssh) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert connection.recv(100) == b"dashboard"
        assert port not in {found.port for found in listeners([os.getpid()])}  # it is ssh that listens
        arguments = log.read_text().splitlines()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert arguments[-4:] == ["-l", "ubuntu", "--", "head.example"]
    assert f"127.0.0.1:{port}:127.0.0.1:{service}" in arguments


def test_a_failing_ssh_is_one_line_with_its_reason(tmp_path: Path) -> None:
    ssh = program(
        tmp_path / "ssh",
        "#!/bin/sh\necho Warning: added key >&2\necho 'Permission denied (publickey).' >&2\nexit 255\n",
    )
    with (
        pytest.raises(EnvironmentUnusableError, match=r"ssh to me@host failed: Permission denied \(publickey\)\.$"),
        tunnel(Head("host", "me"), 8265, ssh=ssh),
    ):
        pass
    with (
        pytest.raises(EnvironmentUnusableError, match="cannot be started: No such file"),
        tunnel(Head("host", "me"), 8265, ssh=str(tmp_path / "none")),
    ):
        pass


def test_a_port_that_a_stranger_holds_is_never_used(tmp_path: Path) -> None:
    """The stranger would be sent the token; here ssh has not failed yet when the port already answers."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        ssh = program(tmp_path / "ssh", "#!/bin/sh\nsleep 0.5\necho 'cannot listen to port' >&2\nexit 255\n")
        with (
            pytest.raises(EnvironmentUnusableError, match="cannot listen to port"),
            tunnel(Head("host", "me"), 8265, local_port=stranger.getsockname()[1], ssh=ssh),
        ):
            pytest.fail("the tunnel was used")


def test_the_command_asks_nothing_and_checks_the_heads_key() -> None:
    command = ssh_command(Head("1.2.3.4", "me", "/key", "nc -x proxy %h %p"), 1, 2)
    options = [command[index + 1] for index, word in enumerate(command) if word == "-o"]
    assert {"BatchMode=yes", "ExitOnForwardFailure=yes", "StrictHostKeyChecking=accept-new"} <= set(options)
    assert "ProxyCommand=nc -x proxy %h %p" in options
    assert command[command.index("-i") + 1] == "/key"
    assert "-L 127.0.0.1:1:127.0.0.1:2" in " ".join(command)


def test_an_on_prem_file_says_it_all(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy" / "onprem.yaml").read_text(encoding="utf-8")
    path = tmp_path / "onprem.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="head_ip: expected a value that ssh can use, got `FILL-IN-HEAD`"):
        head_of(path)
    path.write_text(text.replace("FILL-IN-HEAD", "10.0.0.5").replace("ssh_user: FILL-IN", "ssh_user: lab"), "utf-8")
    assert head_of(path) == Head("10.0.0.5", "lab", str(Path("~/.ssh/id_ed25519").expanduser()))
    path.write_text(path.read_text().replace("10.0.0.5", '"-oProxyCommand=evil"'), "utf-8")
    with pytest.raises(InputError, match="head_ip: expected a value that ssh can use"):
        head_of(path)


def test_a_cloud_file_must_be_filled_in_first() -> None:
    with pytest.raises(InputError, match=r"cluster\.yaml:\d+: FILL-IN is left to fill in"):
        head_of(REPOSITORY / "cluster.yaml")


def test_other_files_are_sent_to_address() -> None:
    with pytest.raises(InputError, match="for other clusters use --address"):
        head_of(REPOSITORY / "deploy" / "ray-start.sh")


HTTP = """\
#!{python}
import http.server, sys
arguments = sys.argv[1:]
_, here, _, there = arguments[arguments.index("-L") + 1].split(":")
assert there == "5000", there

class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({code})
        self.end_headers()
        self.wfile.write(b"OK")

http.server.HTTPServer(("127.0.0.1", int(here)), Pages).serve_forever()
"""


def test_the_pages_of_the_heads_mlflow_are_reached(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy" / "onprem.yaml").read_text(encoding="utf-8")
    path = tmp_path / "onprem.yaml"
    path.write_text(text.replace("FILL-IN-HEAD", "10.0.0.5").replace("ssh_user: FILL-IN", "ssh_user: lab"), "utf-8")
    ssh = program(tmp_path / "ssh", HTTP.format(python=sys.executable, code=200))
    port = free_port()
    with cluster_pages(path, port, ssh=ssh) as address:
        assert address == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read() == b"OK"
    program(tmp_path / "ssh", HTTP.format(python=sys.executable, code=502))
    with (
        pytest.raises(EnvironmentUnusableError, match="no MLflow server answers on port 5000 of the head"),
        cluster_pages(path, free_port(), ssh=ssh),
    ):
        pass


def test_ui_of_a_cluster_shows_all_its_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["ui", "tiny.yaml", "--cluster", "cluster.yaml"]) == 2
    assert "expected no SWEEP beside it" in capsys.readouterr().err
    assert run_command(["ui", "--cluster", str(REPOSITORY / "cluster.yaml")]) == 2
    assert "FILL-IN is left to fill in" in capsys.readouterr().err


CLOUD = """\
cluster_name: study
max_workers: 0
provider: {{type: external, module: loopback_provider.LoopbackProvider, head: "{head}"}}
auth: {{ssh_user: lab}}
cluster_synced_files: []
file_mounts: {{}}
file_mounts_sync_continuously: false
rsync_exclude: []
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
head_node_type: head
available_node_types: {{head: {{resources: {{CPU: 0}}, node_config: {{}}, max_workers: 0}}}}
"""


def test_a_cloud_is_asked_for_the_head_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where Ray's launcher keeps what it found out
    path = tmp_path / "cloud.yaml"
    path.write_text(CLOUD.format(head="127.0.0.7"), encoding="utf-8")
    assert head_of(path) == Head("127.0.0.7", "lab", "/made/by/the/cloud.pem")
    path.write_text(CLOUD.format(head=""), encoding="utf-8")
    with pytest.raises(EnvironmentUnusableError, match=r"cloud\.yaml: the head's address is not known: .*not found"):
        head_of(path)
    assert capsys.readouterr().out == ""
