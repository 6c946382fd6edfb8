"""The check of a KubeRay manifest (RayJob or RayCluster): token, services, images, storage, nodes.

There is no schema of these objects in Ray's wheel; what is checked is what rayscale needs of them. Inside a pod the
dashboard must listen on the pod's address (KubeRay's submitter comes from another pod), so here the token is what
protects it, and nothing but a ClusterIP service may lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayscale.cluster.findings import Finding, problem, warning
from rayscale.cluster.source import ClusterFile, Command, KeyPath
from rayscale.cluster.versions import image_pinned, pinned, shared_storage

SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""Node labels that mean nodes which may be taken away."""


def check_kuberay(source: ClusterFile) -> list[Finding]:
    """Check a KubeRay manifest.

    Args:
        source: The file; several documents are allowed.

    Returns:
        All findings.
    """
    found: list[Finding] = []
    clusters = 0
    for index, document in enumerate(source.tree):
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind in ("RayJob", "RayCluster"):
            clusters += 1
            found += _cluster(source, document, index)
        found += _services(source, document, index)
    if not clusters:
        found.append(problem("schema", 1, "expected a document of kind RayJob or RayCluster"))
    return found


def _cluster(source: ClusterFile, document: dict[str, Any], index: int) -> Iterator[Finding]:
    job = document["kind"] == "RayJob"
    spec = document.get("spec") or {}
    path: KeyPath = (index, "spec", "rayClusterSpec") if job else (index, "spec")
    cluster = spec.get("rayClusterSpec") if job else spec
    if not isinstance(cluster, dict) or "headGroupSpec" not in cluster:
        yield problem(
            "schema",
            source.line(path),
            f"{document['kind']}: expected headGroupSpec under {'.'.join(map(str, path[1:]))}",
        )
        return
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        yield problem(
            "token_off", source.line(path), "token authentication is off; expected authOptions: {mode: token}"
        )
    if not cluster.get("rayVersion"):
        yield problem("unpinned", source.line(path), "rayVersion is not given; expected the version of the image")
    if job and not spec.get("shutdownAfterJobFinishes"):
        yield problem("no_idle_shutdown", source.line((index, "spec")), "expected shutdownAfterJobFinishes: true")
    yield from _head(source, cluster, path)
    groups = [("headGroupSpec",), *(("workerGroupSpecs", n) for n in range(len(cluster.get("workerGroupSpecs") or [])))]
    commands: list[Command] = []
    for group in groups:
        body = cluster[group[0]] if len(group) == 1 else cluster["workerGroupSpecs"][group[1]]
        yield from _pods(source, body, (*path, *group))
        commands += _commands(source, body, (*path, *group))
    yield from _mixed(source, cluster, path)
    entry = str(spec.get("entrypoint", "")) + str(spec.get("runtimeEnvYAML", ""))
    if entry:
        commands.append(Command(entry, (), source.line((index, "spec", "entrypoint")), "head"))
    yield from pinned(commands)
    yield from shared_storage(commands, source.line(path), needs_mount=False)


def _head(source: ClusterFile, cluster: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    head = cluster["headGroupSpec"]
    service = head.get("serviceType", "ClusterIP")
    if service != "ClusterIP" or head.get("enableIngress"):
        what = "enableIngress" if head.get("enableIngress") else f"serviceType {service}"
        line = source.line((*path, "headGroupSpec", "enableIngress" if head.get("enableIngress") else "serviceType"))
        yield problem(
            "dashboard_exposed", line, f"{what} leads from outside to the head; expected ClusterIP and a port-forward"
        )
    if str((head.get("rayStartParams") or {}).get("num-cpus")) != "0":
        line = source.line((*path, "headGroupSpec", "rayStartParams"))
        yield problem(
            "head_runs_trials", line, 'the head would run trials too; expected rayStartParams: {num-cpus: "0"}'
        )


def _services(source: ClusterFile, document: Any, index: int) -> Iterator[Finding]:
    if not isinstance(document, dict):
        return
    kind = document.get("kind")
    outside = kind == "Ingress" or (
        kind == "Service" and (document.get("spec") or {}).get("type") in ("LoadBalancer", "NodePort")
    )
    if outside:
        yield problem(
            "dashboard_exposed", source.line((index, "spec")), f"this {kind} leads from outside to the cluster"
        )


def _pods(source: ClusterFile, group: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    base: KeyPath = (*path, "template", "spec")
    pod = (group.get("template") or {}).get("spec") or {}
    name = group.get("groupName", "head")
    if pod.get("hostNetwork"):
        yield problem(
            "host_network", source.line((*base, "hostNetwork")), f"{name}: hostNetwork opens Ray's ports on the node"
        )
    for label, value in (pod.get("nodeSelector") or {}).items():
        if SPOT_LABELS.get(label, "").lower() == str(value).lower():
            yield problem(
                "spot_workers", source.line((*base, "nodeSelector", label)), f"{name}: spot nodes; expected on-demand"
            )
    for number, container in enumerate(pod.get("containers") or []):
        at: KeyPath = (*base, "containers", number)
        yield from image_pinned(container.get("image") or "(none)", source.line((*at, "image")), f"{name}: image")
        if (container.get("securityContext") or {}).get("privileged"):
            yield problem("container_exposed", source.line((*at, "securityContext")), f"{name}: a privileged container")
        for position, item in enumerate(container.get("env") or []):
            if (
                any(word in str(item.get("name", "")).upper() for word in ("SECRET", "PASSWORD", "TOKEN"))
                and "value" in item
            ):
                line = source.line((*at, "env", position))
                yield problem(
                    "secret_in_file",
                    line,
                    f"{name}: {item['name']} is given as a value; expected valueFrom.secretKeyRef",
                )


def _commands(source: ClusterFile, group: dict[str, Any], path: KeyPath) -> Iterator[Command]:
    """Environment and commands of the containers as shell text, so that the same lints read them."""
    pod = (group.get("template") or {}).get("spec") or {}
    for number, container in enumerate(pod.get("containers") or []):
        at: KeyPath = (*path, "template", "spec", "containers", number)
        for position, item in enumerate(container.get("env") or []):
            yield Command(
                f"{item.get('name')}={item.get('value', '')}", at, source.line((*at, "env", position)), "both"
            )
        text = " ".join(map(str, [*(container.get("command") or []), *(container.get("args") or [])]))
        if text:
            yield Command(text, at, source.line((*at, "command")), "both")


def _mixed(source: ClusterFile, cluster: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    kinds: dict[str, int] = {}
    for number, group in enumerate(cluster.get("workerGroupSpecs") or []):
        selector = ((group.get("template") or {}).get("spec") or {}).get("nodeSelector") or {}
        gpu = next((str(value) for label, value in selector.items() if "gpu" in label or "accelerator" in label), None)
        if gpu is not None:
            kinds[gpu] = source.line((*path, "workerGroupSpecs", number))
        elif len(cluster["workerGroupSpecs"]) > 1:
            line = source.line((*path, "workerGroupSpecs", number))
            yield warning("gpu_unknown", line, "several worker groups and no nodeSelector that names the GPU")
    if len(kinds) > 1:
        yield problem(
            "mixed_gpus", list(kinds.values())[-1], f"worker groups have different GPUs: {', '.join(sorted(kinds))}"
        )
