"""The fault table: what is injected, what must come out. README's section is rendered from it (`render`)."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from energy_traces import meta, sampled
from fake_nvml import Clock, FakeGpu, FakeNvml
from fault_bench import START, Outcome, attempt, during, gpu
from fault_loss import lost
from fault_rapl import RANGE_UJ, rapl
from native_trial import job_of, outcome_of
from simgpu import CallFault

from rayscale.attempt import assemble_record
from rayscale.energy.layout import STREAM
from rayscale.energy.measure import energy_result, unavailable
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.process import SamplerProcess
from rayscale.energy.quality import judge
from rayscale.energy.sampler import Sampler, SamplerStats
from rayscale.energy.stream import TraceWriter
from rayscale.energy.trace import Trace, read_trace
from rayscale.record import Phase
from rayscale.spec import EnergySpec

LATE, EARLY = during(0.5, 0.6), during(0.1, 0.2)
ALL = during(-0.5, 2.0)


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        fault: What goes wrong, in words.
        inject: Makes it happen.
        codes: Reasons that must be named.
        energy: `right`: the truth lies within the reported bound; `none`: no number; `marked`: a number that the
            verdict marks as suspect or invalid.
        refused: Words of the refusal, where the trial must not begin.
    """

    fault: str
    inject: Callable[[Path], Outcome]
    codes: tuple[str, ...] = ()
    energy: Literal["right", "none", "marked"] = "right"
    refused: str | None = None


def failing(name: str | int, code: int, span: tuple[float, float] = LATE, **more: object) -> Outcome:
    return attempt(gpu(faults=(CallFault(name, code, *span),), **more))


# -- faults that need real processes or files -------------------------------------------------------------------------

_ESTIMATED = EnergySpec(source="estimated", period=0.02)


def _interrupted(directory: Path, signals: list[int], pause_s: float) -> Outcome:
    """Send signals to a real sampler process in the middle of a phase of this process."""
    sampler = SamplerProcess(_ESTIMATED, "cpu:0@here", os.getpid(), directory)
    sampler.start()
    start = time.monotonic()
    time.sleep(1.0)  # the first polls are on disk after 0.85 s
    for number in signals:
        os.kill(sampler.pid or 0, number)
        time.sleep(pause_s if number != signal.SIGCONT else 0.3)
    end = time.monotonic()
    time.sleep(0.05)
    stats = sampler.stop()
    return _judged(read_trace(directory), start, end, stats)


def _judged(trace: Trace, start: float, end: float, stats: SamplerStats | None) -> Outcome:
    phases = [Phase(name="train", start=start, end=end)]
    result = energy_result(trace, phases, _ESTIMATED, stats)
    return Outcome(result, judge(trace, phases, result, _ESTIMATED, stats))


def _replaced(directory: Path, how: str) -> Outcome:
    """A sampler of the C library's GPU is lost, and a slot's watch replaces it."""
    record, truth_j = lost(how, directory)
    return Outcome(record.energy, record.quality, truth_j)


def full_disk(directory: Path) -> Outcome:
    """A limit on the size of files is a disk that fills up."""
    reader = NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x"), clock=Clock()))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    sampler = Sampler(reader, directory, 0.02)
    start = time.monotonic()
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, old[1]))
    try:
        sampler.start()
        time.sleep(0.3)
        stats = sampler.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    phases = [Phase(name="train", start=start, end=time.monotonic())]
    result = unavailable(phases, "no readable power trace")
    return Outcome(result, judge(None, phases, result, _ESTIMATED, stats))


def torn_trace(directory: Path) -> Outcome:
    """The machine went down while a batch was written."""
    writer = TraceWriter(directory, meta())
    for row in sampled(lambda t: 200.0, 30.0, counter=True):
        writer.append(row)
    writer.flush()
    with (directory / STREAM).open("ab") as file:
        file.write(b"\xff\xff\xff\xff\x10\x00\x00\x00half a batch")
    return replace(_judged(read_trace(directory), 5.0, 25.0, None), truth_j=4000.0)


def no_trace(_: Path) -> Outcome:
    phases = [Phase(name="train", start=0.0, end=30.0)]
    result = unavailable(phases, "no readable power trace")
    return Outcome(result, judge(None, phases, result, _ESTIMATED, None))


def wall_clock_step(_: Path) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)
        return attempt(gpu())


def clock_set_in_a_gap(_: Path) -> Outcome:
    """The driver stamps its samples with the wall clock."""
    device = gpu(ring_depth=120)
    nvml = FakeNvml(device)

    def lose(t: float) -> bool:
        nvml.wall_ahead = 1.7e9 - 3600.0 * (t > LATE[0] + 1)
        return LATE[0] < t < LATE[0] + 3

    return attempt(device, nvml=nvml, lose=lose)


