"""The check of a file for `ray up`: Ray's own schema, then what it would open, then what a study needs.

Facts behind the rules (Ray 2.60): the AWS provider makes a security group that opens SSH to 0.0.0.0/0 unless own
SecurityGroupIds are given; Ray's default start commands bind the dashboard to 0.0.0.0, install a nightly wheel and
use spot workers; stopped nodes are kept, and their volumes paid, unless `cache_stopped_nodes: false`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections.abc import Iterator
from typing import Any

from rayscale.cluster.findings import Finding, problem, warning
from rayscale.cluster.ray_start import advertises_devices, authentication, exposure, starts_ray
from rayscale.cluster.source import ClusterFile, KeyPath, launcher_commands
from rayscale.cluster.versions import image_pinned, pinned, shared_storage

AWS_GPUS = {
    "g4dn": "T4",
    "g5": "A10G",
    "g6": "L4",
    "g6e": "L40S",
    "p3": "V100",
    "p3dn": "V100",
    "p4d": "A100-40GB",
    "p4de": "A100-80GB",
    "p5": "H100",
    "p5e": "H200",
    "p5en": "H200",
}
"""GPU of each AWS instance family (https://aws.amazon.com/ec2/instance-types/, accelerated computing)."""

OPEN_CIDRS = ("0.0.0.0/0", "::/0")


def check_launcher(source: ClusterFile) -> list[Finding]:
    """Check a file for `ray up`.

    Args:
        source: The file.

    Returns:
        All findings, in no particular order.
    """
    effective, refused = effective_config(source)
    if refused:
        return refused
    commands = launcher_commands(source, effective)
    provider = source.line(("provider",))
    mounts = {str(key): str(value) for key, value in (effective.get("file_mounts") or {}).items()}
    found = list(exposure(commands))
    found += authentication(commands, mounts, provider)
    found += pinned(commands)
    found += _docker(source, effective)
    found += _credentials_mounted(source, mounts)
    found += advertises_devices(commands, provider)
    kind = effective["provider"]["type"]
    found += shared_storage(commands, provider, needs_mount=kind != "local")
    found += _idle(source, effective)
    found += {"aws": _aws, "gcp": _gcp, "local": _local}.get(kind, _other)(source, effective)
    found += _head_runs_no_trials(source, effective, commands)
    return found


def effective_config(source: ClusterFile) -> tuple[dict[str, Any], list[Finding]]:
    """Fill in Ray's defaults and validate with Ray's own schema code.

    Args:
        source: The file.

    Returns:
        The content as `ray up` would use it, and the findings that make it unusable (then the content is {}).
    """
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()  # for on-prem files Ray prints its reason and raises an exception without one
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            effective = prepare_config(copy.deepcopy(source.tree))
            validate_config(effective)
    except jsonschema.ValidationError as error:
        path = tuple(error.absolute_path)
        where = ".".join(map(str, path)) or "(file)"
        unknown = re.findall(r"'([^']+)' (?:was|were) unexpected", error.message)
        line = source.line((*path, unknown[0])) if unknown else source.line(path)
        return {}, [problem("schema", line, f"{where}: Ray's schema says: {error.message.splitlines()[0]}")]
    except click.ClickException:
        reason = " ".join(said.getvalue().rpartition(" -- ")[2].split()) or "it gives no reason"
        return {}, [problem("schema", source.line(("provider",)), f"Ray refuses the file: {reason}")]
    except KeyError as error:
        return {}, [problem("schema", 1, f"Ray expects the key {error} and it is not there")]
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError, ImportError) as error:
        return {}, [
            problem("schema", source.line(("provider",)), f"Ray refuses the file: {str(error).splitlines()[0]}")
        ]
    return effective, []


