"""A cluster file as data with the line of every value, whatever kind of file it is.

Three kinds start a Ray cluster: a file for `ray up` (any node provider), a KubeRay manifest, and a shell script with
plain `ray start` commands. The lints ask for commands and values by path and get the line to name; what Ray would fill
in by default is checked as well, since its defaults are where most of the trouble lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rayscale.errors import InputError

KeyPath = tuple[str | int, ...]
Kind = Literal["launcher", "kuberay", "script"]

COMMAND_KEYS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Keys of a launcher file that hold shell commands."""


@dataclass(frozen=True)
class Command:
    """One shell command of a cluster file."""

    text: str
    """The command."""
    path: KeyPath
    """Where it stands; empty in scripts."""
    line: int
    """Line in the file; where Ray filled it in, the line of what is above it."""
    role: Literal["head", "worker", "both"]
    """Which nodes run it."""


@dataclass(frozen=True)
class ClusterFile:
    """A parsed cluster file.

    Attributes:
        path: The file.
        kind: What it starts.
        tree: Its content as plain data (several YAML documents: a list of them); {} for a script.
        lines: Line of every key and item, by path.
        text: The text itself.
    """

    path: Path
    kind: Kind
    tree: Any
    lines: dict[KeyPath, int]
    text: str

    def line(self, path: KeyPath) -> int:
        """Return the line of a value, or of the nearest thing above it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def values(self) -> Iterator[tuple[KeyPath, Any]]:
        """Yield every scalar with its path."""
        yield from _scalars(self.tree, ())


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file and find out what it is.

    Args:
        path: `.yaml` / `.yml` for `ray up` or KubeRay, anything else is a shell script.

    Returns:
        The file with its lines.

    Raises:
        InputError: If it cannot be read, is no YAML, or starts no Ray cluster.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the cluster file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected a text file in UTF-8") from None
    if path.suffix not in (".yaml", ".yml"):
        if "ray start" not in text:
            raise InputError(f"{path}: expected a YAML file or a script with `ray start`")
        return ClusterFile(path, "script", {}, {}, text)
    documents, lines = _parse(text, path)
    if any(isinstance(document, dict) and "apiVersion" in document for document in documents):
        return ClusterFile(path, "kuberay", documents, lines, text)
    tree = documents[0] if documents else None
    if not isinstance(tree, dict) or not isinstance(tree.get("provider"), dict):
        raise InputError(f"{path}:1: expected a file for `ray up` (cluster_name, provider, ...) or a KubeRay manifest")
    return ClusterFile(path, "launcher", tree, {key[1:]: line for key, line in lines.items() if key}, text)


def launcher_commands(source: ClusterFile, effective: dict[str, Any]) -> list[Command]:
    """List the commands that `ray up` will run.

    Args:
        source: The file.
        effective: Its content with Ray's defaults filled in.

    Returns:
        The commands, those of the node types included.
    """
    found = list(_commands_at(source, effective, ()))
    for name, node_type in (effective.get("available_node_types") or {}).items():
        role: Literal["head", "worker"] = "head" if name == effective.get("head_node_type") else "worker"
        found += _commands_at(source, node_type, ("available_node_types", name), role)
    return found


def script_commands(source: ClusterFile) -> list[Command]:
    """List the lines of a shell script, those ended by a backslash joined, comments left out."""
    found: list[Command] = []
    held, first = "", 0
    for number, line in enumerate(source.text.splitlines(), start=1):
        first = first or number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1]
            continue
        text = re.sub(r"(^|\s)#.*", "", held + line).strip()
        if text:
            found.append(Command(text, (), first, "both"))
        held, first = "", 0
    return found


def _commands_at(
    source: ClusterFile, node: dict[str, Any], base: KeyPath, role: Literal["head", "worker"] | None = None
) -> Iterator[Command]:
    for key in COMMAND_KEYS:
        for index, text in enumerate(node.get(key) or []):
            path = (*base, key, index)
            owner: Any = role or (
                "head" if key.startswith("head") else "worker" if key.startswith("worker") else "both"
            )
            yield Command(str(text), path, source.line(path), owner)


def _parse(text: str, path: Path) -> tuple[list[Any], dict[KeyPath, int]]:
    lines: dict[KeyPath, int] = {}
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        documents = list(yaml.safe_load_all(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: this is no valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: this is no valid YAML: {str(error).splitlines()[0]}") from None
    for index, node in enumerate(nodes):
        _note_lines(node, (index,), lines)
    return documents, lines


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*path, key.value)] = key.start_mark.line + 1
            _note_lines(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            # An alias stands where it is used but its node where it was written: the latter names the value.
            _note_lines(item, (*path, index), lines)


def _scalars(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _scalars(value, (*path, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _scalars(value, (*path, index))
    else:
        yield path, node
