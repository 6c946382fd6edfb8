"""Lints of `ray start` commands and of what surrounds them: who can reach the node, and with what proof.

Ray runs any code that reaches its ports (that is its purpose; CVE-2023-48022 is about nothing else), so the rules are:
dashboard and MLflow on loopback, token authentication on every node, no secrets in files that are shared.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from rayscale.cluster.findings import Finding, problem, warning
from rayscale.cluster.source import Command

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_RAY_START = re.compile(r"\bray start\b[^;&|]*")
_MLFLOW = re.compile(r"\bmlflow (?:server|ui)\b[^;&|]*")
_SECRETS = (
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an AWS access key id"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"), "a Hugging Face token"),
    (re.compile(r"://[^/\s:@]+:(?!\$)[^/\s@]+@"), "a password in a URL"),
    (re.compile(r"[?&]X-Amz-Signature="), "a presigned URL"),
    (
        re.compile(
            r"\b\w*(?:SECRET_ACCESS_KEY|SECRET|PASSWORD|AUTH_TOKEN|_TOKEN|API_KEY)\s*[=:]\s*[\"']?(?![\"'$<]|\s)\S",
            re.I,
        ),
        "a secret given as a value",
    ),
)


def exposure(commands: list[Command]) -> Iterator[Finding]:
    """Yield what the start commands open to others than this node.

    Args:
        commands: The shell commands of the cluster file.

    Yields:
        Findings about the dashboard, Ray Client and MLflow.
    """
    for command in commands:
        for call in _RAY_START.findall(command.text):
            yield from _ray_start(command, _flags(call))
        for call in _MLFLOW.findall(command.text):
            host = _flags(call).get("host", "127.0.0.1")
            if host not in LOOPBACK:
                yield problem(
                    "mlflow_exposed",
                    command.line,
                    f"MLflow listens on {host}; expected --host 127.0.0.1 (tunnel to it)",
                )


def _ray_start(command: Command, flags: dict[str, str]) -> Iterator[Finding]:
    host = flags.get("dashboard-host", "127.0.0.1")
    if host not in LOOPBACK:
        yield problem(
            "dashboard_exposed",
            command.line,
            f"the dashboard, which runs any job sent to it, listens on {host}; expected --dashboard-host=127.0.0.1",
        )
    if "ray-client-server-port" in flags:
        yield problem(
            "client_port", command.line, "--ray-client-server-port opens a further port that runs code; leave it out"
        )


def authentication(commands: list[Command], mounts: dict[str, str], line: int) -> Iterator[Finding]:
    """Yield what is missing for token authentication.

    Args:
        commands: The shell commands of the cluster file.
        mounts: Remote path -> local path of mounted files.
        line: Line to name when something is missing as a whole.

    Yields:
        Findings: off, or on without a token on the nodes.
    """
    everything = "\n".join(command.text for command in commands)
    if not re.search(r"RAY_AUTH_MODE=[\"']?token\b", everything):
        yield problem(
            "token_off", line, "token authentication is off; expected `export RAY_AUTH_MODE=token` before `ray start`"
        )
    mounted = any(remote.rstrip("/").endswith(("auth_token", "/.ray")) for remote in mounts)
    if not mounted and "RAY_AUTH_TOKEN_PATH" not in everything and "auth_token" not in everything:
        yield problem("token_not_mounted", line, "no node gets the token; expected a file mount to ~/.ray/auth_token")


def secrets(text: str) -> Iterator[Finding]:
    """Yield lines that hold a credential. The value itself is never repeated.

    Args:
        text: The whole file.

    Yields:
        One finding per line and kind.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        for pattern, what in _SECRETS:
            if pattern.search(line):
                yield problem(
                    "secret_in_file",
                    number,
                    f"this line holds {what}; expected it to come from a role, mount or environment",
                )
                break


def starts_ray(commands: list[Command], role: str) -> Command | None:
    """Return the command that starts Ray on the head or on workers, if there is one."""
    for command in commands:
        if "ray start" in command.text and (("--head" in command.text) == (role == "head")):
            return command
    return None


def advertises_devices(commands: list[Command], line: int) -> Iterator[Finding]:
    """Yield a warning when workers do not tell Ray the identity of their GPUs (design 5.4)."""
    worker = starts_ray(commands, "worker")
    if worker is not None and "node-resources" not in worker.text:
        yield warning(
            "devices_by_chance",
            worker.line or line,
            'blocks would not be kept on one GPU; expected --resources="$(rayscale node-resources)" in `ray start`',
        )


def _flags(call: str) -> dict[str, str]:
    """Read `--name=value` and `--name value`; a flag without a value gives an empty one."""
    try:
        words = shlex.split(call)
    except ValueError:  # an unbalanced quote: cut where a shell would go on
        words = call.split()
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("-") else ""
            found[name] = value if equals else following
    return found