def _docker(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    docker = effective.get("docker") or {}
    for key in ("image", "head_image", "worker_image"):
        yield from image_pinned(docker.get(key), source.line(("docker", key)), f"docker.{key}")
    for key in ("run_options", "head_run_options", "worker_run_options"):
        for index, option in enumerate(docker.get(key) or []):
            published = re.search(r"(?:-p|--publish)[ =](?!127\.0\.0\.1:)\S+", str(option))
            if published or "--privileged" in str(option):
                yield problem(
                    "container_exposed",
                    source.line(("docker", key, index)),
                    f"docker.{key}: `{option}` opens the container",
                )


def _credentials_mounted(source: ClusterFile, mounts: dict[str, str]) -> Iterator[Finding]:
    for remote, local in mounts.items():
        if re.search(r"\.aws(/|$)|\.config/gcloud|\.netrc|\.kube(/|$)|id_(rsa|ed25519)$", local):
            yield problem(
                "credentials_mounted",
                source.line(("file_mounts", remote)),
                f"file_mounts copies {local} to every node; expected a role of the node (IamInstanceProfile)",
            )


def _idle(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    if effective["provider"]["type"] == "local":
        return
    minutes = effective.get("idle_timeout_minutes")
    if minutes is None or minutes > 60:
        yield problem(
            "no_idle_shutdown", source.line(("idle_timeout_minutes",)), "idle_timeout_minutes: expected at most 60"
        )
    for name, node in _workers(effective):
        if node.get("min_workers"):
            yield warning(
                "never_idle",
                source.line(("available_node_types", name, "min_workers")),
                f"{name}.min_workers {node['min_workers']}: these nodes are paid until `ray down`",
            )


def _workers(effective: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    types = effective.get("available_node_types") or {}
    return [(name, node) for name, node in types.items() if name != effective.get("head_node_type")]


def _aws(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    for index, rule in enumerate((effective["provider"].get("security_group") or {}).get("IpPermissions") or []):
        if any(cidr in str(rule) for cidr in OPEN_CIDRS):
            line = source.line(("provider", "security_group", "IpPermissions", index))
            yield problem("open_to_world", line, "this rule lets in the whole world; expected your own network")
    gpus = {}
    for name, node in (effective.get("available_node_types") or {}).items():
        config = node.get("node_config") or {}
        path: KeyPath = ("available_node_types", name, "node_config")
        interfaces = config.get("NetworkInterfaces") or []
        if not config.get("SecurityGroupIds") and not any(card.get("Groups") for card in interfaces):
            yield problem(
                "ssh_open_to_world",
                source.line(path),
                f"{name}: without SecurityGroupIds Ray makes a group that opens SSH to 0.0.0.0/0; expected your own",
            )
        if not config.get("IamInstanceProfile"):
            yield problem(
                "no_role", source.line(path), f"{name}: expected IamInstanceProfile (rights on the bucket without keys)"
            )
        if (config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot":
            yield _spot(source.line((*path, "InstanceMarketOptions")), name)
        family = str(config.get("InstanceType", "")).partition(".")[0]
        if name != effective.get("head_node_type") and family in AWS_GPUS:
            gpus[name] = (AWS_GPUS[family], source.line((*path, "InstanceType")))
    yield from _one_gpu_type(gpus)
    if effective["provider"].get("cache_stopped_nodes", True):
        yield problem(
            "volumes_kept",
            source.line(("provider", "cache_stopped_nodes")),
            "stopped nodes and their volumes are kept and paid; expected provider.cache_stopped_nodes: false",
        )


def _gcp(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    gpus = {}
    for name, node in (effective.get("available_node_types") or {}).items():
        config, path = node.get("node_config") or {}, ("available_node_types", name, "node_config")
        scheduling = config.get("scheduling") or []
        if any(word in str(scheduling) for word in ("'preemptible': True", "SPOT")):
            yield _spot(source.line((*path, "scheduling")), name)
        for card in config.get("guestAccelerators") or []:
            gpus[name] = (
                str(card.get("acceleratorType")).rpartition("/")[2],
                source.line((*path, "guestAccelerators")),
            )
    yield from _one_gpu_type(gpus)


def _spot(line: int, name: str) -> Finding:
    return problem(
        "spot_workers", line, f"{name}: spot nodes come and go, the design wants constant hardware; expected on-demand"
    )


def _one_gpu_type(gpus: dict[str, tuple[str, int]]) -> Iterator[Finding]:
    kinds = {gpu for gpu, _ in gpus.values()}
    if len(kinds) > 1:
        line = list(gpus.values())[-1][1]
        yield problem(
            "mixed_gpus", line, f"workers have different GPUs ({', '.join(sorted(kinds))}); expected one type per study"
        )


def _local(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    provider = effective["provider"]
    workers = provider.get("worker_ips") or []
    head = provider.get("head_ip")
    if head in workers:
        yield problem("head_is_worker", source.line(("provider", "worker_ips")), f"head_ip {head} is among worker_ips")
    if not (effective.get("auth") or {}).get("ssh_private_key"):
        yield warning(
            "ssh_key", source.line(("auth",)), "auth.ssh_private_key is not given: Ray then relies on your agent"
        )
    yield warning(
        "firewall",
        source.line(("provider",)),
        "Ray's ports (6379, 10000-19999) listen on the network of these machines; a firewall must keep others out",
    )


def _other(source: ClusterFile, effective: dict[str, Any]) -> Iterator[Finding]:
    kind = effective["provider"]["type"]
    if kind != "external":
        yield warning(
            "provider", source.line(("provider", "type")), f"provider {kind}: only the general rules are checked"
        )


def _head_runs_no_trials(source: ClusterFile, effective: dict[str, Any], commands: Any) -> Iterator[Finding]:
    """The head drives and tracks; a trial beside it would share its CPUs and power."""
    head = starts_ray(commands, "head")
    if head is None:
        yield problem("no_head", source.line(("head_start_ray_commands",)), "no command starts Ray on the head")
        return
    name = effective.get("head_node_type")
    resources = ((effective.get("available_node_types") or {}).get(name) or {}).get("resources") or {}
    without_cpu = resources.get("CPU") == 0 or re.search(r"--num-cpus[= ]0\b", head.text)
    if effective["provider"]["type"] == "local":
        without_cpu = re.search(r"--num-cpus[= ]0\b", head.text)
    if not without_cpu:
        path: KeyPath = ("available_node_types", str(name), "resources") if name else ()
        yield problem(
            "head_runs_trials",
            source.line(path) if path in source.lines else head.line,
            "the head would run trials too; expected resources: {CPU: 0} (on-prem: `ray start --num-cpus=0`)",
        )
