"""From a YAML file to a `SweepSpec`, with every problem reported at once: file, line, key, expectation, nearest key."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rayscale.errors import InputError
from rayscale.spec import TREATMENT, SweepSpec

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML with the booleans of YAML 1.2 (so that `NO` is Norway and `off` a word) and no base-60 numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_spec(path: str | Path) -> SweepSpec:
    """Read and validate a sweep file.

    Args:
        path: The YAML file. Relative `data.files` patterns are resolved against its directory.

    Returns:
        The validated sweep.

    Raises:
        InputError: With one line per problem: file, line, key, what was expected and the nearest valid key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the sweep file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected a YAML text file in UTF-8") from None
    spec = parse_spec(text, str(path))
    if spec.data.files:
        files = [str((path.parent / pattern).absolute()) for pattern in spec.data.files]
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"files": files})})
    return spec


def parse_spec(text: str, source: str) -> SweepSpec:
    """Validate the text of a sweep file.

    Args:
        text: YAML.
        source: Name of the file for messages.

    Returns:
        The validated sweep.

    Raises:
        InputError: With one line per problem.
    """
    tree, lines, problems = _read_yaml(text, source)
    if problems:
        raise InputError(problems)
    try:
        spec = SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise InputError(sorted(_explain(error, lines, source), key=_line_number)) from None
    problems = list(_factor_problems(spec, lines, source))
    if problems:
        raise InputError(problems)
    return spec


def _line_number(problem: str) -> int:
    return next((int(part) for part in problem.split(":") if part.isdigit()), 0)


def _read_yaml(text: str, source: str) -> tuple[Any, dict[KeyPath, int], list[str]]:
    """Parse YAML into plain data, the line of every key, and the problems that prevent it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        duplicates = [f"{source}:{line}: {key}: this key is given twice" for key, line in _walk(node, (), lines)]
        tree = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        return None, {}, [f"{source}{line}: this is no valid YAML: {error.problem or error.context}"]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, {}, [f"{source}: this is no valid YAML: {str(error).splitlines()[0]}"]
    if not isinstance(tree, dict):
        return None, {}, [f"{source}:1: expected a mapping with the keys name, design, model, data, ..."]
    return tree, lines, duplicates


def _walk(node: yaml.Node | None, path: KeyPath, lines: dict[KeyPath, int]) -> Iterator[tuple[str, int]]:
    """Fill `lines` with the line of each key path and yield keys that occur twice in one mapping."""
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            child = (*path, key_node.value)
            lines[child] = key_node.start_mark.line + 1
            if key_node.value in seen:
                yield ".".join(map(str, child)), lines[child]
            seen.add(key_node.value)
            yield from _walk(value_node, child, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), lines)


def _explain(error: ValidationError, lines: dict[KeyPath, int], source: str) -> Iterator[str]:
    """Turn pydantic's errors into one line per key; of the branches of a union the one that got furthest speaks."""
    placed = [(_known_path(problem["loc"], lines), problem) for problem in error.errors()]
    told: set[KeyPath] = set()
    for (path, missing), problem in placed:
        key = (*path, missing) if problem["type"] == "missing" and missing else path
        if key in told or any(other[: len(key)] == key != other for (other, _), _ in placed):
            continue
        told.add(key)
        line = lines.get(path, lines.get((), 1))
        yield f"{source}:{line}: {'.'.join(map(str, key or ('(file)',)))}: {_message(problem, path)}"


def _known_path(loc: KeyPath, lines: dict[KeyPath, int]) -> tuple[KeyPath, str]:
    """Split a location into the part that is in the file and the last name; pydantic's union labels drop out."""
    path: KeyPath = ()
    for part in loc:
        if (*path, part) in lines:
            path = (*path, part)
    return path, str(loc[-1]) if loc else ""


def _message(problem: Any, path: KeyPath) -> str:
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        nearest = difflib.get_close_matches(str(path[-1]), _valid_keys(path[:-1]), n=1, cutoff=0.5)
        known = f"did you mean `{nearest[0]}`?" if nearest else f"expected one of {', '.join(_valid_keys(path[:-1]))}"
        return f"unknown key; {known}"
    if kind == "missing":
        return "this key is required"
    text = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return text
    return f"{text[0].lower()}{text[1:]}, got {given!r}"


def _valid_keys(path: KeyPath) -> list[str]:
    """List the keys of the section at `path`."""
    annotation: Any = SweepSpec
    for part in path:
        section = _section_of(annotation)
        if section is None and get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]  # any key, e.g. a measure of analysis.equivalence
            continue
        field = section.model_fields.get(str(part)) if section else None
        annotation = field.annotation if field else None
    section = _section_of(annotation)
    return list(section.model_fields) if section else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _factor_problems(spec: SweepSpec, lines: dict[KeyPath, int], source: str) -> Iterator[str]:
    """Try every level of every further factor on the sweep, then their combinations."""
    tried: list[tuple[KeyPath, dict[str, Any]]] = []
    for name, levels in spec.design.factors.items():
        if name == TREATMENT:
            tried += [(("design", "treatments", str(level)), {name: level}) for level in levels]
        elif name != "tokens":
            tried += [(("design", "factors", name, index), {name: level}) for index, level in enumerate(levels)]
    problems = [problem for place, levels in tried for problem in _setting_problems(spec, place, levels, lines, source)]
    yield from problems
    if not problems:
        further = {name: levels for name, levels in spec.design.factors.items() if name != "tokens"}
        for cell in itertools.product(*further.values()):
            condition = dict(zip(further, cell, strict=True))
            yield from _setting_problems(spec, ("design", "factors"), condition, lines, source)


def _setting_problems(
    spec: SweepSpec, place: KeyPath, levels: dict[str, Any], lines: dict[KeyPath, int], source: str
) -> Iterator[str]:
    line = next((lines[place[:size]] for size in range(len(place), 0, -1) if place[:size] in lines), 1)
    named = ".".join(part for part in place if isinstance(part, str))
    try:
        spec.with_settings(levels)
    except ValidationError as error:
        problem = error.errors()[0]
        key = tuple(problem["loc"])
        where = f"{_dotted(key)}: " if place[1] == "treatments" or len(levels) > 1 else ""
        yield f"{source}:{line}: {named}: {where}{_message(problem, key)}"
    except ValueError as error:
        yield f"{source}:{line}: {named}: {error}"


def _dotted(key: KeyPath) -> str:
    return ".".join(map(str, key))
