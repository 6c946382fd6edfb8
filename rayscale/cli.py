"""The `rayscale` command. Each command validates, calls the package, prints; heavy modules load inside the commands."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from rayscale import __version__
from rayscale.commands import analysis, cluster, inference, machine, scaling, study
from rayscale.errors import RayscaleError

app = typer.Typer(
    name="rayscale",
    help="Token-scale studies of language-model training: designed sweeps, trustworthy energy, honest statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line and exit with the code of design 4.2."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name.

    Returns:
        Exit code: 0 done, 1 something failed, 2 bad input, 3 environment unusable, 130 interrupted.
    """
    # Typer brings its own copy of click; its usage errors are the parents of BadParameter.
    usage_error: Any = typer.BadParameter.__mro__[1]
    try:
        code = app(argv, standalone_mode=False, prog_name="rayscale")
    except RayscaleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except usage_error as error:
        print(f"rayscale: {error.format_message()} (see --help)", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # e.g. `rayscale plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rayscale {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Token-scale studies of language-model training: designed sweeps, trustworthy energy, honest statistics."""


for command in (
    study.plan,
    study.run,
    study.status,
    analysis.analyze,
    study.report,
    study.export,
    study.sync,
    study.ui,
):
    app.command()(command)
app.command()(machine.doctor)
app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(machine.measure)
app.command()(inference.power)
app.command("check-reported")(inference.check_reported)
app.command()(scaling.fit)
app.command()(scaling.forecast)
app.command()(study.schema)
app.command("node-resources")(cluster.node_resources)
app.command()(cluster.submit)
clusters = typer.Typer(help="Cluster files and submitted sweeps.", no_args_is_help=True)
clusters.command("check")(cluster.check)
clusters.command()(cluster.status)
clusters.command()(cluster.logs)
clusters.command()(cluster.stop)
clusters.command()(cluster.resume)
# Everything after `--` belongs to `rayscale run`.
clusters.command(hidden=True, context_settings={"allow_extra_args": True})(cluster.drive)


@clusters.callback()
def _clusters() -> None:
    """Check the files that start a cluster; look after the sweeps submitted to it."""


app.add_typer(clusters, name="cluster")


if __name__ == "__main__":
    main()