def wrong_device(directory: Path) -> Outcome:
    """Whatever the trace says, it is not the trial's energy."""
    writer = TraceWriter(directory, meta())
    for row in sampled(lambda t: 200.0, 30.0, counter=True):
        writer.append(row)
    writer.close()
    phases = [Phase(name="train", start=5.0, end=25.0)]
    record = assemble_record(job_of(directory), outcome_of(phases, uuid="GPU-another"), None, [])
    return Outcome(record.energy, record.quality)


SHORT_VISIT = LATE[0] + 0.3, LATE[0] + 2.1


def _binding(init_error: int | None) -> Callable[[Path], Outcome]:
    return lambda _: attempt(gpu(), nvml=FakeNvml(gpu(), init_error=init_error))


CASES = (
    # -- NVML's errors
    Case(
        "NVML: GPU is lost for good",
        lambda _: failing("*", 15, during(0.5, 9.0)),
        ("nvml_errors", "coverage"),
        "marked",
    ),
    Case("NVML: GPU is lost for 4 s, then back", lambda _: failing("*", 15), ("nvml_errors", "sampler_errors")),
    Case("NVML: uninitialized (driver reload), handle opened again", lambda _: failing("*", 1), ("nvml_errors",)),
    Case("NVML: reset required", lambda _: failing("*", 16), ("nvml_errors",)),
    Case("NVML: timeout of the field query", lambda _: failing("nvmlDeviceGetFieldValues", 10), ("nvml_errors",)),
    Case("NVML: unknown error of one field (averaged power)", lambda _: failing(185, 999), ("nvml_errors",)),
    Case("NVML: no data for instantaneous power", lambda _: failing(186, 21), ("nvml_errors",)),
    Case("NVML: operating system error of the energy counter", lambda _: failing(83, 17), ("unavailable",)),
    Case(
        "NVML: temperature fails (interrupt issue)",
        lambda _: failing("nvmlDeviceGetTemperatureV", 11),
        ("unavailable",),
    ),
    Case(
        "NVML: field queries repeat an old answer for 12 s, without an error",
        lambda _: attempt(gpu(frozen=during(0.5, 0.8))),
        ("nvml_errors",),
        "marked",
    ),
    Case("NVML: no permission for the energy counter", lambda _: attempt(gpu(faults=_no_counter(4)))),
    Case("NVML: averaged power not supported (older GPU)", lambda _: attempt(gpu("V100"))),
    Case("NVML: not supported for the GPU alone, but for its module (Grace Hopper)", lambda _: attempt(gpu(scope=1))),
    Case(
        "NVML: function not found (old driver: no field query)",
        lambda _: failing("nvmlDeviceGetFieldValues", 13, during(-9.0, 9.0)),
    ),
    Case("NVML: nothing is supported", lambda _: attempt(gpu(faults=_nothing())), refused="neither power nor energy"),
    Case("NVML: driver and library versions differ", _binding(18), refused="NVML does not start"),
    Case("NVML: no driver", _binding(9), refused="no NVIDIA driver"),
    Case("UUID that this machine does not have", lambda _: attempt(gpu(), nvml=FakeNvml()), refused="cannot be opened"),
    Case("MIG mode", lambda _: attempt(gpu(mig=1)), refused="MIG"),
    Case(
        "NVML: MIG mode is not told (unknown error)",
        lambda _: failing("nvmlDeviceGetMigMode", 999, ALL),
        refused="MIG mode is not told",
    ),
    Case("trained on another GPU than the sampled one", wrong_device, ("wrong_device",), "marked"),
    # -- values
    Case("energy counter reset to 0", lambda _: attempt(gpu(counter_reset_at=LATE[0])), ("counter_reset",)),
    Case(
        "driver reload: 4 s without answers, then a counter from 0",
        lambda _: failing("*", 1, counter_reset_at=LATE[0]),
        ("counter_reset", "nvml_errors"),
    ),
    Case(
        "energy counter falls by 700 J",
        lambda _: attempt(gpu(counter_reset_at=LATE[0] + 0.05, counter_jump_j=700.0)),
        ("counter_reset",),
    ),
    Case(
        "energy counter jumps up by 9 kJ",
        lambda _: attempt(gpu(counter_reset_at=LATE[0], counter_jump_j=-9000.0)),
        ("disagreement",),
    ),
    Case("energy counter stands still", lambda _: attempt(gpu(counter_stale_from=LATE[0])), ("counter_stale",)),
    Case(
        "energy counter counts 8 % too little",
        lambda _: attempt(gpu(counter_gain=0.92)),
        ("disagreement",),
        "marked",
    ),
    Case("power reads 0 W", lambda _: attempt(gpu(broken=(*LATE, 0.0))), ("nvml_errors",)),
    Case("power reads a negative value", lambda _: attempt(gpu(broken=(*LATE, -5.0))), ("nvml_errors",)),
    Case("power reads 60 kW", lambda _: attempt(gpu(broken=(*LATE, 60_000.0))), ("nvml_errors",)),
    Case(
        "power sensor stuck at its idle value",
        lambda _: attempt(gpu(stuck_from=START - 2)),
        ("disagreement",),
        "marked",
    ),
    # -- the CPU's counters
    Case("RAPL: the counters wrap around", lambda path: rapl(path, offset_uj=RANGE_UJ - 300_000_000)),
    Case(
        "RAPL: the memory's counter cannot be read for 3 s",
        lambda path: rapl(path, broken=(10.0, 13.0)),
        ("coverage", "sampler_errors"),
    ),
    Case(
        "RAPL: a counter cannot be read at the start",
        lambda path: rapl(path, broken=(0.0, 1.0)),
        refused="energy_uj",
    ),
    # -- the sampler and its files
    Case(
        "sampler killed (kill -9) before half of the phase, not started again",
        lambda path: _interrupted(path, [signal.SIGKILL], 1.3),
        ("sampler_died", "coverage", "no_energy"),
        "none",
    ),
    Case(
        "sampler stopped for 3 s (SIGSTOP, SIGCONT)",
        lambda path: _interrupted(path, [signal.SIGSTOP, signal.SIGCONT], 3.0),
        ("coverage",),
        "marked",
    ),
    Case(
        "sampler killed (kill -9) and replaced",
        lambda path: _replaced(path, "SIGKILL"),
        ("sampler_restarted", "coverage"),
    ),
    Case(
        "sampler stopped for 3 s (SIGSTOP), given up and replaced",
        lambda path: _replaced(path, "SIGSTOP"),
        ("sampler_restarted", "coverage"),
    ),
    Case(
        "no polls for 3 s, the driver keeps samples",
        lambda _: attempt(gpu(ring_depth=120), lose=lambda t: LATE[0] < t < LATE[0] + 3),
        ("backfilled",),
    ),
    Case(
        "no polls for 3 s, the driver keeps samples, the wall clock is set meanwhile",
        clock_set_in_a_gap,
        ("coverage", "unavailable"),
    ),
    Case(
        "no polls for 3 s, the driver keeps nothing",
        lambda _: attempt(gpu(), lose=lambda t: LATE[0] < t < LATE[0] + 3),
        ("coverage",),
    ),
    Case("disk full for the trace", full_disk, ("sampler_errors", "no_energy"), "none"),
    Case("trace torn in the middle of a batch", torn_trace),
    Case("no trace at all", no_trace, ("no_energy",), "none"),
    Case("wall clock set back to 1970", wall_clock_step),
    # -- the device and its surroundings
    Case("foreign process on the device", lambda _: attempt(gpu(processes=((1, *ALL),))), ("foreign_process",)),
    Case(
        "foreign process that comes and goes within 2 s",
        lambda _: attempt(gpu(processes=((1, *SHORT_VISIT),))),
        ("foreign_process",),
    ),
    Case("throttled by heat", lambda _: attempt(gpu(slow_at_c=60.0)), ("throttled",)),
    Case("power brake pulled for 4 s", lambda _: attempt(gpu(brake=LATE)), ("throttled",)),
    Case(
        "power limit changed",
        lambda _: attempt(gpu(limits=((-1e9, 700.0), (LATE[0], 500.0)))),
        ("limit_changed",),
    ),
    Case(
        "clock policy changed",
        lambda _: attempt(gpu(policies=((-1e9, 1980.0), (LATE[0], 1410.0)))),
        ("clock_policy_changed",),
    ),
    Case("uncorrected memory error", lambda _: attempt(gpu(ecc_at=LATE[0])), ("ecc_errors",)),
    Case(
        "temperature not settled before the trial",
        lambda _: attempt(gpu(), reference_c=20.0),
        ("temperature_not_settled",),
    ),
    Case("phase of a few samples", lambda _: attempt(gpu(), train_s=0.4), ("short_phase",)),
    Case(
        "steps in resonance with a part-time sensor (A100, 200 ms)",
        lambda _: attempt(gpu("A100", 0.2)),
        ("resonance",),
        "marked",
    ),
)


def _no_counter(code: int) -> tuple[CallFault, ...]:
    return CallFault(83, code), CallFault("nvmlDeviceGetTotalEnergyConsumption", code)


def _nothing() -> tuple[CallFault, ...]:
    calls = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    return tuple(CallFault(name, 3) for name in calls)


def render(cases: tuple[Case, ...] = CASES) -> str:
    """Write the table as Markdown."""
    rows = ["| fault | outcome | energy |", "|---|---|---|"]
    words = {"right": "truth within its bound", "none": "none, said so", "marked": "given, marked by the verdict"}
    for case in cases:
        if case.refused:
            rows.append(f"| {case.fault} | refused: *{case.refused}* | – |")
            continue
        flags = "flagged: " + ", ".join(f"`{code}`" for code in case.codes) if case.codes else "corrected"
        rows.append(f"| {case.fault} | {flags} | {words[case.energy]} |")
    return "\n".join(rows)
