from __future__ import annotations

import pytest
from fake_nvml import Clock, FakeGpu, FakeNvml

from rayscale.energy.integrate import phase_energy
from rayscale.energy.nvml import NvmlReader
from rayscale.energy.nvml_calls import STALE_S
from rayscale.energy.reader import gpu_devices, open_reader
from rayscale.energy.trace import Trace, TraceMeta
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec

A, B, C = (FakeGpu(f"GPU-{letter}{letter}11-0000") for letter in "abc")


def visible(value: str | None, *gpus: FakeGpu, order: str | None = None) -> list[str]:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    if order:
        environ["CUDA_DEVICE_ORDER"] = order
    return [device.uuid for device in gpu_devices(nvml=FakeNvml(*(gpus or (A, B, C))), environ=environ)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("0,-1", [A]),
        ("0,-1,2", [A]),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("1gpu2,2ampere", [B, C]),
        ("0,7,1", [A]),
        ("1,1", []),
        ("NoDevFiles", []),
        (A.uuid, [A]),
        ("GPU-bb", [B]),
        ("GPU-c,GPU-a", [C, A]),
        ("GPU-a,GPU-zz,GPU-b", [A]),
        ("GPU-", []),
        ("GPU-a,GPU-aa", []),
        ("GPU-a,1", [A]),
    ],
)
def test_visible_devices_resolve_as_cuda_does(value: str | None, expected: list[FakeGpu]) -> None:
    assert visible(value) == [gpu.uuid for gpu in expected]


