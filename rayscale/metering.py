"""The meter around any command (`rayscale measure`): the readers, integration and verdict of a trial, one window.

The samplers are threads of this process, one per device: the process that runs the command's interpreter is another
one anyway, and this one only waits, so nothing holds the threads up. With GPUs every visible one is measured (what
other processes draw on it included); without, the CPU: RAPL, or the estimate over the command's whole process tree.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rayscale.energy.edges import EdgeBell
from rayscale.energy.measure import energy_result, unavailable
from rayscale.energy.quality import judge
from rayscale.energy.reader import PowerReader, gpu_devices, open_reader
from rayscale.energy.sampler import Sampler
from rayscale.energy.trace import read_trace
from rayscale.errors import InputError, RayscaleError
from rayscale.processtree import CHILDREN_RESOLUTION_S, DescendantsClock, adopting_orphans
from rayscale.record import Phase, PhaseEnergy, Reason
from rayscale.spec import EnergySpec

TAIL_S = 1.0
"""How much longer a GPU is sampled: its averaged power trails by about half a second (research/energy.md, 3.1)."""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class DeviceMeasurement:
    """What one device drew while the command ran. Units: J, W; None = unavailable.

    Attributes:
        uuid: `GPU-...`, or `cpu@<host>`.
        name: Product name.
        method: Which quantity `energy_j` is, in words.
        estimated: Whether a model, not a sensor, speaks.
        energy_j: The energy.
        bound_j: Half-width of what sampling leaves open in it.
        energy_counter_j: Growth of the device's counter.
        energy_integral_j: Integral of power.
        power_mean_w: Mean power.
        power_rms_w: Root mean square power.
        coverage: Share of the time that samples cover.
        verdict: `clean`, `suspect` or `invalid`.
        reasons: Codes of what is wrong.
        reason_details: The same in sentences.
        trace: File of the power trace, if it was kept.
    """

    uuid: str
    name: str | None
    method: str
    estimated: bool
    energy_j: float | None
    bound_j: float | None
    energy_counter_j: float | None
    energy_integral_j: float | None
    power_mean_w: float | None
    power_rms_w: float | None
    coverage: float
    verdict: str
    reasons: tuple[str, ...]
    reason_details: tuple[str, ...]
    trace: str | None = None


@dataclass(frozen=True)
class Measurement:
    """One measured command.

    Attributes:
        exit_code: The command's; 128 + number when a signal ended it, as shells say it.
        duration_s: From its start to its end.
        devices: One entry per device.
    """

    exit_code: int
    duration_s: float
    devices: tuple[DeviceMeasurement, ...]

    def document(self) -> dict[str, Any]:
        """Give the JSON document of design 4.6."""
        return asdict(self)

    def text(self) -> str:
        """Write it for people."""
        lines = [f"rayscale measure: exit code {self.exit_code}, {self.duration_s:.3f} s"]
        for device in self.devices:
            lines += _device_lines(device)
        return "\n".join(lines)


def _device_lines(device: DeviceMeasurement) -> list[str]:
    mark = " (estimated)" if device.estimated else ""
    numbers = [
        f"energy{mark} {_value(device.energy_j, 'J')} ± {_value(device.bound_j, 'J')}",
        f"power mean {_value(device.power_mean_w, 'W')}, rms {_value(device.power_rms_w, 'W')}",
        f"coverage {device.coverage:.1%}",
        device.verdict,
    ]
    lines = [f"{device.name or 'unnamed'} ({device.uuid}): {'; '.join(numbers)}"]
    lines += [f"  {detail}" for detail in dict.fromkeys([device.method, *device.reason_details])]
    return [*lines, f"  trace: {device.trace}"] if device.trace else lines


def _value(value: float | None, unit: str) -> str:
    return "n/a" if value is None else f"{value:.4g} {unit}"


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Meter:
    reader: PowerReader
    sampler: Sampler
    directory: Path


def measure(
    command: Sequence[str], spec: EnergySpec, *, trace: Path | None = None, stdout: int | None = None
) -> Measurement:
    """Run a command and measure what it drew.

    Args:
        command: The program and its arguments.
        spec: Source, period, constants and thresholds.
        trace: Directory to keep the power traces in, one folder per device; None keeps none.
        stdout: File descriptor for the command's standard output; None leaves it alone.

    Returns:
        The measurement.

    Raises:
        InputError: If there is no such command, or it may not be run.
        EnvironmentUnusableError: If a device cannot be read.
    """
    _check_command(command[0])
    with ExitStack() as stack:
        root = trace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rayscale-measure-")))
        stack.enter_context(adopting_orphans())
        clock = DescendantsClock()
        meters = [_start(reader, spec, root) for reader in _readers(spec, clock, stack)]
        try:
            exit_code, window = _run(command, stdout, meters)
            left = len(clock.running())
            if any(meter.reader.source == "nvml" for meter in meters):
                time.sleep(TAIL_S)
        finally:
            stats = [meter.sampler.stop() for meter in meters]
        devices = [_result(meter, window, spec, one, left, trace) for meter, one in zip(meters, stats, strict=True)]
    return Measurement(exit_code, window.duration_s, tuple(devices))


def _readers(spec: EnergySpec, clock: DescendantsClock, stack: ExitStack) -> list[PowerReader]:
    """Open every visible GPU, else the CPU; the stack closes them."""
    gpus = gpu_devices() if spec.source in ("auto", "nvml") else []
    readers: list[PowerReader] = []
    for gpu in gpus:
        # all that descends from this process is the command, and comes and goes; others on the GPU are foreign
        readers.append(open_reader(spec, device_uuid=gpu.uuid, pid=os.getpid(), departed=False))
        stack.callback(readers[-1].close)
    if not gpus:
        readers.append(_cpu_reader(spec, clock))
        stack.callback(readers[-1].close)
    return readers


def _cpu_reader(spec: EnergySpec, clock: DescendantsClock) -> PowerReader:
    from rayscale.energy.estimated import EstimatedReader
    from rayscale.energy.rapl import rapl_problem

    label = f"cpu@{socket.gethostname()}"
    if spec.source in ("nvml", "rapl") or (spec.source == "auto" and rapl_problem() is None):
        return open_reader(spec, device_uuid=label, pid=os.getpid())
    reader = EstimatedReader(
        os.getpid(),
        idle_w=spec.estimate.idle_w,
        w_per_cpu=spec.estimate.w_per_cpu,
        device_uuid=label,
        cpu_seconds=lambda _pid: clock.seconds(),
    )
    reader.method += "; CPU time of the command and all its descendants"
    reader.counter_resolution_s = CHILDREN_RESOLUTION_S
    return reader


def _start(reader: PowerReader, spec: EnergySpec, root: Path) -> _Meter:
    directory = root / str(reader.device_uuid)
    if any((directory / name).exists() for name in ("power.parquet", "power.arrows")):
        raise InputError(f"--trace {root}: {directory.name} already holds a power trace; expected a new directory")
    sampler = Sampler(reader, directory, spec.period)
    sampler.start()
    return _Meter(reader, sampler, directory)


def _check_command(program: str) -> None:
    """Refuse what is not there before anything is started."""
    if shutil.which(program) is None:
        what = "is no program that may be run" if Path(program).exists() else "no such command"
        raise InputError(f"{program}: {what}; expected a program and its arguments after --")


def _run(command: Sequence[str], stdout: int | None, meters: Sequence[_Meter]) -> tuple[int, Phase]:
    relay = _SignalRelay()
    with relay.installed():
        _mark(meters)
        start = time.monotonic()
        try:
            child = subprocess.Popen(list(command), stdout=stdout)
        except OSError as error:
            raise InputError(f"{command[0]}: cannot be run: {error.strerror}") from None
        relay.to(child)
        code = child.wait()
        window = Phase(name="train", start=start, end=time.monotonic())
        _mark(meters)
    return (code if code >= 0 else 128 - code), window


def _mark(meters: Sequence[_Meter]) -> None:
    """Read all devices as the edge of the command; at once, since each waits for the tick of its own counter."""
    with ThreadPoolExecutor(len(meters)) as pool:
        list(pool.map(lambda meter: EdgeBell(meter.directory).ring(tick=True), meters))


class _SignalRelay:
    """Outlives the command: what would end this process is the command's to handle, and is passed on to it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        # handlers, not SIG_IGN: the command would inherit an ignored signal
        before = {number: signal.signal(number, self._pass) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def to(self, child: subprocess.Popen[bytes]) -> None:
        """Name the command's process, and pass on what came while it was being started."""
        self._child = child
        for number in self._early:
            child.send_signal(number)

    def _pass(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and _in_foreground():
            return  # Ctrl-C reaches the command by itself: the terminal sends it to the whole foreground group
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# -- the result -------------------------------------------------------------------------------------------------------


def _result(
    meter: _Meter, window: Phase, spec: EnergySpec, stats: Any, left: int, kept: Path | None
) -> DeviceMeasurement:
    """Integrate and judge the command's window as if it were the `train` phase of a trial."""
    trace = None
    try:
        trace = read_trace(meter.directory)
        energy = energy_result(trace, [window], spec, stats)
    except (OSError, ValueError, RayscaleError) as error:
        energy = unavailable([window], f"no readable power trace: {error}")
    still = f"{left} process(es) that the command started still run; what they draw from now on is not counted"
    extra = [Reason(code="still_running", detail=still)] if left else []
    quality = judge(trace, [window], energy, spec, stats, extra=extra)
    train = energy.phases.get("train", PhaseEnergy(duration_s=window.duration_s, energy_j=None))
    return DeviceMeasurement(
        uuid=str(meter.reader.device_uuid),
        name=meter.reader.device_name,
        method=energy.method,
        estimated=energy.estimated,
        energy_j=train.energy_j,
        bound_j=train.bound_j,
        energy_counter_j=train.counter_j,
        energy_integral_j=train.integral_j,
        power_mean_w=train.mean_w,
        power_rms_w=train.rms_w,
        coverage=train.coverage,
        verdict=quality.verdict,
        reasons=tuple(reason.code for reason in quality.reasons),
        # the rules speak of a trial's phase; here the phase is the command
        reason_details=tuple(reason.detail.replace("train phase", "command") for reason in quality.reasons),
        trace=str(meter.directory / "power.parquet") if kept else None,
    )
