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
    run: Annotated[
        str | None, typer.Option(help="Column that names the run; the bootstrap draws whole runs (ledger: by trunks).")
    ] = None,
    drop_largest: Annotated[int, typer.Option(help="Leave out this many rows with the largest losses.", min=0)] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap refits.", min=2)] = 1000,
    compute: Annotated[float | None, typer.Option(help="Find the best N and D for this many FLOP.")] = None,
    energy: Annotated[str | None, typer.Option(help="Column of the training energies in J (ledger: energy_j).")] = None,
    batch: Annotated[str | None, typer.Option(help="Column of the rows per step, for joules per FLOP.")] = None,
    joules: Annotated[float | None, typer.Option(help="Find the best N and D for this energy. Units: J.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Fit L(N, D) = E + A/N^alpha + B/D^beta with bootstrap and profile intervals."""
    from rayscale.analysis.fit_text import render_fit
    from rayscale.analysis.scaling_sweep import run_column
    from rayscale.errors import InputError
    from rayscale.fitting import FitRequest, fit_frame, ledger_points, read_points

    if table.is_dir():
        frame = ledger_points(table)
        run = run or run_column(frame)
        loss, n, d = loss or "eval_loss", n or "params", d or (None if flops else "trained_tokens")
        if joules is not None:
            energy = energy or "energy_j"
            batch = batch or ("train.batch_size" if "train.batch_size" in frame.columns else None)
    else:
        if loss is None:
            raise InputError(f"{table}: a table needs --loss, and --n with --d or --flops (names of columns)")
        frame = read_points(table)
    request = FitRequest(loss, n, d, flops, run, drop_largest, resamples, compute, energy, batch, joules)
    document = fit_frame(frame, request, str(table))
    _show(document, as_json, render_fit)
    return 0


def forecast(
    gamma: Annotated[str, typer.Option(help="Efficiency doublings per year; several for the figure: 0,0.5,1.")],
    years: Annotated[float, typer.Option(help="How far ahead. Units: yr.")],
    kappa: Annotated[float | None, typer.Option(help="Exponent of the loss in compute, e.g. 0.05.")] = None,
    fit_of: Annotated[
        Path | None, typer.Option("--fit", metavar="LEDGER|TABLE", help="Take kappa from a fit (table: N, D, loss).")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Relative loss to reach, in (0, 1].")] = None,
    front_load: Annotated[
        float | None, typer.Option(help="Compare with a fleet that spends the same energy within so many years.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap refits of --fit.", min=2)] = 1000,
    table: Annotated[bool, typer.Option("--table", help="Show a table over gamma and years.")] = False,
    figure: Annotated[Path | None, typer.Option(metavar="OUT.png|.svg", help="Draw the curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> int:
    """Relative loss R(t) of a fleet whose efficiency doubles gamma times per year (arXiv 2501.02156)."""
    from rayscale.errors import InputError
    from rayscale.forecasting import Kappa, forecast_document, gammas_of, kappa_of_fit, render_forecast

    if (kappa is None) == (fit_of is None):
        raise InputError("forecast: expected either --kappa or --fit")
    exponent = Kappa(kappa) if kappa is not None else kappa_of_fit(_fit_document(fit_of, resamples), str(fit_of))
    gammas = gammas_of(gamma)
    document = forecast_document(exponent, gammas[0], years, target, front_load)
    if figure is not None:
        from rayscale.report.plot_forecast import forecast_figure, save_figure
        from rayscale.report.plotting import style

        family = gammas if len(gammas) > 1 else document["family"]["gammas"]
        with style():
            save_figure(forecast_figure(exponent.value, family, years, target, exponent.ci95), figure)
    _show(document, as_json, lambda found: render_forecast(found, with_table=table))
    return 0


def _fit_document(source: Path | None, resamples: int) -> dict[str, Any]:
    """Fit a ledger, or a table with the columns N, D, loss."""
    from rayscale.analysis.scaling_sweep import run_column
    from rayscale.fitting import FitRequest, fit_frame, ledger_points, read_points

    if source is None:
        return {}
    if source.is_dir():
        frame = ledger_points(source)
        request = FitRequest("eval_loss", "params", "trained_tokens", run=run_column(frame), resamples=resamples)
        return fit_frame(frame, request, str(source))
    return fit_frame(read_points(source), FitRequest("loss", "N", "D", resamples=resamples), str(source))


def _show(document: dict[str, Any], as_json: bool, render: Any) -> None:
    typer.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else render(document))
