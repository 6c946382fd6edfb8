"""Ray's authentication token: found where Ray finds it, shown nowhere.

    RAY_AUTH_TOKEN  >  the file RAY_AUTH_TOKEN_PATH  >  ~/.ray/auth_token

It goes into one HTTP header and nowhere else: not into the environment, the job's metadata or a message. Ray sends it
in clear over plain HTTP, so `rayscale.cluster.reach` uses that on loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rayscale.errors import EnvironmentUnusableError, InputError


@dataclass(frozen=True)
class Token:
    """A token, and where it comes from."""

    value: str = field(repr=False)
    """The secret; left out of every representation."""
    source: str
    """Where it was found, for messages."""

    def headers(self) -> dict[str, str]:
        """Return the HTTP header that carries it."""
        return {"Authorization": f"Bearer {self.value}"}


def find_token(environment: Mapping[str, str], home: Path) -> Token | None:
    """Find the token as Ray does.

    Args:
        environment: Environment variables.
        home: The user's home directory.

    Returns:
        The token; None if there is none anywhere.

    Raises:
        EnvironmentUnusableError: If a named file cannot be read.
        InputError: If what is there cannot be a token.
    """
    if value := environment.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(value, "RAY_AUTH_TOKEN")
    if path := environment.get("RAY_AUTH_TOKEN_PATH", "").strip():
        return _read(Path(path).expanduser(), "RAY_AUTH_TOKEN_PATH")
    default = home / ".ray" / "auth_token"
    return _read(default, "~/.ray/auth_token") if default.exists() else None


def _read(path: Path, source: str) -> Token:
    try:
        return _checked(path.read_text(encoding="utf-8").strip(), source)
    except OSError as error:
        raise EnvironmentUnusableError(f"{source}: the token cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: expected a token, one line of letters and digits") from None


def _checked(value: str, source: str) -> Token:
    """Refuse what would break out of an HTTP header; the message does not repeat it."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise InputError(f"{source}: expected a token, one line of letters and digits")
    return Token(value, source)
