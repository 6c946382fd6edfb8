"""What a check of a cluster file says: one line per finding, with the line in the file and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["problem", "warning", "fill-in"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, doubtful or still to be filled in."""

    severity: Severity
    """problem: must be changed; warning: should be looked at; fill-in: a value that only the user knows."""
    code: str
    """Machine-readable reason; `--allow CODE` accepts it."""
    line: int
    """Line in the file."""
    message: str
    """What, where, and what was expected."""

    def text(self, source: str) -> str:
        """Return `file:line: severity: message [code]`."""
        return f"{source}:{self.line}: {self.severity}: {self.message} [{self.code}]"


def problem(code: str, line: int, message: str) -> Finding:
    """Return a finding that fails the check."""
    return Finding("problem", code, line, message)


def warning(code: str, line: int, message: str) -> Finding:
    """Return a finding that the check only tells."""
    return Finding("warning", code, line, message)
