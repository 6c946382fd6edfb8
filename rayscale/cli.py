"""The `rayscale` command. Each command validates, calls the package, prints; heavy modules load inside the commands."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rayscale import __version__, commands_scaling
from rayscale.errors import InputError, RayscaleError

app = typer.Typer(
    name="rayscale",
    help="Token-scale studies of language-model training: designed sweeps, trustworthy energy, honest statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULT_STORAGE = "results"

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Sweep file.")]
Target = Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep file or ledger directory.")]
Storage = Annotated[Path, typer.Option("--storage", help="Where ledgers lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


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


@app.command()
def plan(
    sweep: SweepFile,
    storage: Storage = Path(DEFAULT_STORAGE),
    as_json: Json = False,
    calibrate: Annotated[
        bool | None, typer.Option("--calibrate/--no-calibrate", help="Time a few steps here (default: small models).")
    ] = None,
) -> int:
    """Show the trials in run order with seeds, tokens, FLOPs and an estimate of time; start nothing."""
    from rayscale.design import plan_sweep
    from rayscale.planning import estimate_by_calibration, estimate_from_records, plan_document
    from rayscale.rendering import render_plan
    from rayscale.specfile import load_spec

    laid_out = plan_sweep(load_spec(sweep))
    estimate = estimate_from_records(_ledger(storage, laid_out.spec.name).records(laid_out))
    why_not = "no time estimate: no finished trials in the ledger, and not calibrated (--calibrate)"
    if estimate is None and calibrate is not False:
        estimate = estimate_by_calibration(laid_out.spec, force=bool(calibrate))
    document = plan_document(laid_out, estimate, why_not)
    _print_json(document) if as_json else typer.echo(render_plan(document))
    return 0


@app.command()
def run(
    sweep: SweepFile,
    storage: Storage = Path(DEFAULT_STORAGE),
    as_json: Json = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Analyse and report at the end.")] = True,
) -> int:
    """Run what is left of a sweep, then analyse it and write the report. The same command again continues."""
    from rayscale.running import run_to_report
    from rayscale.specfile import load_spec

    again = str(sweep) if storage == Path(DEFAULT_STORAGE) else f"{sweep} --storage {storage}"
    spec = load_spec(sweep)
    result = run_to_report(spec, _ledger(storage, spec.name), arguments=again, with_report=report)
    if as_json:
        _print_json(result.document())
    return result.exit_code


@app.command()
def status(target: Target, storage: Storage = Path(DEFAULT_STORAGE), as_json: Json = False) -> int:
    """Count the trials of a sweep by state."""
    from dataclasses import asdict

    from rayscale.ledger import INTERRUPTED
    from rayscale.rendering import render_status

    ledger, spec = _open(target, storage)
    laid_out = _plan_of(ledger, spec)
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
        _print_json({"sweep": ledger.name, **asdict(counts), "run_by": holder, "failures": failed})
    else:
        typer.echo(render_status(ledger, laid_out, counts, holder, failures))
    return 0


@app.command()
def analyze(
    target: Annotated[Path, typer.Argument(metavar="SWEEP|TABLE", help="Sweep, ledger, or .csv/.parquet/.json.")],
    storage: Storage = Path(DEFAULT_STORAGE),
    dv: Annotated[str | None, typer.Option(help="Dependent variable(s), comma-separated.")] = None,
    within: Annotated[str | None, typer.Option(help="Within-subject factor(s), comma-separated.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column that names the subject.")] = None,
    aggregate: Annotated[str | None, typer.Option(help="`mean`: average repeated cells.")] = None,
    device: Annotated[str | None, typer.Option(help="Column that names the device: adds models with devices.")] = None,
    order: Annotated[str | None, typer.Option(help="Column that grows with time: checks run order and drift.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Significance level.", min=0.0, max=1.0)] = None,
    resample: Annotated[
        str | None, typer.Option(metavar="PERIOD", help="Also: as if power were sampled this seldom, e.g. 60s.")
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
        tree = analyze_table(
            target,
            dv=dv,
            within=within,
            subject=subject,
            alpha=alpha,
            aggregate=aggregate,
            device=device,
            order=order,
        )
    else:
        table_only = {"--within": within, "--subject": subject, "--aggregate": aggregate}
        for name, value in {**table_only, "--device": device, "--order": order}.items():
            if value is not None:
                raise InputError(f"{name}: only for tables; a sweep's design is in its file")
        ledger, spec = _open(target, storage)
        tree = analyze_ledger(ledger, _plan_of(ledger, spec), dv=dv, alpha=alpha)
        if resample is not None:
            from rayscale.resampling_view import resample_sweep

            tree["resampled"] = resample_sweep(ledger, _plan_of(ledger, spec), resample)
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


@app.command()
def report(
    target: Target,
    storage: Storage = Path(DEFAULT_STORAGE),
    out: Annotated[Path | None, typer.Option(help="The file; default: report.html in the ledger.")] = None,
) -> int:
    """Write the self-contained HTML report of a sweep."""
    from rayscale.analyzing import analyze_ledger
    from rayscale.report.build import build_report

    ledger, spec = _open(target, storage)
    tree = analyze_ledger(ledger, _plan_of(ledger, spec))
    typer.echo(str(build_report(ledger, tree, out or ledger.root / "report.html")))
    return 0


@app.command()
def export(
    target: Target,
    storage: Storage = Path(DEFAULT_STORAGE),
    form: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="The file; csv default: stdout.")] = None,
) -> int:
    """Write one row per trial with all columns and metrics."""
    from rayscale.analyzing import export_table

    ledger, spec = _open(target, storage)
    text = export_table(ledger, _plan_of(ledger, spec), form, out)
    if text is not None:
        sys.stdout.write(text)
    return 0


@app.command()
def sync(target: Target, storage: Storage = Path(DEFAULT_STORAGE), as_json: Json = False) -> int:
    """Bring MLflow up to date with the ledger; twice is the same as once."""
    from dataclasses import asdict

    from rayscale.running import sync_ledger

    ledger, spec = _open(target, storage)
    result = sync_ledger(ledger, _plan_of(ledger, spec))
    if as_json:
        _print_json(asdict(result))
    else:
        typer.echo(
            f"{ledger.name}: {result.created} runs created, {result.updated} updated, {result.unchanged} unchanged"
        )
    return 0


@app.command()
def ui(
    target: Annotated[Path | None, typer.Argument(metavar="[SWEEP]", help="Sweep file or ledger directory.")] = None,
    storage: Storage = Path(DEFAULT_STORAGE),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> int:
    """Start the MLflow UI on loopback with the right store; Ctrl-C stops it."""
    from rayscale.running import open_ui

    ledger, spec = _open(target, storage) if target else (None, None)
    return open_ui(ledger, spec, storage, port)


@app.command()
def doctor(
    storage: Storage = Path(DEFAULT_STORAGE),
    as_json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not import torch and Ray.")] = False,
) -> int:
    """Look whether a sweep can run here, what its energy would be worth, and what to do about it; exit 3 if not."""
    from rayscale.doctor.examine import examine

    diagnosis = examine(storage, quick=quick)
    _print_json(diagnosis.document()) if as_json else typer.echo(diagnosis.text())
    return diagnosis.exit_code


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
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
    _print_json(result.document()) if as_json else typer.echo(result.text(), err=True)
    return result.exit_code


@app.command()
def power(
    target: Annotated[Path | None, typer.Argument(metavar="[SWEEP|LEDGER]", help="A sweep, or a pilot.")] = None,
    storage: Storage = Path(DEFAULT_STORAGE),
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
    as_json: Json = False,
) -> int:
    """How many repetitions: power for n, n for a power, smallest detectable effect."""
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
    )
    ledger, spec = _open(target, storage) if target else (None, None)
    document = power_document(request, spec, ledger)
    _print_json(document) if as_json else typer.echo(render_power(document))
    return 0


@app.command("check-reported")
def check_reported(
    F: Annotated[str | None, typer.Option("--F", help="Published F, as printed.")] = None,  # noqa: N803
    t: Annotated[str | None, typer.Option("--t", help="Published paired t, instead of F.")] = None,
    df: Annotated[str | None, typer.Option(help="Degrees of freedom: 2,98 for F, 49 for t.")] = None,
    ges: Annotated[str | None, typer.Option(help="Generalized eta squared, as printed.")] = None,
    p: Annotated[str | None, typer.Option("--p", help="Published p, e.g. .1753 or '<.001'.")] = None,
    comparisons: Annotated[int, typer.Option(help="Size of the family of a t (Bonferroni).")] = 1,
    as_json: Json = False,
) -> int:
    """Derive what published statistics imply and whether they fit together; exit 1 if they cannot."""
    from rayscale.checking import Reported, render_reported, reported_document

    document = reported_document(Reported(F=F, t=t, df=df, ges=ges, p=p, comparisons=comparisons))
    _print_json(document) if as_json else typer.echo(render_reported(document))
    return 0 if document["fits"] else 1


@app.command()
def schema() -> int:
    """Print the JSON Schema of the sweep file, for editors."""
    from rayscale.spec import SweepSpec

    document = SweepSpec.model_json_schema()
    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rayscale sweep file", **document})
    return 0


app.command()(commands_scaling.fit)
app.command()(commands_scaling.forecast)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _ledger(storage: Path, name: str) -> Any:
    from rayscale.ledger import Ledger

    if re.match(r"[a-z0-9]+:/", str(storage)):  # pathlib has made one slash of two
        raise InputError(f"--storage {storage}: object stores are not supported yet; expected a directory")
    return Ledger(storage / name)


def _open(target: Path, storage: Path) -> tuple[Any, Any]:
    """Find the ledger that a sweep file or a directory names; the spec is None for a directory."""
    from rayscale.ledger import Ledger
    from rayscale.specfile import load_spec

    if target.is_dir():
        return Ledger(target), None
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"{target}: expected a sweep file (.yaml) or a ledger directory")
    spec = load_spec(target)
    return _ledger(storage, spec.name), spec


def _plan_of(ledger: Any, spec: Any) -> Any:
    """Return the plan of the sweep file if one was given, else the stored one; there must be a ledger."""
    from rayscale.design import plan_sweep

    stored = ledger.read_plan()
    return plan_sweep(spec) if spec is not None else stored


if __name__ == "__main__":
    main()
