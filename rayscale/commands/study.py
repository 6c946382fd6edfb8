"""The commands around a sweep: plan, run, status, report, export, sync, ui, schema."""

from __future__ import annotations

import os
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
    seconds,
)


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
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", metavar="auto|HOST:PORT", help="Use this Ray cluster, start none."),
    ] = None,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="With --address: ask for nodes and wait for the first device.")
    ] = "0s",
) -> int:
    """Run what is left of a sweep, then analyse it and write the report. The same command again continues."""
    from rayscale.running import advise, run_to_report
    from rayscale.specfile import load_spec
    from rayscale.sweep.session import checked_address

    cluster, spec, wait_s = checked_address(address), load_spec(sweep), seconds("--wait", wait)
    ledger = open_ledger(storage, spec.name)
    advice = advise(sweep, None if storage == DEFAULT_STORAGE else storage, cluster, os.environ)
    result = run_to_report(spec, ledger, advice=advice, with_report=report, address=cluster, wait_s=wait_s)
    if as_json:
        print_json(result.document())
    return result.exit_code


def status(target: Target, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> int:
    """Count the trials of a sweep by state, and what they took of its budget."""
    from dataclasses import asdict

    from rayscale.accounting import budget_state
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
    budget = budget_state(ledger, laid_out)
    if as_json:
        failed = [{"trial_key": key, **asdict(failure)} for key, failure in failures.items()]
        print_json({"sweep": ledger.name, **asdict(counts), "budget": budget, "run_by": holder, "failures": failed})
    else:
        typer.echo(render_status(ledger, laid_out, counts, holder, failures, budget))
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
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: tunnel to the server on this cluster's head.")
    ] = None,
) -> int:
    """Start the MLflow UI on loopback with the right store; Ctrl-C stops it."""
    if cluster is not None:
        from rayscale.commands.cluster import show_pages

        return show_pages(cluster, port, target)
    from rayscale.running import open_ui

    ledger, spec = open_target(target, storage) if target else (None, None)
    return open_ui(ledger, spec, local_place(storage), port)


def schema() -> int:
    """Print the JSON Schema of the sweep file, for editors."""
    from rayscale.spec import SweepSpec

    document = SweepSpec.model_json_schema()
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rayscale sweep file", **document})
    return 0
