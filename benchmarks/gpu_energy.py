"""The ten measurements of the energy research (section 8) on one NVIDIA GPU, in one call of under ten minutes.

    python -m benchmarks.gpu_energy [--gpu 0] [--scale 1.0]

The load is a bf16 matrix product in this process, with pauses where a duty cycle is asked for; NVML is read through
`rayscale.energy` in a thread of this process (the load only launches kernels, so little holds it up). Needs torch with
CUDA and nvidia-ml-py, neither Ray nor MLflow. Without a GPU it says so and exits with 3. Every measurement stands
alone: one that fails prints its error, and the rest goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from typing import Any

from benchmarks.gpu_tools import Gpu, changes_of, loaded, measured, series
from rayscale.energy.devices import gpu_devices, nvml_session
from rayscale.errors import RayscaleError

FIELDS = {
    "average (185)": "NVML_FI_DEV_POWER_AVERAGE",
    "instant (186)": "NVML_FI_DEV_POWER_INSTANT",
    "energy (83)": "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "power violation (74)": "NVML_FI_DEV_PERF_POLICY_POWER",
    "thermal violation (75)": "NVML_FI_DEV_PERF_POLICY_THERMAL",
    "heat slowdown (269)": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hardware heat slowdown (270)": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "power brake (271)": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
SCOPES = {"GPU": 0, "module": 1, "memory": 2}


def _ratio(value: float | None, base: float | None) -> str:
    return "n/a" if value is None or not base else f"{value / base:.4f}"


# -- the ten, in the order in which they must run: a CUDA context cannot be undone ------------------------------------


def bare_and_context_idle(gpu: Gpu) -> list[str]:
    """6: bare idle against idle with a CUDA context."""
    read = gpu.readers()["GetPowerUsage"]
    bare = [value for _, value in series(read, gpu.seconds(15), 0.1)]
    _ = gpu.load
    time.sleep(gpu.seconds(5))
    context = [value for _, value in series(read, gpu.seconds(15), 0.1)]
    return [f"bare {_mean_sd(bare)} W, with context {_mean_sd(context)} W"]


def _mean_sd(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else "n/a"


def fields_there(gpu: Gpu) -> list[str]:
    """10: which fields and scopes exist."""
    lines = []
    for label, name in FIELDS.items():
        if not hasattr(gpu.nvml, name):  # the numbers differ between bindings, so only names are asked for
            lines.append(f"{label}: not in this binding")
            continue
        value, code = gpu.field(name)
        lines.append(f"{label}: {'yes' if value is not None else f'no (NVML error {code})'}")
    for label, scope in SCOPES.items():
        value, code = gpu.field("NVML_FI_DEV_POWER_INSTANT", scope)
        lines.append(f"instant, scope {label}: {f'{value / 1000:.1f} W' if value is not None else f'no ({code})'}")
    return ["; ".join(lines)]


def counter_ticks(gpu: Gpu) -> list[str]:
    """1: update period and step size of the energy counter, under load."""
    read = lambda: gpu.field(FIELDS["energy (83)"])[0]  # noqa: E731
    with loaded(gpu):
        found = changes_of(series(read, gpu.seconds(10), 0.001))
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(found)]
    if not gaps:
        return ["no change seen"]
    steps = [size for _, size in found[1:]]
    return [f"every {1000 * statistics.median(gaps):.1f} ms (min {1000 * min(gaps):.1f}, max {1000 * max(gaps):.1f}), "
            f"{statistics.median(steps):.0f} mJ per step, {len(steps)} steps"]  # fmt: skip


def power_updates(gpu: Gpu) -> list[str]:
    """2: update period of each power, and when it reaches 10, 50 and 90 % after the load begins."""
    lines = []
    for name, read in gpu.readers().items():
        gpu.load.run(0.5)
        time.sleep(gpu.seconds(5))
        base = [value for _, value in series(read, gpu.seconds(1), 0.005)]
        with loaded(gpu):
            start = time.monotonic()
            rise = series(read, gpu.seconds(5), 0.002)
        if not base or not rise:
            lines.append(f"{name}: not told")
            continue
        found = changes_of(rise)
        gaps = [later[0] - earlier[0] for earlier, later in pairwise(found)]
        low, high = statistics.fmean(base), statistics.median([v for t, v in rise if t > rise[-1][0] - gpu.seconds(1)])
        times = [
            next((t - start for t, v in rise if v >= low + share * (high - low)), None) for share in (0.1, 0.5, 0.9)
        ]
        period = f"{1000 * statistics.median(gaps):.0f} ms" if gaps else "n/a"
        lags = ", ".join("n/a" if one is None else f"{1000 * one:.0f}" for one in times)
        first, _, last = times
        # a moving average rises on a straight line: 10 to 90 % is 0.8 of its window
        window = "n/a" if first is None or last is None else f"{1000 * (last - first) / 0.8:.0f} ms"
        lines.append(
            f"{name}: updates every {period}, window about {window} (if above the update period); "
            f"10/50/90 % of the rise after {lags} ms; {low:.0f} -> {high:.0f} W"
        )
    return lines


def latencies(gpu: Gpu) -> list[str]:
    """3: how long calls take, at rest and under load."""
    nvml = gpu.nvml
    calls: dict[str, Callable[[], Any]] = {
        "power fields": lambda: gpu.nvml.nvmlDeviceGetFieldValues(
            gpu.handle, [nvml.NVML_FI_DEV_POWER_AVERAGE, nvml.NVML_FI_DEV_POWER_INSTANT]
        ),
        "GetPowerUsage": lambda: nvml.nvmlDeviceGetPowerUsage(gpu.handle),
        "energy field": lambda: gpu.field(FIELDS["energy (83)"]),
        "GetTotalEnergyConsumption": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle),
        "violation fields": lambda: nvml.nvmlDeviceGetFieldValues(
            gpu.handle, [nvml.NVML_FI_DEV_PERF_POLICY_POWER, nvml.NVML_FI_DEV_PERF_POLICY_THERMAL]
        ),
        "driver samples": lambda: nvml.nvmlDeviceGetSamples(gpu.handle, nvml.NVML_TOTAL_POWER_SAMPLES, 0),
        "temperature": gpu.temperature_c,
        "SM clock": lambda: nvml.nvmlDeviceGetClockInfo(gpu.handle, nvml.NVML_CLOCK_SM),
        "event reasons": lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu.handle),
        "power limit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu.handle),
        "memory clock": lambda: nvml.nvmlDeviceGetClockInfo(gpu.handle, nvml.NVML_CLOCK_MEM),
        "memory errors": lambda: nvml.nvmlDeviceGetTotalEccErrors(
            gpu.handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        "processes": lambda: nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle),
        "process utilisation": lambda: nvml.nvmlDeviceGetProcessUtilization(gpu.handle, 0),
    }
    count = max(10, round(gpu.seconds(100)))
    rest = {name: _timed(nvml, call, count) for name, call in calls.items()}
    with loaded(gpu):
        busy = {name: _timed(nvml, call, count) for name, call in calls.items()}
    return [f"{name}: p50/p99 at rest {rest[name]}, under load {busy[name]} us" for name in calls]


def _timed(nvml: Any, call: Callable[[], Any], count: int) -> str:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        try:
            call()
        except nvml.NVMLError:
            return "n/a"
        times.append(1e6 * (time.perf_counter() - begin))
        time.sleep(0.002)
    ordered = sorted(times)
    return f"{ordered[count // 2]:.0f}/{ordered[int(0.99 * count)]:.0f}"


def estimates_agree(gpu: Gpu) -> list[str]:
    """4: counter, averaged and instantaneous integral at rest, half and full load, and at resonant step periods."""
    cases: dict[str, Callable[[float], None]] = {
        "rest": time.sleep,
        "half load": lambda s: gpu.load.run(s, period_s=0.047, duty=0.5),
        "full load": gpu.load.run,
        "steps of 100 ms": lambda s: gpu.load.run(s, period_s=0.1, duty=0.7),
        "steps of 200 ms": lambda s: gpu.load.run(s, period_s=0.2, duty=0.7),
        "steps of 333 ms": lambda s: gpu.load.run(s, period_s=0.333, duty=0.7),
    }
    lines = []
    for name, work in cases.items():
        found = measured(gpu, lambda work=work: work(gpu.seconds(35)))  # type: ignore[misc]
        base = found.counter_j
        lines.append(
            f"{name}: counter {base if base is None else round(base, 1)} J; averaged / counter "
            f"{_ratio(found.integral_j, base)}, instantaneous / counter {_ratio(found.instant_j, base)}"
        )
    return lines


def counter_polling(gpu: Gpu) -> list[str]:
    """5: does reading the counter often change how fast it grows."""
    read = lambda: gpu.field(FIELDS["energy (83)"])[0]  # noqa: E731
    lines = []
    for rate in (1, 10, 100, 1):
        with loaded(gpu):
            time.sleep(gpu.seconds(1))
            samples = series(read, gpu.seconds(12), 1 / rate)
        if len(samples) > 1:
            watts = (samples[-1][1] - samples[0][1]) / 1000 / (samples[-1][0] - samples[0][0])
            lines.append(f"{rate} Hz: {watts:.1f} W")
    return ["; ".join(lines) or "no counter"]


def driver_samples(gpu: Gpu) -> list[str]:
    """7: depth and spacing of the driver's own sample ring."""
    nvml = gpu.nvml
    try:
        _, samples = nvml.nvmlDeviceGetSamples(gpu.handle, nvml.NVML_TOTAL_POWER_SAMPLES, 0)
    except nvml.NVMLError as error:
        return [f"not there: {error}"]
    times = [int(sample.timeStamp) / 1e6 for sample in samples]
    age = time.time() - times[-1] if times else float("nan")
    gaps = [later - earlier for earlier, later in pairwise(times) if later > earlier]
    if not gaps:
        return [f"{len(times)} samples"]
    return [f"{len(times)} samples over {times[-1] - times[0]:.1f} s, every {1000 * statistics.median(gaps):.1f} ms, "
            f"the newest {1000 * age:.0f} ms old"]  # fmt: skip


