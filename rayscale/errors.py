"""Errors that a user can act on; each class carries the exit code of the command line (design 4.2)."""

from __future__ import annotations


class RayscaleError(Exception):
    """Base of all errors with a message for the user: what, where, what was expected."""

    exit_code = 1


class InputError(RayscaleError):
    """Bad input: a file, a key, a value or a table that cannot be used as given."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        """Keep every problem found, so that one look at the message is enough to mend them all.

        Args:
            problems: One line, or one line per problem.
        """
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class EnvironmentUnusableError(RayscaleError):
    """The machine cannot run what was asked for: a missing device, a held lock, an unreachable store."""

    exit_code = 3
