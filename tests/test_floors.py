"""The floors of the house (design 3): a module imports only from floors below its own; heavy packages have rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rayscale"

FLOORS = {
    "": 0,
    "errors": 0,
    "quantities": 0,
    "environment": 1,
    "spec": 1,
    "specfile": 1,
    "record": 1,
    "segments": 0,
    "energies": 0,
    "storage": 1,
    "states": 1,
    "locks": 1,
    "design": 2,
    "ledger": 2,
    "energy": 2,
    "training": 2,
    "analysis": 2,
    "attempt": 3,
    "trial": 3,
    "outcome": 3,
    "ranked": 3,
    "team": 3,
    "planning": 3,
    "sharing": 3,
    "accounting": 3,
    "analyzing": 3,
    "bibliography": 2,
    "modelcard": 3,
    "rendering": 3,
    "processtree": 3,
    "metering": 3,
    "doctor": 3,
    "powering": 3,
    "checking": 3,
    "documents": 3,
    "resampling_view": 3,
    "tracking": 3,
    "report": 3,
    "sweep": 4,
    "cluster": 4,
    "fitting": 4,
    "pricing": 4,
    "forecasting": 4,
    "running": 5,
    "commands": 5,
    "cli": 5,
}
"""Floor of each module or package; parts of one package may import each other."""

SAME_FLOOR = {
    ("ledger", "design"),
    ("locks", "storage"),
    ("specfile", "spec"),
    ("environment", ""),
    ("trial", "attempt"),
    ("trial", "outcome"),
    ("trial", "ranked"),
    ("trial", "team"),
    ("team", "ranked"),
    ("team", "attempt"),
    ("outcome", "attempt"),
    ("ranked", "attempt"),
    ("attempt", "sharing"),
    ("planning", "sharing"),
    ("cli", "commands"),
    ("commands", "running"),
    ("metering", "processtree"),
    ("report", "resampling_view"),
    ("analyzing", "accounting"),
    ("sweep", "cluster"),
}
"""Neighbours on one floor that may meet, in this direction only."""

ROOMS = {
    "ray": {"sweep", "cluster"},
    "mlflow": {"tracking"},
    "torch": {"training", "trial"},
    "transformers": {"training", "trial"},
    "datasets": {"training", "trial"},
    "peft": {"training"},
    "pynvml": {"energy"},
    "statsmodels": {"analysis"},
    "scipy": {"analysis"},
    "typer": {"cli", "commands"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the top-level name and path of each source file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        yield ("" if part == "__init__" else part), path


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def test_every_module_has_a_floor() -> None:
    assert {name for name, _ in modules()} <= set(FLOORS)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value).rsplit("rayscale/", 1)[-1])
def test_imports_go_down(name: str, path: Path) -> None:
    for module in imported(path):
        head, _, rest = module.partition(".")
        if head == "rayscale":
            target = rest.split(".")[0]
            down = FLOORS[target] < FLOORS[name] or target == name or (name, target) in SAME_FLOOR
            assert down, f"{path}: {name} (floor {FLOORS[name]}) imports {module} (floor {FLOORS[target]})"
        elif head in ROOMS:
            assert name in ROOMS[head], f"{path}: {head} is imported only in {', '.join(sorted(ROOMS[head]))}"


HEAVY = ("torch", "transformers", "datasets", "ray", "mlflow", "statsmodels", "pynvml")


def loaded_after(code: str) -> set[str]:
    """Run code in a new interpreter and return which heavy modules it loaded."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.splitlines()[-1].split())


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_after("import rayscale.cli; rayscale.cli.run_command(['--help'])") == set()


def test_planning_loads_nothing_heavy() -> None:
    sweep = PACKAGE.parent / "sweeps" / "tinyllama.yaml"
    code = f"import rayscale.cli; assert rayscale.cli.run_command(['plan', {str(sweep)!r}]) == 0"
    assert loaded_after(code) <= {"pynvml"}


def test_analysis_loads_neither_torch_nor_ray() -> None:
    assert loaded_after("import rayscale.analyzing, rayscale.report.build") & {"torch", "ray", "mlflow"} == set()