def test_devices_without_a_driver_are_none_and_a_broken_one_is_told() -> None:
    for code in (FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED, FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND):
        assert gpu_devices(nvml=FakeNvml(A, init_error=code), environ={}) == []
    broken = FakeNvml(A, init_error=FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(EnvironmentUnusableError, match="NVML does not start"):
        gpu_devices(nvml=broken, environ={})


def test_lost_gpu_is_told_when_listing() -> None:
    with pytest.raises(EnvironmentUnusableError, match="GPU 1 does not answer"):
        visible(None, A, FakeGpu("GPU-lost", failing={"nvmlDeviceGetHandleByIndex"}, code=15))


def test_fake_has_the_names_and_numbers_of_the_real_binding() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 25
    for name in names:
        real, fake = getattr(pynvml, name), getattr(FakeNvml, name)
        assert not isinstance(fake, int) or real == fake, name
    kinds = ["DOUBLE", "UNSIGNED_INT", "UNSIGNED_LONG", "UNSIGNED_LONG_LONG", "SIGNED_LONG_LONG", "SIGNED_INT"]
    assert [getattr(pynvml, f"NVML_VALUE_TYPE_{kind}") for kind in kinds] == list(range(6))


def test_real_binding_on_this_machine() -> None:
    devices = gpu_devices(environ={})
    assert all(device.uuid.startswith("GPU-") and device.memory_bytes > 0 for device in devices)


def test_sampled_gpu_gives_the_true_energy_by_every_estimate() -> None:
    """Idle, a load of 40 s with a dip, idle again: truth 70·10 + 500·20 + 300·20 + 70·10."""

    def signal(t: float) -> float:
        return 70.0 if t < 11 or t >= 51 else 500.0 if t < 31 else 300.0

    clock = Clock(now=1.0)
    reader = NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x", signal), clock=clock), clock=clock)
    readings = []
    for index in range(601):
        readings.append(reader.read_edge() if index in (0, 600) else reader.read())
        clock.advance(0.1)
    trace = Trace.from_readings(readings, TraceMeta.of(reader, 0.1))
    for start, end, truth in [(1.0, 61.0, 17_400.0), (11.03, 50.97, 500 * 19.97 + 300 * 19.97)]:
        energy = phase_energy(trace, [(start, end)])
        assert energy.energy_j == energy.counter_j
        assert energy.counter_j == pytest.approx(truth, abs=energy.bound_j)
        assert energy.counter_j == pytest.approx(truth, rel=0.005)
        assert energy.integral_j == pytest.approx(truth, rel=0.005)
        assert energy.instant_j == pytest.approx(truth, rel=0.005)


def test_device_facts() -> None:
    nvml = FakeNvml(A, B)
    device = gpu_devices(nvml=nvml, environ={"CUDA_VISIBLE_DEVICES": "1"})[0]
    assert (device.uuid, device.name, device.index, device.memory_bytes, device.driver) == (
        B.uuid,
        "Fake H100",
        1,
        80 << 30,
        "575.51",
    )
    assert nvml.open == 0


def test_mig_is_refused_only_when_chosen() -> None:
    split = FakeGpu("GPU-split", mig=1)
    whole = FakeGpu("GPU-whole", mig=0)
    assert visible("GPU-w", split, whole) == ["GPU-whole"]
    with pytest.raises(EnvironmentUnusableError, match="GPU-split is in MIG mode"):
        visible(None, split, whole)
    with pytest.raises(EnvironmentUnusableError, match="MIG"):
        visible("MIG-GPU-split/1/0", split)
    nvml = FakeNvml(split)
    with pytest.raises(EnvironmentUnusableError, match="MIG"):
        NvmlReader("GPU-split", nvml=nvml)
    assert nvml.open == 0


@pytest.mark.parametrize(("code", "refused"), [(3, False), (13, False), (999, True), (15, True), (4, True)])
def test_only_not_supported_means_that_there_is_no_mig(code: int, refused: bool) -> None:
    gpu = FakeGpu("GPU-x", failing={"nvmlDeviceGetMigMode"}, code=code)
    if not refused:
        assert visible(None, gpu) == ["GPU-x"]
        return
    with pytest.raises(EnvironmentUnusableError, match="GPU-x: MIG mode is not told"):
        visible(None, gpu)


def test_old_entries_are_refused_if_stamps_are_those_of_a_wall_clock() -> None:
    for ahead, believed in ((1.7e9, True), (0.0, False)):
        clock, gpu = Clock(), _Frozen("GPU-x", signal=lambda t: 300.0)
        nvml = FakeNvml(gpu, clock=clock)
        reader = NvmlReader("GPU-x", nvml=nvml, clock=clock, wall=lambda ahead=ahead, clock=clock: clock.now + ahead)
        gpu.since = clock.now
        clock.advance(STALE_S - 1)
        assert reader.read().fault is None
        clock.advance(2.0)
        late = reader.read()
        assert (late.power_w is None) == believed
        faults = "averaged power: STALE; instantaneous power: STALE; cumulative energy: STALE"
        assert late.fault == (faults if believed else None)


class _Frozen(FakeGpu):
    since: float | None = None

    def answered_at(self, t: float) -> float:
        return t if self.since is None else self.since


def test_indices_on_a_mixed_box_need_the_pci_order() -> None:
    other = FakeGpu("GPU-other", name="Fake A100")
    with pytest.raises(EnvironmentUnusableError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible("1", A, other)
    assert visible("1", A, other, order="PCI_BUS_ID") == ["GPU-other"]
    assert visible("GPU-o", A, other) == ["GPU-other"]


def test_reader_reads_all_three_quantities_and_slow_ones_once_a_second() -> None:
    clock = Clock()
    gpu = FakeGpu("GPU-x", signal=lambda t: 300.0, reasons=0x4 | 0x20)
    reader = NvmlReader("GPU-x", nvml=FakeNvml(gpu, clock=clock), clock=clock)
    first = reader.read()
    assert (first.power_w, first.instant_w, first.temperature_c, first.sm_clock_mhz) == (300.0, 300.0, 40.0, 1980.0)
    assert first.throttle == "SwPowerCap+SwThermalSlowdown"
    clock.advance(0.1)
    second = reader.read()
    assert second.power_w == 300.0
    assert second.energy_j is None
    assert second.throttle is None
    clock.advance(0.4)
    edge = reader.read_edge()
    assert first.energy_j is not None
    assert edge.energy_j is not None
    assert edge.energy_j - first.energy_j == pytest.approx(150.0)
    clock.advance(1.0)
    assert reader.read().energy_j is not None


def test_time_is_the_middle_of_the_call() -> None:
    clock = Clock(cost=0.01)
    reader = NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x"), clock=clock), clock=clock)
    before = clock.now
    reading = reader.read()
    assert before < reading.t < clock.now
    assert reading.latency_s >= 0.01


@pytest.mark.parametrize(
    ("failing", "words", "absent"),
    [
        ({185}, "nvmlDeviceGetPowerUsage", "field 185"),
        ({186}, "field 185", "field 186"),
        ({83}, "nvmlDeviceGetTotalEnergyConsumption", "field 83"),
        ({"nvmlDeviceGetFieldValues"}, "nvmlDeviceGetPowerUsage", "(field"),
        ({83, "nvmlDeviceGetTotalEnergyConsumption"}, "field 185", "energy counter"),
    ],
)
def test_missing_quantities_fall_back_and_are_told(failing: set[str | int], words: str, absent: str) -> None:
    gpu = FakeGpu("GPU-x", signal=lambda t: 70.0, failing=failing)
    reader = NvmlReader("GPU-x", nvml=FakeNvml(gpu))
    assert words in reader.method
    assert absent not in reader.method
    reading = reader.read()
    assert reading.power_w == 70.0
    assert (reading.energy_j is None) == ("energy counter" not in reader.method)


def test_the_module_speaks_only_where_the_gpu_does_not() -> None:
    old = {"nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"}
    for scope, failing, words, told in (
        (0, set(), "scope GPU", (300.0, 300.0, True)),
        (1, old, "scope MODULE (the GPU is not told apart from the CPU", (300.0, 300.0, True)),
        # two scopes cannot check each other: what the GPU tells is taken, however little it is
        (1, old - {"nvmlDeviceGetPowerUsage"}, "scope GPU", (300.0, None, False)),
        (1, old - {"nvmlDeviceGetTotalEnergyConsumption"}, "scope GPU", (None, None, True)),
        (0, old | {185, 186}, "scope GPU", (None, None, True)),
    ):
        gpu = FakeGpu("GPU-x", signal=lambda t: 300.0, scope=scope, failing=set(failing))
        clock = Clock(1.0)
        reader = NvmlReader("GPU-x", nvml=FakeNvml(gpu, clock=clock), clock=clock, sleep=clock.advance)
        assert words in reader.method
        reading = reader.read_edge()
        assert (reading.power_w, reading.instant_w, reading.energy_j is not None) == told
        assert len(reader.read_ticks(reading)) == (2 if reading.energy_j is not None else 0)
    with pytest.raises(EnvironmentUnusableError, match="neither power nor energy"):
        NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x", scope=2, failing=set(old))))


def test_no_failure_becomes_a_zero() -> None:
    gpu = FakeGpu("GPU-x")
    reader = NvmlReader("GPU-x", nvml=FakeNvml(gpu))
    gpu.failing |= {"nvmlDeviceGetFieldValues", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"}
    gpu.failing |= {"nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons"}
    lost = reader.read_edge()
    assert lost.empty
    assert (lost.temperature_c, lost.sm_clock_mhz, lost.throttle) == (None, None, None)
    gpu.failing.clear()
    gpu.signal = lambda t: 0.0
    assert reader.read().power_w is None


def test_unreadable_gpus_are_refused_with_the_reason() -> None:
    with pytest.raises(EnvironmentUnusableError, match="GPU-y"):
        NvmlReader("GPU-y", nvml=FakeNvml(A))
    with pytest.raises(EnvironmentUnusableError, match="no NVIDIA driver"):
        NvmlReader(A.uuid, nvml=FakeNvml(A, init_error=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    calls: set[str | int] = {
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEnergyConsumption",
    }
    with pytest.raises(EnvironmentUnusableError, match="neither power nor energy"):
        NvmlReader("GPU-x", nvml=FakeNvml(FakeGpu("GPU-x", failing=calls)))


def test_close_twice_is_one_shutdown() -> None:
    nvml = FakeNvml(A)
    reader = NvmlReader(A.uuid, nvml=nvml)
    assert nvml.open == 1
    reader.close()
    reader.close()
    assert nvml.open == 0


def test_nvml_asked_for_on_a_cpu_is_refused() -> None:
    with pytest.raises(EnvironmentUnusableError, match="needs an NVIDIA GPU"):
        open_reader(EnergySpec(source="nvml"), device_uuid="cpu:0@host", pid=1)
