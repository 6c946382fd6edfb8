"""The commands `fit` and `forecast`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def fit(
    table: Annotated[
        Path, typer.Argument(metavar="FILE|LEDGER", help=".csv, .parquet or .json; or a ledger directory.")
    ],
    loss: Annotated[str | None, typer.Option(help="Column of the losses (ledger: eval_loss).")] = None,
    n: Annotated[str | None, typer.Option("--n", help="Column of the parameters N (ledger: params).")] = None,
    d: Annotated[str | None, typer.Option("--d", help="Column of the tokens D (ledger: trained_tokens).")] = None,
    flops: Annotated[
        str | None, typer.Option(help="Column of the training FLOPs, instead of --d: D = C/(6 N).")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Column that names the run; the bootstrap draws whole runs.")] = None,
    drop_largest: Annotated[int, typer.Option(help="Leave out this many rows with the largest losses.", min=0)] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap refits.", min=2)] = 1000,
    compute: Annotated[float | None, typer.Option(help="Find the best N and D for this many FLOP.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Fit L(N, D) = E + A/N^alpha + B/D^beta with bootstrap intervals."""
    from rayscale.errors import InputError
    from rayscale.fitting import FitRequest, fit_frame, ledger_points, read_points, render_fit

    if table.is_dir():
        frame = ledger_points(table)
        loss, n, d = loss or "eval_loss", n or "params", d or (None if flops else "trained_tokens")
    else:
        if loss is None:
            raise InputError(f"{table}: a table needs --loss, and --n with --d or --flops (names of columns)")
        frame = read_points(table)
    request = FitRequest(loss, n, d, flops, run, drop_largest, resamples, compute)
    document = fit_frame(frame, request, str(table))
    _show(document, as_json, render_fit)
    return 0


def forecast(
    kappa: Annotated[float, typer.Option(help="Exponent of the loss in compute, e.g. 0.05.")],
    gamma: Annotated[float, typer.Option(help="Efficiency doublings per year.")],
    years: Annotated[float, typer.Option(help="How far ahead. Units: yr.")],
    target: Annotated[float | None, typer.Option(help="Relative loss to reach, in (0, 1].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Relative loss R(t) of a fleet whose efficiency doubles gamma times per year (arXiv 2501.02156)."""
    from rayscale.forecasting import forecast_document, render_forecast

    _show(forecast_document(kappa, gamma, years, target), as_json, render_forecast)
    return 0


def _show(document: dict[str, Any], as_json: bool, render: Any) -> None:
    typer.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else render(document))
