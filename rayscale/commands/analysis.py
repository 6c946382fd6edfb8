"""The command `analyze`: a sweep, or any long table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rayscale.commands.common import DEFAULT_STORAGE, Storage, open_target, plan_of
from rayscale.errors import InputError


def analyze(
    target: Annotated[Path, typer.Argument(metavar="SWEEP|TABLE", help="Sweep, ledger, or .csv/.parquet/.json.")],
    storage: Storage = DEFAULT_STORAGE,
    dv: Annotated[str | None, typer.Option(help="Dependent variable(s), comma-separated.")] = None,
    within: Annotated[str | None, typer.Option(help="Within-subject factor(s), comma-separated.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column that names the subject.")] = None,
    aggregate: Annotated[str | None, typer.Option(help="`mean`: average repeated cells.")] = None,
    device: Annotated[str | None, typer.Option(help="Column that names the device: adds models with devices.")] = None,
    order: Annotated[str | None, typer.Option(help="Column that grows with time: checks run order and drift.")] = None,
    scale: Annotated[str | None, typer.Option(help="raw or log: the primary scale of a table (raw).")] = None,
    margin: Annotated[str | None, typer.Option(help="Equivalence margin of a table: 0.05, or a ratio: x1.05.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Significance level.", min=0.0, max=1.0)] = None,
    resample: Annotated[
        str | None, typer.Option(metavar="PERIOD", help="Also: as if power were sampled this seldom, e.g. 60s.")
    ] = None,
    spend: Annotated[
        list[str] | None, typer.Option(metavar="AMOUNT", help="What it buys: 2kJ, 0.5kWh, 10min, 1e15FLOP, 3 (money).")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, csv, latex or methods.")] = "text",
    json_out: Annotated[str | None, typer.Option("--json", metavar="OUT|-", help="Write the result as JSON.")] = None,
) -> int:
    """Repeated-measures statistics of a sweep, or of any long table."""
    from rayscale.analysis.run import to_json
    from rayscale.analyzing import render_tree

    if form not in ("text", "csv", "latex", "methods"):
        raise InputError(f"--format {form}: expected text, csv, latex or methods")
    columns = _Columns(within, subject, aggregate, device, order, scale, margin)
    if target.suffix in (".csv", ".parquet", ".json") and not target.is_dir():
        if resample is not None:
            raise InputError("--resample: only for sweeps; a table has no power traces")
        if spend:
            raise InputError("--spend: only for sweeps; a table does not say what its rows took")
        tree = _table_tree(target, dv, alpha, columns)
    else:
        tree = _sweep_tree(target, storage, dv, alpha, columns, spend or [], resample)
    if json_out == "-":
        typer.echo(to_json(tree))
        return 0
    if json_out:
        Path(json_out).write_text(to_json(tree) + "\n", encoding="utf-8")
    typer.echo(render_tree(tree, form))
    if "resampled" in tree:
        from rayscale.resampling_view import render_resampled

        typer.echo("\n" + render_resampled(tree["resampled"]))
    return 0


@dataclass(frozen=True)
class _Columns:
    """The options that describe a table; a sweep's design is in its file."""

    within: str | None
    subject: str | None
    aggregate: str | None
    device: str | None
    order: str | None
    scale: str | None
    margin: str | None


def _table_tree(table: Path, dv: str | None, alpha: float | None, columns: _Columns) -> dict[str, Any]:
    from rayscale.analyzing import analyze_table

    described = asdict(columns) | {"scale": columns.scale or "raw"}
    return analyze_table(table, dv=dv, alpha=alpha, **described)


def _sweep_tree(
    target: Path,
    storage: str,
    dv: str | None,
    alpha: float | None,
    columns: _Columns,
    spend: list[str],
    resample: str | None,
) -> dict[str, Any]:
    from rayscale.analyzing import analyze_ledger

    for name, value in asdict(columns).items():
        if value is not None:
            raise InputError(f"--{name}: only for tables; a sweep's design is in its file")
    ledger, spec = open_target(target, storage)
    tree = analyze_ledger(ledger, plan_of(ledger, spec), dv=dv, alpha=alpha)
    if spend:
        from rayscale.analysis.returns_tree import parse_spend, purchases

        tree["purchases"] = purchases(tree.get("pareto", {}), [parse_spend(text) for text in spend])
    if resample is not None:
        from rayscale.resampling_view import resample_sweep

        tree["resampled"] = resample_sweep(ledger, plan_of(ledger, spec), resample)
    return tree
