"""Every NVIDIA GPU by UUID: what can be read on it, how often its power changes, and what would disturb a trial.

The probe reads power for a second or two and counts how often the value changes: the sensor's update period, which
decides what sampling can see (research/energy.md, section 3.1). A GPU at rest may repeat values; then none is given.
The energy counter grows at rest, too: its update period is the time between its ticks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rayscale.doctor.check import Check
from rayscale.energy.devices import GpuDevice, gpu_devices, nvml_session
from rayscale.energy.ticks import follow_ticks
from rayscale.errors import RayscaleError
from rayscale.training.outlook import card_outlook

PROBE_S, PROBE_STEP_S = 1.5, 0.01
COUNTER_PROBE_S = 0.8
_LEAST_CHANGES = 4


@dataclass(frozen=True)
class PowerProbe:
    """What a second of reading power showed.

    Attributes:
        mean_w: Mean power, in W; None without readings.
        period_s: Median time between changes of the value; None if it changed too seldom.
    """

    mean_w: float | None
    period_s: float | None


class Asker:
    """Asks NVML about one GPU; whatever it will not tell is None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Bind.

        Args:
            nvml: The binding.
            handle: The GPU.
        """
        self._nvml, self._handle = nvml, handle

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call one NVML function; None where binding, driver or GPU does not have it."""
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def field(self, name: str, *, module: bool = False) -> float | None:
        """Ask for one field in mW or mJ, of the GPU or its whole module; None where it is not told."""
        number = getattr(self._nvml, name, None)
        wanted = (number, getattr(self._nvml, "NVML_POWER_SCOPE_MODULE", 1)) if module else number
        answers = self.ask("nvmlDeviceGetFieldValues", [wanted]) if number is not None else None
        if not answers or answers[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            return None
        value = answers[0].value
        kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        return float(getattr(value, kinds[answers[0].valueType])) or None

    def energy_j(self) -> float | None:
        """Read the energy counter, in J; None where there is none."""
        value = self.field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION") or self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return float(value) / 1000 if value else None

    def kept_samples(self) -> int | None:
        """Count the power samples that the driver keeps of its own; None where it keeps none."""
        kind = getattr(self._nvml, "NVML_TOTAL_POWER_SAMPLES", None)
        kept = self.ask("nvmlDeviceGetSamples", kind, 0) if kind is not None else None
        return len(kept[1]) if kept else None

    def milli(self, name: str) -> float | None:
        """Call a function that answers in mW; give W."""
        value = self.ask(name)
        return float(value) / 1000 if value else None

    def power_w(self) -> float | None:
        """Read power, in W, as the reader would: averaged, else plain, else instantaneous."""
        for value in (self.field("NVML_FI_DEV_POWER_AVERAGE"), self.ask("nvmlDeviceGetPowerUsage")):
            if value:
                return float(value) / 1000
        instant = self.field("NVML_FI_DEV_POWER_INSTANT")
        return instant / 1000 if instant else None


def probe_power(
    read: Callable[[], float | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PowerProbe:
    """Read power for a while.

    Args:
        read: Power in W, None when not told.
        clock: Seconds.
        sleep: Waits.

    Returns:
        Mean power and update period.
    """
    begin = clock()
    seen: list[tuple[float, float]] = []
    while (now := clock()) < begin + PROBE_S:
        value = read()
        if value is not None:
            seen.append((now, value))
        sleep(PROBE_STEP_S)
    changes = [later for earlier, later in pairwise(seen) if later[1] != earlier[1]]
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(changes)]
    period = statistics.median(gaps) if len(gaps) >= _LEAST_CHANGES else None
    return PowerProbe(statistics.fmean(value for _, value in seen) if seen else None, period)


def probe_counter(
    read: Callable[[], float | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Measure the update period of an energy counter.

    Args:
        read: The counter in J, None when not told.
        clock: Seconds.
        sleep: Waits.

    Returns:
        Median time between its ticks, in s; None if it ticked less than three times.
    """
    begin, energy = clock(), read()
    if energy is None:
        return None
    ticks = follow_ticks(read, (begin, energy), clock=clock, sleep=sleep, count=6, limit_s=COUNTER_PROBE_S)
    gaps = [later.t - earlier.t for earlier, later in pairwise(ticks)]
    return statistics.median(gaps) if len(gaps) > 1 else None


def gpu_checks(
    *,
    nvml: Any = None,
    environ: Mapping[str, str] | None = None,
    probe: Callable[[Callable[[], float | None]], PowerProbe] = probe_power,
    counter_probe: Callable[[Callable[[], float | None]], float | None] = probe_counter,
) -> tuple[list[Check], int]:
    """Look at all GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    Args:
        nvml: The binding; None imports `pynvml`.
        environ: The environment; None takes this process's.
        probe: Measures idle power and update period.
        counter_probe: Measures the update period of the energy counter.

    Returns:
        The findings, and the number of usable GPUs.
    """
    environ = os.environ if environ is None else environ
    try:
        gpus = gpu_devices(nvml=nvml, environ=environ)
    except (RayscaleError, ImportError) as error:
        return [Check("gpu", "NVIDIA GPUs", "problem", str(error), "or train on the CPU: resources.gpus: 0")], 0
    if not gpus:
        return [_no_gpu(environ.get("CUDA_VISIBLE_DEVICES"), nvml)], 0
    checks: list[Check] = []
    with nvml_session(nvml) as session:
        for gpu in gpus:
            asker = Asker(session, session.nvmlDeviceGetHandleByIndex(gpu.index))
            power = _power(asker, probe(asker.power_w), counter_probe(asker.energy_j))
            checks += [*_one_gpu(gpu, asker), power, _state(session, asker), _limits(asker), *_disturbers(asker)]
    return checks, len(gpus)


def _no_gpu(visible: str | None, nvml: Any) -> Check:
    why = "no NVIDIA driver or GPU" if visible is None else f"none visible (CUDA_VISIBLE_DEVICES={visible!r})"
    found = f"{why}; trials run on the CPU"
    if visible is not None and visible.strip() not in ("", "-1"):  # not hidden on purpose: it names what is not here
        with nvml_session(nvml) as session:
            present = session.nvmlDeviceGetCount() if session is not None else 0
        if present:
            advice = "its first entry is no GPU of this machine, or the prefix of several; CUDA then shows none"
            return Check("gpu", "NVIDIA GPUs", "warning", f"{found}, though {present} GPU(s) are here", advice)
    return Check("gpu", "NVIDIA GPUs", "ok", found)


def _one_gpu(gpu: GpuDevice, asker: Asker) -> list[Check]:
    gib = gpu.memory_bytes / (1 << 30)
    seen = Check("gpu", gpu.uuid, "ok", f"{gpu.name}, {gib:.0f} GiB, index {gpu.index}, driver {gpu.driver}; no MIG")
    room = Check("gpu", "  memory", "ok", card_outlook(gpu.memory_bytes))
    return [seen, room, _sources(asker)]


def _sources(asker: Asker) -> Check:
    """Which of the three estimates of energy there will be."""
    sources = {
        "counter": asker.energy_j(),
        "average": asker.field("NVML_FI_DEV_POWER_AVERAGE"),
        "usage": asker.ask("nvmlDeviceGetPowerUsage"),
        "instant": asker.field("NVML_FI_DEV_POWER_INSTANT"),
    }
    told = {name: bool(value) for name, value in sources.items()}
    words = {
        "counter": "energy counter",
        "average": "averaged power (field 185)",
        "usage": "power (nvmlDeviceGetPowerUsage)",
        "instant": "instantaneous power (field 186)",
    }
    kept = asker.kept_samples()
    found = ", ".join(f"{text} {'yes' if told[name] else 'no'}" for name, text in words.items())
    found += f"; driver keeps {kept} power samples for gaps" if kept else "; driver keeps no power samples for gaps"
    fields = ("TOTAL_ENERGY_CONSUMPTION", "POWER_AVERAGE", "POWER_INSTANT")
    if not any(told.values()) and any(asker.field(f"NVML_FI_DEV_{name}", module=True) for name in fields):
        found += "; but the whole module is told (scope MODULE)"
        advice = "energy will be that of the module, the CPU and memory beside the GPU included; each record says so"
        return Check("gpu", "  energy", "warning", found, advice, told)
    if not any(told.values()):
        advice = "no energy can be measured here (virtual GPU, or permissions); see nvidia-smi -q -d POWER"
        return Check("gpu", "  energy", "problem", found, advice, told)
    if not told["counter"] or not (told["average"] or told["usage"] or told["instant"]):
        return Check("gpu", "  energy", "warning", found, "one estimate only: nothing to check it against", told)
    return Check("gpu", "  energy", "ok", found, None, told)


def _power(asker: Asker, measured: PowerProbe, counter_s: float | None) -> Check:
    values = {"idle_w": measured.mean_w, "update_period_s": measured.period_s, "counter_period_s": counter_s}
    if measured.mean_w is None:
        return Check("gpu", "  power now", "warning", "no reading in the probe", None, values)
    period = "value too still to tell" if measured.period_s is None else f"{measured.period_s * 1000:.0f} ms"
    tick = "not seen" if counter_s is None else f"{counter_s * 1000:.0f} ms"
    found = f"{measured.mean_w:.1f} W; update period: {period}; of the energy counter: {tick}"
    return Check("gpu", "  power now", "ok", found, None, values)


def _state(nvml: Any, asker: Asker) -> Check:
    temperature = asker.ask("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU)
    if temperature is None:
        temperature = asker.ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    clock = asker.ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
    top = asker.ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM)
    persistence = asker.ask("nvmlDeviceGetPersistenceMode")
    values = {"temperature_c": temperature, "sm_clock_mhz": clock, "max_sm_clock_mhz": top, "persistence": persistence}
    found = f"{_or(temperature, '°C')}, SM clock {_or(clock, 'MHz')} of {_or(top, 'MHz')}, persistence "
    found += {None: "not told", 0: "off"}.get(persistence, "on")
    if persistence == 0:
        advice = "the driver unloads between processes: counter resets, slow starts; as root: nvidia-smi -pm 1"
        return Check("gpu", "  state", "warning", found, advice, values)
    return Check("gpu", "  state", "ok", found, None, values)


def _limits(asker: Asker) -> Check:
    enforced = asker.milli("nvmlDeviceGetEnforcedPowerLimit")
    default = asker.milli("nvmlDeviceGetPowerManagementDefaultLimit")
    values = {"enforced_w": enforced, "default_w": default}
    found = f"{_or(enforced, 'W')} enforced, {_or(default, 'W')} by default"
    if enforced is not None and default is not None and enforced < 0.99 * default:
        advice = "lowered by someone: fine if it stays so for the whole sweep and is reported"
        return Check("gpu", "  power limit", "warning", found, advice, values)
    return Check("gpu", "  power limit", "ok", found, None, values)


def _disturbers(asker: Asker) -> list[Check]:
    processes = asker.ask("nvmlDeviceGetComputeRunningProcesses")
    if processes is None:
        return [Check("gpu", "  processes", "warning", "not told", "others on the GPU would not be noticed")]
    pids = sorted(int(process.pid) for process in processes)
    if pids:
        found = f"{len(pids)} other process(es) compute here: pid {', '.join(map(str, pids))}"
        return [Check("gpu", "  processes", "warning", found, "their energy would be counted as the trial's",
                      {"pids": pids})]  # fmt: skip
    return [Check("gpu", "  processes", "ok", "no other process", None, {"pids": []})]


def _or(value: float | None, unit: str) -> str:
    return "not told" if value is None else f"{value:g} {unit}"
