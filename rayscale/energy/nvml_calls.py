"""Calls to one GPU through NVML in which no error is lost: a failed value is None, and its error's name is kept.

Names come from the installed binding, because numbers have moved between its versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rayscale.energy.devices import start_nvml

FieldId = int | tuple[int, int]
"""A field, alone or with its scope (`NVML_POWER_SCOPE_*`)."""

_VALUE_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_THROTTLE = ("SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
STALE_S = 5.0
"""Age at which an entry of a field query is no answer any more; sensors update every 0.02 to 0.1 s."""
_BELIEVABLE_S = 60.0
_REOPEN = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "GPU_IS_LOST", "RESET_REQUIRED", "LIB_RM_VERSION_MISMATCH")
"""Errors after which a handle is worth nothing any more."""


class NvmlCalls:
    """The binding, one GPU's handle, and what has failed since `take_faults`."""

    def __init__(self, nvml: Any, uuid: str, wall: Callable[[], float] = time.time) -> None:
        """Open the GPU.

        Args:
            nvml: The binding, initialised.
            uuid: `GPU-...`.
            wall: Wall clock in s since 1970, with which the driver stamps what it answers.

        Raises:
            NVMLError: The binding's own error, if there is no such GPU.
        """
        self.nvml, self._uuid, self._wall = nvml, uuid, wall
        self._fresh = frozenset[str]()
        self._ages: dict[str, float] = {}
        self._names: dict[int, str] | None = None
        self.handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.faults: list[str] = []

    def error_name(self, error: Any) -> str:
        """Name an error, given as the binding's exception or as a return code: `GPU_IS_LOST`."""
        code = getattr(error, "value", error)
        if self._names is None:  # a binding has thousands of names, and what fails may fail at every poll
            prefix = "NVML_ERROR_"
            names = [name for name in reversed(dir(self.nvml)) if name.startswith(prefix)]
            self._names = {getattr(self.nvml, name): name.removeprefix(prefix) for name in names}
        return self._names.get(code, f"error {code}")

    def call(self, what: str, name: str, *arguments: Any) -> Any | None:
        """Call one NVML function.

        Args:
            what: The quantity, for the fault.
            name: The function.
            *arguments: After the handle.

        Returns:
            Its answer; None where the binding, the driver or the GPU does not have it, or it failed.
        """
        function = getattr(self.nvml, name, None)
        if function is None:
            self.faults.append(f"{what}: FUNCTION_NOT_FOUND")
            return None
        try:
            return function(self.handle, *arguments)
        except self.nvml.NVMLError as error:
            self.faults.append(f"{what}: {self.error_name(error)}")
            return None

    def fields(self, wanted: Mapping[str, FieldId]) -> dict[str, float | None]:
        """Ask for several fields in one call; each has its own return code.

        Args:
            wanted: Quantity -> field number, with its scope where it is not the GPU.

        Returns:
            Quantity -> value.
        """
        if not wanted:
            return {}
        answers = self.call("fields", "nvmlDeviceGetFieldValues", list(wanted.values()))
        if answers is None:
            return dict.fromkeys(wanted)
        return {what: self._value(what, answer) for what, answer in zip(wanted, answers, strict=True)}

    def _value(self, what: str, answer: Any) -> float | None:
        if answer.nvmlReturn != self.nvml.NVML_SUCCESS:
            self.faults.append(f"{what}: {self.error_name(answer.nvmlReturn)}")
            return None
        if not 0 <= answer.valueType < len(_VALUE_FIELDS):
            self.faults.append(f"{what}: value of unknown type {answer.valueType}")
            return None
        stamp = int(getattr(answer, "timestamp", 0))  # us since 1970; 0: not stamped
        if stamp > 0:
            self._ages[what] = self._wall() - stamp / 1e6
            if what in self._fresh and self._ages[what] > STALE_S:
                self.faults.append(f"{what}: STALE")
                return None
        return float(getattr(answer.value, _VALUE_FIELDS[answer.valueType]))

    def expect_fresh(self, names: Iterable[str]) -> bool:
        """Refuse old entries from now on, if the time stamps seen so far are those of a wall clock.

        Args:
            names: Quantities that must be fresh.

        Returns:
            Whether the stamps are believed.
        """
        wanted = frozenset(names) & self._ages.keys()
        believed = bool(wanted) and all(abs(self._ages[what]) < _BELIEVABLE_S for what in wanted)
        self._fresh = wanted if believed else frozenset()
        return believed

    def power_samples(self, since_us: int) -> list[tuple[int, float]]:
        """Ask for the driver's own power samples.

        Args:
            since_us: Wall clock after which samples are wanted, in us since 1970.

        Returns:
            Wall clock in us and power in mW, ascending; empty where there are none, with the reason among the faults.
        """
        answer = self.call("driver samples", "nvmlDeviceGetSamples", self.nvml.NVML_TOTAL_POWER_SAMPLES, since_us)
        if answer is None or not 0 <= answer[0] < len(_VALUE_FIELDS):
            return []
        member = _VALUE_FIELDS[answer[0]]
        return sorted((int(one.timeStamp), float(getattr(one.sampleValue, member))) for one in answer[1])

    def recent_processes(self, since_us: int) -> tuple[set[int], int] | None:
        """Ask who computed since a time, by the driver's utilisation samples per process.

        Args:
            since_us: Wall clock in us since 1970.

        Returns:
            Process ids, and the time of the newest sample; None where the driver does not tell (no fault).
        """
        ask = getattr(self.nvml, "nvmlDeviceGetProcessUtilization", None)
        if ask is None:
            return None
        try:
            samples = ask(self.handle, since_us)
        except self.nvml.NVMLError as error:
            return (set(), since_us) if error.value == self.nvml.NVML_ERROR_NOT_FOUND else None
        new = [sample for sample in samples if int(sample.timeStamp) > since_us]
        busy = {int(sample.pid) for sample in new if sample.smUtil or sample.memUtil}
        return busy, max((int(sample.timeStamp) for sample in new), default=since_us)

    def throttle(self) -> str | None:
        """Name what holds the clocks down, joined by `+`."""
        mask = self.call("throttle", "nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            return None
        bits = {name: getattr(self.nvml, f"nvmlClocksEventReason{name}", 0) for name in _THROTTLE}
        return "+".join(name for name, bit in bits.items() if bit and int(mask) & bit)

    def take_faults(self) -> str | None:
        """Give what failed since the last time, joined by `; `; None if nothing did."""
        taken, self.faults = self.faults, []
        return "; ".join(dict.fromkeys(taken)) or None

    @property
    def handle_lost(self) -> bool:
        """Whether a fault says that the handle must be opened again."""
        return any(fault.endswith(_REOPEN) for fault in self.faults)

    def reopen(self) -> None:
        """Start NVML again, as after a reload of the driver; where it does not, the next poll's faults tell."""
        try:
            self.nvml.nvmlShutdown()
        except self.nvml.NVMLError as error:
            self.faults.append(f"shutdown: {self.error_name(error)}")
        try:
            self.nvml.nvmlInit()
            self.handle = self.nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        except self.nvml.NVMLError as error:
            self.faults.append(f"reopen: {self.error_name(error)}")


def open_calls(nvml: Any, uuid: str, wall: Callable[[], float] = time.time) -> NvmlCalls | None:
    """Start NVML and open a GPU.

    Args:
        nvml: The binding; None imports `pynvml`.
        uuid: `GPU-...`.
        wall: Wall clock in s since 1970.

    Returns:
        The calls; None where there is no NVIDIA driver.

    Raises:
        EnvironmentUnusableError: If NVML does not start.
        NVMLError: The binding's own error, if there is no such GPU; NVML is closed again.
    """
    started = start_nvml(nvml)
    if started is None:
        return None
    try:
        return NvmlCalls(started, uuid, wall)
    except BaseException:
        started.nvmlShutdown()
        raise
