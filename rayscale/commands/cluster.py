"""The commands about clusters: `cluster check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayscale.commands.common import Json, print_json


def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="cluster.yaml, a KubeRay manifest, or a `ray start` script.")
    ],
    allow: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Accept this finding (repeatable).")] = None,
    ready: Annotated[bool, typer.Option("--ready", help="Also fail while values are left to fill in.")] = False,
    as_json: Json = False,
) -> int:
    """Check a cluster file offline: Ray's schema, what is exposed, and what a study needs; exit 1 on problems."""
    from rayscale.cluster.check import check_cluster_file

    checked = check_cluster_file(file, tuple(allow or ()))
    print_json(checked.document()) if as_json else typer.echo(checked.text())
    return 1 if checked.problems or (ready and not checked.ready) else 0
