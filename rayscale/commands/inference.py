"""The commands about designs and published figures: power and check-reported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayscale.commands.common import (
    DEFAULT_STORAGE,
    Json,
    Storage,
    TableFormat,
    open_target,
    print_json,
)


def power(
    target: Annotated[Path | None, typer.Argument(metavar="[SWEEP|LEDGER]", help="A sweep, or a pilot.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    f: Annotated[float | None, typer.Option("--f", help="Cohen's f (sd of the means / sd of a value).")] = None,
    means: Annotated[str | None, typer.Option(help="Expected means, comma-separated, instead of --f.")] = None,
    sd_error: Annotated[float | None, typer.Option(help="Sd within repetitions, with --means.")] = None,
    sd_subject: Annotated[float, typer.Option(help="Sd that a repetition's trials share, with --means.")] = 0.0,
    from_ledger: Annotated[bool, typer.Option("--from-ledger", help="Insist on a pilot's finished trials.")] = False,
    levels: Annotated[int | None, typer.Option(help="Conditions.")] = None,
    rho: Annotated[float | None, typer.Option(help="Correlation within repetitions (0.5).")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Departure from sphericity (1).")] = None,
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05,
    wanted: Annotated[float, typer.Option("--power", help="Wanted power.")] = 0.8,
    n: Annotated[int | None, typer.Option("--n", help="Repetitions.")] = None,
    dv: Annotated[str | None, typer.Option(help="Measure of the pilot.")] = None,
    effect: Annotated[str | None, typer.Option(help="Factor or interaction a:b to plan for (tokens).")] = None,
    form: TableFormat = "text",
    as_json: Json = False,
) -> int:
    """How many repetitions: power for n, n for a power, smallest detectable effect."""
    from rayscale.documents import power_latex, render_document
    from rayscale.powering import PowerRequest, parse_numbers, power_document, render_power

    request = PowerRequest(
        f=f,
        means=parse_numbers(means, "--means"),
        sd_subject=sd_subject,
        sd_error=sd_error,
        levels=levels,
        rho=rho,
        epsilon=epsilon,
        alpha=alpha,
        power=wanted,
        n=n,
        dv=dv,
        from_ledger=from_ledger,
        effect=effect,
    )
    ledger, spec = open_target(target, storage) if target else (None, None)
    document = power_document(request, spec, ledger)
    shown = render_document(document, form, render_power, power_latex)
    print_json(document) if as_json else typer.echo(shown)
    return 0


def check_reported(
    F: Annotated[str | None, typer.Option("--F", help="Published F, as printed.")] = None,  # noqa: N803
    t: Annotated[str | None, typer.Option("--t", help="Published paired t, instead of F.")] = None,
    df: Annotated[str | None, typer.Option(help="Degrees of freedom: 2,98 for F, 49 for t.")] = None,
    ges: Annotated[str | None, typer.Option(help="Generalized eta squared, as printed.")] = None,
    p: Annotated[str | None, typer.Option("--p", help="Published p, e.g. .1753 or '<.001'.")] = None,
    comparisons: Annotated[int, typer.Option(help="Size of the family of a t (Bonferroni).")] = 1,
    form: TableFormat = "text",
    as_json: Json = False,
) -> int:
    """Derive what published statistics imply and whether they fit together; exit 1 if they cannot."""
    from rayscale.checking import Reported, render_reported, reported_document
    from rayscale.documents import render_document, reported_latex

    document = reported_document(Reported(F=F, t=t, df=df, ges=ges, p=p, comparisons=comparisons))
    shown = render_document(document, form, render_reported, reported_latex)
    print_json(document) if as_json else typer.echo(shown)
    return 0 if document["fits"] else 1
