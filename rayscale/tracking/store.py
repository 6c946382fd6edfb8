"""Where the MLflow mirror lies: a sqlite file beside the ledger, unless sweep file or environment name another place.

<storage>/mlflow.db        runs of all sweeps of this storage
<storage>/mlartifacts/     their files
<storage>/<sweep name>/    the ledger
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from rayscale.errors import InputError
from rayscale.ledger import Ledger

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def default_uri(ledger: Ledger) -> str:
    """Name the sqlite file beside the ledger, shared by the sweeps of its storage.

    Args:
        ledger: The ledger.

    Returns:
        A tracking URI with an absolute path.
    """
    return f"sqlite:///{ledger.root.resolve().parent / 'mlflow.db'}"


def resolve_uri(ledger: Ledger, spec_uri: str | None, env: Mapping[str, str]) -> str:
    """Decide where the mirror lies: `tracking.uri`, else `MLFLOW_TRACKING_URI`, else beside the ledger.

    Args:
        ledger: The ledger.
        spec_uri: `tracking.uri` of the sweep file.
        env: The environment.

    Returns:
        The tracking URI.

    Raises:
        InputError: If it names a file store, which MLflow 3 no longer writes, or something that is no tracking URI.
    """
    for uri, origin in ((spec_uri, "tracking.uri"), (env.get("MLFLOW_TRACKING_URI"), "MLFLOW_TRACKING_URI")):
        if uri:
            return _checked(uri, origin)
    return default_uri(ledger)


def is_server(uri: str) -> bool:
    """Tell whether a tracking URI names a server, which keeps database and files itself."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """Return the file of a sqlite URI.

    Args:
        uri: The tracking URI.

    Returns:
        The path; None for any other store.
    """
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(unquote(match[1])) if match else None


def artifact_root(ledger: Ledger, uri: str) -> Path | None:
    """Choose where files of runs go.

    Args:
        ledger: The ledger.
        uri: The tracking URI.

    Returns:
        `mlartifacts` beside the sqlite file, or in the storage for another database; None where a server decides.
    """
    if is_server(uri):
        return None
    file = database_file(uri)
    directory = file.resolve().parent if file else ledger.root.resolve().parent
    return directory / "mlartifacts"


def shown(uri: str) -> str:
    """Write a URI for the terminal, without its password."""
    return re.sub(r"(://[^:/@]+):[^@/]+@", r"\1:***@", uri)


def _checked(uri: str, origin: str) -> str:
    scheme = uri.split(":", 1)[0].split("+", 1)[0].lower() if "://" in uri else ""
    if is_server(uri) or scheme in _DATABASES:
        return uri
    kind = "a file store, which MLflow 3 no longer writes" if scheme in ("", "file") else "no tracking URI we know"
    raise InputError(f"{origin}: {shown(uri)!r} is {kind}; expected http(s)://HOST:PORT or sqlite:////PATH/mlflow.db")
