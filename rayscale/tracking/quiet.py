"""MLflow's client with settings of ours, only while we use it: short waits, no telemetry, no chatter.

MLflow reads its settings from the process environment at each request (7 retries of 120 s by default: minutes during
which a dead server would hold a thread). There is no way to give them to one client, so they are set around each use
and put back afterwards; what the user has set stays.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from rayscale.errors import EnvironmentUnusableError
from rayscale.tracking.store import shown

CLIENT_SETTINGS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Settings of MLflow's client while we use it. Times in s."""

_LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # it logs with a traceback what it raises as well
}
_USE = threading.RLock()


@contextmanager
def mlflow_in_use(uri: str) -> Iterator[None]:
    """Use MLflow's client inside this block.

    Args:
        uri: The tracking URI, for the error message.

    Yields:
        Nothing.

    Raises:
        EnvironmentUnusableError: If MLflow, its database or its server fails; one line.
    """
    with _USE, _settings(os.environ):
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        with _hushed():
            try:
                yield
            except (MlflowException, SQLAlchemyError, OSError) as error:
                text = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise EnvironmentUnusableError(f"MLflow at {shown(uri)}: {shown(text[:300])}") from error


@contextmanager
def _settings(env: MutableMapping[str, str]) -> Iterator[None]:
    ours = {name: value for name, value in CLIENT_SETTINGS.items() if name not in env}
    env.update(ours)
    try:
        yield
    finally:
        for name in ours:
            env.pop(name, None)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep migrations and tips of MLflow off the user's terminal; warnings stay."""
    loggers = {name: logging.getLogger(name) for name in _LEVELS}
    before = {name: logger.level for name, logger in loggers.items()}
    for name, logger in loggers.items():
        logger.setLevel(max(logger.level, _LEVELS[name]))
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])
