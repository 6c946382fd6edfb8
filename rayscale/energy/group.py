"""The samplers of one trial in one process: a thread per device, each with its reader and its own trace.

    GPU-a   reader ── sampler ──▶ power-0/power.parquet ──┐
    GPU-b   reader ── sampler ──▶ power-1/power.parquet ──┴─▶ power.parquet    the sum, for pictures and resampling

Each device is read at its own times and waits for the ticks of its own counter; energies are added up afterwards,
device by device (`sums`). A trial on one device has its trace where it always was, and nothing else. The threads share
one interpreter: a poll is some calls into the driver, during which the others run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rayscale.energy.deviceset import devices_in, places
from rayscale.energy.reader import PowerReader, Reading, open_reader
from rayscale.energy.sampler import Sampler, SamplerStats
from rayscale.energy.sumtrace import add_up, finish_traces, together
from rayscale.errors import RayscaleError
from rayscale.spec import EnergySpec


class SamplerGroup:
    """Samples every device of a trial."""

    def __init__(
        self,
        spec: EnergySpec,
        device_uuid: str | None,
        pid: int | None,
        directory: Path,
        beat: Callable[[float], None] | None = None,
    ) -> None:
        """Open the devices.

        Args:
            spec: Source, period and constants.
            device_uuid: The devices that train, as `deviceset` writes them; None: the CPU.
            pid: The trial's process.
            directory: The attempt's directory.
            beat: Told the time of the least recent of all devices' newest polls: one that hangs is silence.

        Raises:
            EnvironmentUnusableError: If a device cannot be read.
            ValueError: If the estimate is to be used without a process.
        """
        self._directory = Path(directory)
        devices: Sequence[str | None] = devices_in(device_uuid) or (None,)
        self._beats = [0.0] * len(devices)
        self._beat = beat
        self._readers: list[PowerReader] = []
        with ExitStack() as opened:
            for uuid in devices:
                self._readers.append(open_reader(spec, device_uuid=uuid, pid=pid))
                opened.callback(self._readers[-1].close)
            opened.pop_all()
        self.samplers = [
            Sampler(reader, place, spec.period, beat=None if beat is None else self._beating(index))
            for index, (reader, place) in enumerate(
                zip(self._readers, places(self._directory, device_uuid), strict=True)
            )
        ]

    def _beating(self, index: int) -> Callable[[float], None]:
        def beat(t: float) -> None:
            self._beats[index] = t
            if self._beat is not None:
                self._beat(min(self._beats))

        return beat

    @property
    def estimated(self) -> bool:
        """Whether a model, not a sensor, speaks."""
        return any(reader.estimated for reader in self._readers)

    @property
    def last(self) -> Reading | None:
        """The newest polls of all devices as one: powers added up, the highest temperature; None without a poll."""
        return together([sampler.last for sampler in self.samplers])

    def start(self) -> None:
        """Start sampling; returns once the first poll of each device was taken.

        Raises:
            EnvironmentUnusableError: If a trace cannot be opened, or a device does not answer.
        """
        started: list[Sampler] = []
        try:
            for sampler in self.samplers:
                sampler.start()
                started.append(sampler)
        except RayscaleError:
            for sampler in started:
                sampler.stop()
            self.close()
            raise

    def mark(self) -> None:
        """Take an extra poll of each device right now."""
        for sampler in self.samplers:
            sampler.mark()

    def stop(self) -> SamplerStats:
        """End sampling and complete the traces.

        Returns:
            What the samplers did, together.
        """
        stats = combined([sampler.stop() for sampler in self.samplers])
        if len(self.samplers) == 1:
            return stats  # it has completed its own
        try:
            finish_traces(self._directory)
        except (OSError, RayscaleError) as error:
            return replace(stats, write_error=f"{type(error).__name__}: {error}")
        return stats

    def close(self) -> None:
        """Let the devices go."""
        for reader in self._readers:
            reader.close()


def combined(stats: Sequence[SamplerStats]) -> SamplerStats:
    """Add up what the samplers of one trial did.

    Args:
        stats: One per device.

    Returns:
        Counts and CPU time as sums, latencies and lateness of the worst, the first error.
    """
    if len(stats) == 1:
        return stats[0]

    def most(name: str) -> float | None:
        return max((value for one in stats if (value := getattr(one, name)) is not None), default=None)

    return SamplerStats(
        polls=sum(one.polls for one in stats),
        missed=sum(one.missed for one in stats),
        errors=sum(one.errors for one in stats),
        late_p99_s=most("late_p99_s"),
        latency_p50_s=most("latency_p50_s"),
        latency_p99_s=most("latency_p99_s"),
        cpu_s=add_up([one.cpu_s for one in stats]),
        wall_s=most("wall_s"),
        first_error=next((one.first_error for one in stats if one.first_error), None),
        write_error=next((one.write_error for one in stats if one.write_error), None),
        died=any(one.died for one in stats),
        real_time=all(one.real_time for one in stats),
    )
