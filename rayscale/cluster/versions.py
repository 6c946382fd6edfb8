"""Lints of what a study needs from a cluster: pinned versions, constant hardware, shared storage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayscale.cluster.findings import Finding, problem, warning
from rayscale.cluster.source import Command

_PIP = re.compile(r"\b(?:pip3?|uv pip) install\b[^;&|]*")
_IMAGE_TAG = re.compile(r"^[^@]+:(?P<tag>[^:@/]+)$")
_STORAGE = re.compile(r"RAYSCALE_STORAGE=[\"']?(?P<value>[^\s\"';]+)")
_MOUNT = re.compile(r"\bmount\b.*\b(?:nfs4?|efs|lustre|fsx)\b")
_FLAGS_WITH_VALUE = (
    "-r",
    "-c",
    "--requirement",
    "--constraint",
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--target",
    "-t",
)


def pinned(commands: list[Command]) -> Iterator[Finding]:
    """Yield packages that are installed without a fixed version.

    Args:
        commands: The shell commands of the cluster file.

    Yields:
        One finding per command, naming the packages.
    """
    for command in commands:
        loose = [word for call in _PIP.findall(command.text) for word in _loose_requirements(call)]
        if loose:
            yield problem(
                "unpinned",
                command.line,
                f"{', '.join(loose)}: the version is not fixed; expected NAME==VERSION or -c FILE",
            )


def _loose_requirements(call: str) -> list[str]:
    """List what pip would choose a version for. A constraints or requirements file is taken to pin everything."""
    words = call.split()[2:] if not call.startswith("uv") else call.split()[3:]
    if any(
        word in ("-c", "--constraint", "-r", "--requirement") or word.startswith(("--constraint=", "--requirement="))
        for word in words
    ):
        return []
    skip, loose = False, []
    for word in (word.strip("\"'") for word in words):
        if skip or word.startswith("-"):
            skip = word in _FLAGS_WITH_VALUE
            continue
        nightly = "latest" in word or "nightly" in word
        file = word.endswith(".whl") or word.startswith((".", "/", "~", "$"))
        if nightly or not (file or "==" in word or "@" in word):
            loose.append(word)
    return loose


def image_pinned(image: str | None, line: int, key: str) -> Iterator[Finding]:
    """Yield a finding for a container image without a fixed tag."""
    if not image:
        return
    tag = _IMAGE_TAG.match(image)
    if "@sha256:" not in image and (tag is None or tag["tag"].startswith(("latest", "nightly"))):
        yield problem("unpinned", line, f"{key} {image}: expected a fixed tag or digest")


def shared_storage(commands: list[Command], line: int, *, needs_mount: bool) -> Iterator[Finding]:
    """Yield a finding when the nodes would not share the ledger.

    Args:
        commands: The shell commands of the cluster file.
        line: Line to name when nothing is said about storage.
        needs_mount: Whether a plain path must be mounted by the file itself (cloud nodes are born empty).

    Yields:
        At most one finding.
    """
    everything = "\n".join(command.text for command in commands)
    found = _STORAGE.search(everything)
    if found is None:
        yield problem(
            "no_shared_storage",
            line,
            "no ledger that all nodes share; expected RAYSCALE_STORAGE=s3://bucket/prefix, gs://... or a shared path",
        )
        return
    value = found["value"]
    where = next(command.line for command in commands if found[0] in command.text)
    if re.match(r"[a-z][a-z0-9]*://", value):
        return
    if not needs_mount:
        yield warning(
            "check_shared", where, f"RAYSCALE_STORAGE={value}: must be one file system on all nodes (NFS or like)"
        )
    elif not _MOUNT.search(everything):
        yield problem(
            "no_shared_storage", where, f"RAYSCALE_STORAGE={value} is local to each node; expected s3:// or a mount"
        )
