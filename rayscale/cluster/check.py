"""`rayscale cluster check FILE`: everything that is wrong with a cluster file, with line numbers, without a cloud."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayscale.cluster.findings import Finding
from rayscale.cluster.kuberay import check_kuberay
from rayscale.cluster.launcher import check_launcher
from rayscale.cluster.ray_start import advertises_devices, authentication, exposure, secrets
from rayscale.cluster.source import ClusterFile, read_cluster_file, script_commands
from rayscale.cluster.versions import pinned, shared_storage
from rayscale.errors import InputError

PLACEHOLDER = "FILL-IN"
"""What stands in our files where only the user knows the value."""

_RANK = {"problem": 0, "fill-in": 1, "warning": 2}


@dataclass(frozen=True)
class Checked:
    """What was found in one cluster file."""

    path: Path
    """The file."""
    kind: str
    """`launcher` (ray up), `kuberay` or `script`."""
    findings: list[Finding]
    """All findings, problems first, then by line."""

    @property
    def problems(self) -> int:
        """Number of findings that fail the check."""
        return sum(finding.severity == "problem" for finding in self.findings)

    @property
    def ready(self) -> bool:
        """Whether nothing is left to change or fill in."""
        return not any(finding.severity in ("problem", "fill-in") for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return the result as JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {
            "file": str(self.path),
            "kind": self.kind,
            "ready": self.ready,
            "problems": self.problems,
            "findings": findings,
        }

    def text(self) -> str:
        """Return one line per finding and a last line that sums up."""
        lines = [finding.text(str(self.path)) for finding in self.findings]
        missing = sum(finding.severity == "fill-in" for finding in self.findings)
        warnings = len(self.findings) - self.problems - missing
        counts = f"{self.problems} problems, {missing} values to fill in, {warnings} warnings"
        return "\n".join([*lines, f"{self.path}: {'ready' if self.ready else 'not ready'} ({counts})"])


def check_cluster_file(path: Path, allow: tuple[str, ...] = ()) -> Checked:
    """Check a cluster file offline.

    Args:
        path: A file for `ray up` (any provider), a KubeRay manifest, or a script with `ray start`.
        allow: Codes of findings that the user accepts.

    Returns:
        The findings.

    Raises:
        InputError: If the file cannot be read or starts no cluster, or a code in `allow` never occurs in it.
    """
    source = read_cluster_file(path)
    checks = {"launcher": check_launcher, "kuberay": check_kuberay, "script": _check_script}
    found = [*checks[source.kind](source), *secrets(source.text), *_to_fill_in(source)]
    unused = set(allow) - {finding.code for finding in found}
    if unused:
        raise InputError(f"--allow {sorted(unused)[0]}: {path} has no such finding; expected a code in [brackets]")
    kept = {finding for finding in found if finding.code not in allow}
    return Checked(path, source.kind, sorted(kept, key=lambda f: (_RANK[f.severity], f.line, f.code, f.message)))


def _check_script(source: ClusterFile) -> list[Finding]:
    commands = script_commands(source)
    found = [*exposure(commands), *authentication(commands, {}, 1), *pinned(commands), *advertises_devices(commands, 1)]
    found += shared_storage(commands, 1, needs_mount=False)
    return found


def _to_fill_in(source: ClusterFile) -> list[Finding]:
    """Name every placeholder once, where it is written (a value used by an alias stands at the file's top)."""
    found = []
    for number, line in enumerate(source.text.splitlines(), start=1):
        if PLACEHOLDER in line and not line.lstrip().startswith("#"):
            what = line.partition("#")[2].strip() or line.strip()
            found.append(Finding("fill-in", "fill_in", number, f"replace {PLACEHOLDER}: {what}"))
    return found
