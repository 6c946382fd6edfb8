"""One finding of the doctor, and all of them as text, JSON and exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rayscale.errors import EnvironmentUnusableError

Level = Literal["ok", "warning", "problem"]
WIDTH = 118


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        area: Part of the machine: `gpu`, `energy`, `host`, `storage`, `software`.
        name: What was looked at.
        level: `ok`; `warning`: a sweep runs, but worse than it could; `problem`: a sweep could not run.
        found: What was seen, in words.
        advice: What to do about it.
        values: The numbers, for machines.
    """

    area: str
    name: str
    level: Level
    found: str
    advice: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All findings."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 if a sweep could not run."""
        return EnvironmentUnusableError.exit_code if self.count("problem") else 0

    def count(self, level: Level) -> int:
        """Count the findings of a level."""
        return sum(check.level == level for check in self.checks)

    def document(self) -> dict[str, Any]:
        """Give the JSON document."""
        return {
            "usable": self.exit_code == 0,
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "checks": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        """Write one screen."""
        lines, area = [], ""
        for check in self.checks:
            if check.area != area:
                area = check.area
                lines.append(area)
            lines += _lines(check)
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        problems, warnings = self.count("problem"), self.count("warning")
        if problems:
            return f"a sweep could not run here: {problems} problem(s), {warnings} warning(s)"
        return f"a sweep can run here; {warnings} warning(s)"


def _lines(check: Check) -> list[str]:
    level = "PROBLEM" if check.level == "problem" else check.level
    head = f"  {level:<8} {check.name}: "
    lines = textwrap.wrap(head + check.found, WIDTH, subsequent_indent=" " * 11, break_long_words=False)
    if check.advice:
        lines += textwrap.wrap(
            check.advice, WIDTH, initial_indent=" " * 11 + "-> ", subsequent_indent=" " * 14, break_long_words=False
        )
    return lines
