"""The commands around a sweep: plan, run, status, analyze, report, export, sync, ui, schema."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from rayscale.commands.common import (
    DEFAULT_STORAGE,
    Json,
    Storage,
    SweepFile,
    Target,
    local_place,
    open_ledger,
    open_target,
    plan_of,
    print_json,
)
from rayscale.errors import InputError


def plan(
    sweep: SweepFile,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    calibrate: Annotated[
        bool | None, typer.Option("--calibrate/--no-calibrate", help="Time a few steps here (default: small models).")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Price it on this, a10g, a100, h100 or h200.")] = None,
    country: Annotated[str | None, typer.Option(help="Grid for the CO2e, e.g. DE (needs rayscale[carbon]).")] = None,
    grid: Annotated[float | None, typer.Option(help="Its intensity, stated. Units: g CO2e/kWh.", min=0.0)] = None,
    price: Annotated[list[str] | None, typer.Option(help="1.2/h per device-hour, 0.3/kWh of electricity.")] = None,
    effect: Annotated[float | None, typer.Option(help="Cohen's f to state the power for.", min=0.0)] = None,
) -> int:
    """Show the trials in run order with seeds, tokens, FLOPs and an estimate of time; start nothing."""
    from rayscale.design import plan_sweep
    from rayscale.planning import estimate_by_calibration, estimate_from_records, plan_document
    from rayscale.rendering import render_plan
    from rayscale.specfile import load_spec

    laid_out = plan_sweep(load_spec(sweep))
    estimate = estimate_from_records(open_ledger(storage, laid_out.spec.name).records(laid_out))
    why_not = "no time estimate: no finished trials in the ledger, and not calibrated (--calibrate)"
    if hardware not in (None, "this"):
        estimate, why_not = None, f"times are those of {hardware}, see the price"
    elif estimate is None and calibrate is not False:
        estimate = estimate_by_calibration(laid_out.spec, force=bool(calibrate))
    document = plan_document(laid_out, estimate, why_not)
    priced = ""
    if hardware or price or country or grid is not None or effect is not None:
        from rayscale.pricing.text import price_plan, render_price

        document["price"] = price_plan(
            laid_out, hardware or "this", local_place(storage), price or [], country, grid, effect
        )
        priced = "\n\n" + render_price(document["price"])
    print_json(document) if as_json else typer.echo(render_plan(document) + priced)
    return 0


def run(
    sweep: SweepFile,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Analyse and report at the end.")] = True,
) -> int:
    """Run what is left of a sweep, then analyse it and write the report. The same command again continues."""
    from rayscale.running import run_to_report
    from rayscale.specfile import load_spec

    again = str(sweep) if storage == DEFAULT_STORAGE else f"{sweep} --storage {shlex.quote(storage)}"
    spec = load_spec(sweep)
    result = run_to_report(spec, open_ledger(storage, spec.name), arguments=again, with_report=report)
    if as_json:
        print_json(result.document())
    return result.exit_code


def status(target: Target, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> int:
    """Count the trials of a sweep by state."""
    from dataclasses import asdict

    from rayscale.ledger import INTERRUPTED
    from rayscale.rendering import render_status

    ledger, spec = open_target(target, storage)
    laid_out = plan_of(ledger, spec)
    counts = ledger.status(laid_out)
    holder = ledger.lock_holder()
    failures = {
        trial.trial_key: failure
        for trial in laid_out.trials
        if (attempts := ledger.attempts(trial.trial_key))
        and (failure := ledger.failure(trial.trial_key, attempts[-1]))
        and failure.reason != INTERRUPTED
        and ledger.record(trial.trial_key) is None
    }
    if as_json:
        failed = [{"trial_key": key, **asdict(failure)} for key, failure in failures.items()]
        print_json({"sweep": ledger.name, **asdict(counts), "run_by": holder, "failures": failed})
    else:
        typer.echo(render_status(ledger, laid_out, counts, holder, failures))
    return 0


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
    from rayscale.analyzing import analyze_ledger, analyze_table, render_tree

    if form not in ("text", "csv", "latex", "methods"):
        raise InputError(f"--format {form}: expected text, csv, latex or methods")
    is_table = target.suffix in (".csv", ".parquet", ".json") and not target.is_dir()
    if is_table:
        if resample is not None:
            raise InputError("--resample: only for sweeps; a table has no power traces")
        if spend:
            raise InputError("--spend: only for sweeps; a table does not say what its rows took")
        tree = analyze_table(
            target,
            dv=dv,
            within=within,
            subject=subject,
            alpha=alpha,
            aggregate=aggregate,
            device=device,
            order=order,
            scale=scale or "raw",
            margin=margin,
        )
    else:
        table_only = {"--within": within, "--subject": subject, "--aggregate": aggregate}
        table_only |= {"--scale": scale, "--margin": margin}
        for name, value in {**table_only, "--device": device, "--order": order}.items():
            if value is not None:
                raise InputError(f"{name}: only for tables; a sweep's design is in its file")
        ledger, spec = open_target(target, storage)
        tree = analyze_ledger(ledger, plan_of(ledger, spec), dv=dv, alpha=alpha)
        if spend:
            from rayscale.analysis.returns_tree import parse_spend, purchases

            tree["purchases"] = purchases(tree.get("pareto", {}), [parse_spend(text) for text in spend])
        if resample is not None:
            from rayscale.resampling_view import resample_sweep

            tree["resampled"] = resample_sweep(ledger, plan_of(ledger, spec), resample)
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


def report(
    target: Target,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, typer.Option(help="The file; default: report.html in the ledger.")] = None,
    model_card: Annotated[
        bool, typer.Option("--model-card", help="Instead: a Hugging Face co2_eq_emissions block and Green-AI table.")
    ] = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Instead: the references of what was used.")] = False,
    as_json: Json = False,
) -> int:
    """Write the self-contained HTML report of a sweep."""
    from rayscale.analyzing import analyze_ledger
    from rayscale.report.build import build_report, report_in_ledger

    ledger, spec = open_target(target, storage)
    tree = analyze_ledger(ledger, plan_of(ledger, spec))
    if model_card or bibtex:
        from rayscale.modelcard import card_or_references

        text = card_or_references(plan_of(ledger, spec).spec, tree, model_card=model_card, references=bibtex)
        typer.echo(text) if out is None else out.write_text(text + "\n", encoding="utf-8")
        return 0
    written = report_in_ledger(ledger, tree) if out is None else str(build_report(ledger, tree, out))
    print_json({"report": written}) if as_json else typer.echo(written)
    return 0


def export(
    target: Target,
    storage: Storage = DEFAULT_STORAGE,
    form: Annotated[str, typer.Option("--format", help="csv, json or parquet.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="The file; csv and json default: stdout.")] = None,
) -> int:
    """Write one row per trial with all columns and metrics."""
    from rayscale.analyzing import export_table

    ledger, spec = open_target(target, storage)
    text = export_table(ledger, plan_of(ledger, spec), form, out)
    if text is not None:
        sys.stdout.write(text)
    return 0


def sync(target: Target, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> int:
    """Bring MLflow up to date with the ledger; twice is the same as once."""
    from dataclasses import asdict

    from rayscale.running import sync_ledger

    ledger, spec = open_target(target, storage)
    result = sync_ledger(ledger, plan_of(ledger, spec))
    if as_json:
        print_json(asdict(result))
    else:
        typer.echo(
            f"{ledger.name}: {result.created} runs created, {result.updated} updated, {result.unchanged} unchanged"
        )
    return 0


def ui(
    target: Annotated[Path | None, typer.Argument(metavar="[SWEEP]", help="Sweep file or ledger directory.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> int:
    """Start the MLflow UI on loopback with the right store; Ctrl-C stops it."""
    from rayscale.running import open_ui

    ledger, spec = open_target(target, storage) if target else (None, None)
    return open_ui(ledger, spec, local_place(storage), port)


def schema() -> int:
    """Print the JSON Schema of the sweep file, for editors."""
    from rayscale.spec import SweepSpec

    document = SweepSpec.model_json_schema()
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rayscale sweep file", **document})
    return 0