def step_time(gpu: Gpu) -> list[str]:
    """8: step time with power polled at 0, 10, 20 and 100 Hz, and with the process list."""
    with_list = lambda: gpu.nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle)  # noqa: E731
    read = gpu.readers()["average (185)"]
    cases: dict[str, tuple[float, Callable[[], Any]] | None] = {
        "none": None,
        "10 Hz": (0.1, read),
        "20 Hz": (0.05, read),
        "100 Hz": (0.01, read),
        "10 Hz + process list": (0.1, lambda: (read(), with_list())),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    gpu.load.run(gpu.seconds(5))  # warm: clocks and temperature are where they stay
    for _ in range(3):  # interleaved: drift hits all alike
        for name, case in cases.items():
            with _polling(*case) if case else _nothing():
                end = time.monotonic() + gpu.seconds(2)
                while time.monotonic() < end:
                    times[name].append(gpu.load.step())
    base = statistics.median(times["none"])
    return [f"{name}: {1e3 * statistics.median(one):.3f} ms ({100 * (statistics.median(one) / base - 1):+.2f} %)"
            for name, one in times.items()]  # fmt: skip


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _polling(period_s: float, read: Callable[[], Any]) -> Iterator[None]:
    halt = threading.Event()

    def work() -> None:
        while not halt.wait(period_s):
            read()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        halt.set()
        thread.join()


def cooldown(gpu: Gpu) -> list[str]:
    """9: temperature and power after load."""
    before = gpu.temperature_c()
    gpu.load.run(gpu.seconds(45))
    begin, parts = time.monotonic(), [f"before {before:.0f} °C"]
    for after in (0, 5, 15, 30, 60):
        time.sleep(max(0.0, begin + gpu.seconds(after) - time.monotonic()))
        watts = gpu.readers()["GetPowerUsage"]()
        parts.append(f"{gpu.seconds(after):.0f} s after {gpu.temperature_c():.0f} °C, {watts or float('nan'):.0f} W")
    return ["; ".join(parts)]


MEASUREMENTS: tuple[tuple[int, str, Callable[[Gpu], list[str]]], ...] = (
    (6, "bare idle and context idle", bare_and_context_idle),
    (10, "fields and scopes", fields_there),
    (1, "energy counter", counter_ticks),
    (2, "power: update and lag", power_updates),
    (3, "latency of calls", latencies),
    (4, "estimates against the counter", estimates_agree),
    (5, "polling the counter", counter_polling),
    (7, "driver's sample ring", driver_samples),
    (8, "step time under polling", step_time),
    (9, "cooling down", cooldown),
)


def run_all(gpu: Gpu) -> list[str]:
    """Take all measurements.

    Args:
        gpu: The GPU.

    Returns:
        The table, ordered by the numbers of the research.
    """
    found: dict[int, list[str]] = {}
    for number, name, take in MEASUREMENTS:
        begin = time.monotonic()
        try:
            lines = take(gpu)
        except (RayscaleError, gpu.nvml.NVMLError, RuntimeError, ValueError) as error:
            lines = [f"failed: {type(error).__name__}: {error}"]
        print(f"{number} {name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        found[number] = [f"{number:>2} {name}", *(f"     {line}" for line in lines)]
    return [line for number in sorted(found) for line in found[number]]


def main() -> int:
    """Measure and print the table.

    Returns:
        Exit code: 0, or 3 without a usable GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", type=int, default=0, help="which of the visible GPUs")
    parser.add_argument("--scale", type=float, default=1.0, help="scales all durations; 1.0 takes about 9 minutes")
    args = parser.parse_args()
    try:
        devices = gpu_devices()
    except RayscaleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not 0 <= args.gpu < len(devices):
        print(f"benchmarks.gpu_energy: {len(devices)} NVIDIA GPUs visible; expected GPU {args.gpu}", file=sys.stderr)
        return 3
    device = devices[args.gpu]
    os.environ["CUDA_VISIBLE_DEVICES"] = device.uuid  # torch is not loaded yet: it sees this GPU only
    begin = time.monotonic()
    with nvml_session() as nvml:
        lines = run_all(Gpu(nvml, device, args.scale))
    print(f"{date.today()}  {device.name}, {device.uuid}, driver {device.driver}; {time.monotonic() - begin:.0f} s")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
