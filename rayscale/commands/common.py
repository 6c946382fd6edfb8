"""What the commands share: their common arguments, opening ledgers, JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rayscale.errors import InputError
from rayscale.storage import is_uri, join

DEFAULT_STORAGE = "results"

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Sweep file.")]
Target = Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep file or ledger directory.")]
Storage = Annotated[
    str,
    typer.Option("--storage", envvar="RAYSCALE_STORAGE", help="Where ledgers lie: a directory, s3://... or gs://..."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

TableFormat = Annotated[str, typer.Option("--format", help="text, csv or latex.")]


def print_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def open_ledger(storage: str, name: str) -> Any:
    """Return the ledger of a sweep; it need not exist yet."""
    from rayscale.ledger import Ledger

    return Ledger(join(storage, name))


def open_target(target: Path, storage: str) -> tuple[Any, Any]:
    """Find the ledger that a sweep file or a directory names; the spec is None for a directory."""
    from rayscale.ledger import Ledger
    from rayscale.specfile import load_spec

    if target.is_dir():
        return Ledger(target), None
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"{target}: expected a sweep file (.yaml) or a ledger directory")
    spec = load_spec(target)
    return open_ledger(storage, spec.name), spec


def plan_of(ledger: Any, spec: Any) -> Any:
    """Return the plan of the sweep file if one was given, else the stored one; there must be a ledger."""
    from rayscale.design import plan_sweep

    stored = ledger.read_plan()
    return plan_sweep(spec) if spec is not None else stored


def seconds(option: str, value: str) -> float:
    """Read an option that is a duration. Units: s."""
    from rayscale.quantities import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def local_place(storage: str) -> Path:
    """Return the directory of a storage on this machine; for an object store the one its files pass through."""
    from rayscale.environment import cache_directory

    return cache_directory() / "ledgers" if is_uri(storage) else Path(storage)
