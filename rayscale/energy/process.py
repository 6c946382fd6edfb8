"""The sampler in a process of its own, for a trial without Ray: the training's interpreter lock cannot delay it.

    python -m rayscale.energy.process '{"spec": ..., "device_uuid": ..., "pid": ..., "directory": ...}'

Parent and child talk in lines: the child says `{"ready": true}` or `{"error": ...}`; the parent says `mark` or `stop`;
the child answers `stop` with its stats and ends. It also ends, with its trace closed, when its standard input ends or
it gets another parent: a killed trial leaves no sampler behind.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from rayscale.energy.group import SamplerGroup
from rayscale.energy.punctual import keep_garbage_collection_short
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.sumtrace import finish_traces
from rayscale.errors import EnvironmentUnusableError, InputError, RayscaleError
from rayscale.spec import EnergySpec

_PARENT_CHECK_S = 1.0
_STOP_TIMEOUT_S = 30.0


class SamplerProcess:
    """A sampler in a child process."""

    def __init__(self, spec: EnergySpec, device_uuid: str | None, pid: int | None, directory: Path) -> None:
        """Bind; nothing is started.

        Args:
            spec: Source, period and constants.
            device_uuid: The devices that train, as `deviceset` writes them.
            pid: The trial's process, for the estimate.
            directory: The attempt's directory.
        """
        self.directory = Path(directory)
        """The attempt's, where the trace is."""
        job = {
            "spec": spec.model_dump(mode="json"),
            "device_uuid": device_uuid,
            "pid": pid,
            "directory": str(directory),
        }
        self._command = [sys.executable, "-m", "rayscale.energy.process", json.dumps(job)]
        self._child: subprocess.Popen[str] | None = None
        self._stats: SamplerStats | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None before `start`."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start sampling; returns once the first poll was taken.

        Raises:
            EnvironmentUnusableError: If the device cannot be read; the message says why.
        """
        # a session of its own: Ctrl-C in the terminal is the trial's to handle, the sampler ends after it
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        answer = self._answer()
        if not answer.get("ready"):
            self._child.kill()
            self._child.wait()
            raise EnvironmentUnusableError(str(answer.get("error", "the power sampler ended before its first poll")))

    def alive(self) -> bool:
        """Tell whether the child runs."""
        return self._child is not None and self._child.poll() is None

    def mark(self) -> None:
        """Ask for an extra poll now; does not wait for it."""
        self._say("mark")

    def stop(self) -> SamplerStats:
        """End sampling and finish the trace, also that of a child that died.

        Returns:
            What the sampler did; the same again at a second call.
        """
        if self._stats is None:
            self._say("stop")
            answer = self._answer()
            self._end()
            self._stats = SamplerStats.from_record(answer) if "polls" in answer else self._lost()
        return self._stats

    def _say(self, word: str) -> None:
        if self._child is None or self._child.stdin is None:
            raise RuntimeError("the sampler was not started")
        try:
            self._child.stdin.write(f"{word}\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # the child is gone; `alive` and `stop` tell

    def _answer(self) -> dict[str, float | int | str | bool | None]:
        if self._child is None or self._child.stdout is None:
            raise RuntimeError("the sampler was not started")
        ready, _, _ = select.select([self._child.stdout], [], [], _STOP_TIMEOUT_S)
        line = self._child.stdout.readline() if ready else ""
        try:
            return dict(json.loads(line))
        except ValueError:
            return {}

    def _end(self) -> None:
        child = self._child
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # unsent words to a dead child
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _lost(self) -> SamplerStats:
        try:
            finish_traces(self.directory)
        except (OSError, RayscaleError) as error:
            return SamplerStats(died=True, write_error=f"{type(error).__name__}: {error}")
        return SamplerStats(died=True)


# -- the child --------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Sample until told to stop or left alone.

    Args:
        arguments: One JSON object.

    Returns:
        Exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = json.loads(arguments[0])
        spec = EnergySpec.model_validate(job["spec"])
        parent = os.getppid()
        sampler = SamplerGroup(spec, job["device_uuid"], job["pid"], Path(job["directory"]))
        keep_garbage_collection_short()
        sampler.start()
    except (RayscaleError, OSError, ValueError, LookupError) as error:
        _tell({"error": str(error)})
        return (
            InputError.exit_code if isinstance(error, ValueError | LookupError) else EnvironmentUnusableError.exit_code
        )
    _tell({"ready": True})
    _serve(sampler, parent)
    stats = sampler.stop()
    sampler.close()
    _tell(stats.to_record())
    return 0


def _serve(sampler: SamplerGroup, parent: int) -> None:
    """Follow the parent's words until `stop`, the end of input, or the parent's death."""
    buffered = b""
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], _PARENT_CHECK_S)
        if not ready:
            continue
        chunk = os.read(0, 4096)
        *lines, buffered = (buffered + chunk).split(b"\n")
        for _ in range(lines.count(b"mark")):
            sampler.mark()
        if not chunk or b"stop" in lines:
            return


def _tell(answer: dict[str, float | int | str | bool | None]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more; keep the interpreter's exit quiet


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
