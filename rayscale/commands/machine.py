"""The commands about the machine: doctor and measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rayscale.commands.common import (
    DEFAULT_STORAGE,
    Json,
    Storage,
    local_place,
    print_json,
)
from rayscale.errors import InputError


def doctor(
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not import torch and Ray.")] = False,
) -> int:
    """Look whether a sweep can run here, what its energy would be worth, and what to do about it; exit 3 if not."""
    from rayscale.doctor.examine import examine

    diagnosis = examine(local_place(storage), quick=quick)
    print_json(diagnosis.document()) if as_json else typer.echo(diagnosis.text())
    return diagnosis.exit_code


def measure(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND ...", help="Program and arguments.")],
    period: Annotated[str, typer.Option(help="Time between power samples.")] = "100ms",
    trace: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the power traces here.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout; the command's own stdout then goes to stderr.")
    ] = False,
) -> int:
    """Run any command under the power meter; its exit code is passed on.

    Energy, mean and RMS power, coverage and verdict of every visible GPU, else of the CPU; as text on stderr.
    """
    from rayscale.metering import measure as run_measured
    from rayscale.spec import EnergySpec

    try:
        spec = EnergySpec.model_validate({"period": period})
    except ValueError:
        raise InputError(f"--period {period}: expected a duration above 0 such as 100ms or 1s") from None
    result = run_measured(command, spec, trace=trace, stdout=sys.stderr.fileno() if as_json else None)
    print_json(result.document()) if as_json else typer.echo(result.text(), err=True)
    return result.exit_code
