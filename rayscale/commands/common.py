"""What the commands share: their common arguments, opening ledgers, JSON on stdout."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rayscale.errors import InputError

DEFAULT_STORAGE = "results"

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Sweep file.")]
Target = Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep file or ledger directory.")]
Storage = Annotated[Path, typer.Option("--storage", help="Where ledgers lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def print_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def open_ledger(storage: Path, name: str) -> Any:
    """Return the ledger of a sweep; it need not exist yet."""
    from rayscale.ledger import Ledger

    if re.match(r"[a-z0-9]+:/", str(storage)):  # pathlib has made one slash of two
        raise InputError(f"--storage {storage}: object stores are not supported yet; expected a directory")
    return Ledger(storage / name)


def open_target(target: Path, storage: Path) -> tuple[Any, Any]:
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
