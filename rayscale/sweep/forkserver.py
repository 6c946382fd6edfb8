"""A fresh process per trial without its start-up cost: fork from a server that has torch and transformers imported.

Each child has its own memory and its own CUDA context (the server never touches CUDA), and costs some 20 ms instead of
the 4 to 9 s that a new interpreter needs to import the same modules.
"""

from __future__ import annotations

import multiprocessing
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

from rayscale.errors import RayscaleError

T = TypeVar("T")


class ForkServer:
    """Forks processes from one preloaded server."""

    def __init__(self, preload: list[str]) -> None:
        """Name what the server imports; it starts with the first fork.

        Args:
            preload: Modules. An import error among them is silent in multiprocessing, so `missing` checks.
        """
        self._preload = list(preload)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(self._preload)

    def pipe(self) -> tuple[Connection, Connection]:
        """Return the two ends of a pipe that can be handed to a child."""
        return self._context.Pipe()

    def fork(self, target: Callable[..., None], *args: Any) -> ForkServerProcess:
        """Start a process.

        Args:
            target: A module-level function; its module should be among the preloaded ones.
            args: Picklable arguments.

        Returns:
            The running process.
        """
        process = self._context.Process(target=target, args=args, daemon=True)
        with _hidden_main():
            process.start()
        return process

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in a fork and return its result.

        Args:
            function: A module-level function.
            args: Picklable arguments.

        Returns:
            What the function returned.

        Raises:
            RayscaleError: If the process died without an answer.
            Exception: Whatever the function raised.
        """
        here, there = self.pipe()
        process = self.fork(_answer, there, function, args)
        there.close()
        try:
            succeeded, value = here.recv()
        except EOFError:
            process.join()
            name = getattr(function, "__name__", "function")
            raise RayscaleError(f"{name}: its process died with exit code {process.exitcode}") from None
        process.join()
        if not succeeded:
            raise value
        return value

    def missing(self) -> list[str]:
        """Return the modules that should be preloaded and are not."""
        return self.call(_not_imported, self._preload)


def _answer(connection: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        connection.send((True, function(*args)))
    except Exception as error:
        connection.send((False, error))


def _not_imported(names: list[str]) -> list[str]:
    return [name for name in names if name not in sys.modules]


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep multiprocessing from re-importing `__main__` in the child.

    In a Ray worker `__main__` is Ray's worker script, whose import would cost every trial a second.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
