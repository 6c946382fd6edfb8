"""The commands about clusters: `submit`, `cluster check|status|logs|stop|resume`, `node-resources`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rayscale.commands.common import Json, SweepFile, print_json, seconds
from rayscale.errors import InputError

ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", help="File of `ray up`: an ssh tunnel to its head is opened."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="Ray's dashboard; default: RAY_API_SERVER_ADDRESS, this machine."),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Id that `submit` printed.")]


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


def node_resources(
    cpu_slots: Annotated[int, typer.Option(help="CPU slots of a node without GPUs.", min=1)] = 1,
    host: Annotated[str | None, typer.Option(help="Name of the node; default: its host name.")] = None,
) -> int:
    """Print this node's devices as Ray resources, for `ray start --resources="$(rayscale node-resources)"`."""
    from rayscale.cluster.node import node_resources as name_devices

    typer.echo(json.dumps(name_devices(cpu_slots, host)))
    return 0


def submit(
    sweep: SweepFile,
    cluster: ClusterFile = None,
    address: Address = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", envvar="RAYSCALE_STORAGE", help="Where its ledger lies; default: as the head says."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Also send this variable (repeatable).")] = None,
    wait: Annotated[str, typer.Option(metavar="TIME", help="Longest wait there for the first device.")] = "30min",
    max_upload: Annotated[str, typer.Option(metavar="SIZE", help="Most that may be sent.")] = "200MB",
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its log until it ends; Ctrl-C leaves it alone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Hand a sweep to a Ray cluster, where it goes on alone. The same command again continues it."""
    from rayscale.cluster.reach import cluster_jobs
    from rayscale.cluster.submit import prepare, send
    from rayscale.quantities import parse_bytes

    try:
        limit = parse_bytes(max_upload)
    except ValueError as error:
        raise InputError(f"--max-upload: {error}") from None
    seconds("--wait", wait)
    arguments = ("--address", "auto", "--wait", wait)
    submission = prepare(sweep, storage, os.environ, send_names=tuple(env or ()), limit=limit, arguments=arguments)
    if dry_run:
        print_json(submission.document()) if as_json else typer.echo(submission.text())
        return 0
    with cluster_jobs(cluster, address) as jobs:
        sent = send(submission, jobs, _say)
        _say(f"{sent.job}: {'is there already' if sent.already else 'submitted'}; rayscale cluster logs {sent.job}")
        view = jobs.follow(sent.job, _write) if follow else jobs.view(sent.job)
    if as_json:
        print_json({**submission.document(), **view.document(), "already": sent.already})
    else:
        typer.echo(sent.job)
    if not follow:
        return 0
    _say(f"{view.job}: {view.status}")
    return view.code


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Only this one.")] = None,
    cluster: ClusterFile = None,
    address: Address = None,
    as_json: Json = False,
) -> int:
    """List the submitted sweeps of a cluster and whom they wait for, or say how one is doing and what it said last."""
    from rayscale.cluster.reach import cluster_jobs
    from rayscale.cluster.turn import waits_for

    with cluster_jobs(cluster, address) as jobs:
        views = [jobs.view(job)] if job else [view for view in jobs.list() if view.sweep]
        logs_of = {view.job: jobs.logs(view.job) for view in views if job or not view.ended}
    last = (logs_of[job].rstrip().splitlines() or [""])[-1] if job else None
    waits = {name: waits_for(text) for name, text in logs_of.items()}
    if as_json:
        listed = [{**view.document(), "waits_for": waits.get(view.job)} for view in views]
        print_json({"jobs": listed, **({"last_line": last} if job else {})})
        return 0
    for view in views:
        held_up = f"  waits for {waits[view.job]}" if not view.ended and waits.get(view.job) else ""
        typer.echo(f"{view.job}  {view.status:<9}  {view.started_at or '-'}  {view.ended_at or '-'}{held_up}")
    if last:
        typer.echo(last)
    if not views:
        _say("no sweep was submitted to this cluster")
    return 0


def logs(
    job: Job,
    cluster: ClusterFile = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends; Ctrl-C leaves it alone.")] = False,
) -> int:
    """Show what a submitted sweep has printed."""
    from rayscale.cluster.reach import cluster_jobs

    with cluster_jobs(cluster, address) as jobs:
        if follow:
            return jobs.follow(job, _print).code
        _print(jobs.logs(job))
    return 0


def stop(job: Job, cluster: ClusterFile = None, address: Address = None, as_json: Json = False) -> int:
    """Stop a submitted sweep; what is finished stays, and `cluster resume` continues it."""
    from rayscale.cluster.reach import cluster_jobs

    with cluster_jobs(cluster, address) as jobs:
        view = jobs.stop(job)
    print_json(view.document()) if as_json else typer.echo(f"{view.job}: {view.status}")
    return 0 if view.ended else 1


def resume(
    job: Annotated[str, typer.Argument(metavar="JOB|SWEEP", help="Its id; or a sweep's name: its newest job.")],
    cluster: ClusterFile = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its log; Ctrl-C leaves it alone.")] = False,
    as_json: Json = False,
) -> int:
    """Continue a stopped or failed sweep with the files that were submitted; with changed files: submit it again."""
    from rayscale.cluster.reach import cluster_jobs
    from rayscale.cluster.resume import resume as go_on

    with cluster_jobs(cluster, address) as jobs:
        sent = go_on(job, jobs)
        view = jobs.view(sent.job)
        what = f"is there already ({view.status})" if sent.already else f"submitted; rayscale cluster logs {sent.job}"
        _say(f"{sent.job}: {what}")
        view = jobs.follow(sent.job, _write) if follow else view
    print_json({**view.document(), "already": sent.already}) if as_json else typer.echo(sent.job)
    return view.code if follow else 0


def drive(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the sweep.")],
    rayscale: Annotated[str, typer.Option(help="Version that submitted it.")],
    ray: Annotated[str, typer.Option(help="Version that submitted it.")],
) -> int:
    """Run a submitted sweep on the head (`submit` calls this; not for people)."""
    from rayscale.cluster.drive import drive as become

    become(name, {"rayscale": rayscale, "ray": ray}, ctx.args, os.environ, _say)


def show_pages(cluster_file: Path, port: int, target: Path | None) -> int:
    """Tunnel to the MLflow server of a cluster, print the address and stay until Ctrl-C."""
    if target is not None:
        raise InputError("--cluster: shows all sweeps of the cluster; expected no SWEEP beside it")
    import signal

    from rayscale.cluster.reach import cluster_pages

    with cluster_pages(cluster_file, port) as address:
        typer.echo(f"MLflow of the cluster: {address}   (Ctrl-C ends the tunnel)")
        sys.stdout.flush()
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
