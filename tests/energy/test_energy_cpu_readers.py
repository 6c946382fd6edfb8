from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_nvml import Clock

from rayscale.energy.estimated import EstimatedReader, process_cpu_seconds
from rayscale.energy.rapl import RaplReader, dram_zones, package_zones, rapl_problem
from rayscale.energy.reader import open_reader
from rayscale.errors import EnvironmentUnusableError
from rayscale.spec import EnergySpec, EstimateSpec


def zone(root: Path, name: str, label: str, energy: int, limit: int = 1_000_000) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / "name").write_text(label)
    (directory / "energy_uj").write_text(str(energy))
    (directory / "max_energy_range_uj").write_text(str(limit))
    return directory / "energy_uj"


def test_rapl_sums_packages_and_undoes_wraps(tmp_path: Path) -> None:
    clock = Clock()
    one, two = zone(tmp_path, "intel-rapl:0", "package-0", 900_000), zone(tmp_path, "intel-rapl:1", "package-1", 0)
    zone(tmp_path, "intel-rapl:0:0", "dram", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 5)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5)
    assert [path.name for path in package_zones(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    reader = RaplReader(tmp_path, device_uuid="cpu:0@h", clock=clock)
    first = reader.read()
    assert first.power_w is None
    clock.advance(0.5)
    one.write_text("100000")  # 200 000 uJ later, through the wrap at 1 000 000
    two.write_text("300000")
    second = reader.read()
    assert first.energy_j is not None
    assert second.energy_j == pytest.approx(first.energy_j + 0.5)
    assert second.power_w == pytest.approx(1.0)
    one.write_text("")
    assert reader.read().empty
    one.write_text("200000")
    assert reader.read().energy_j == pytest.approx(first.energy_j + 0.6)
    reader.close()
    reader.close()
    assert "2 package(s), 1 dram zone(s)" in reader.method


def test_rapl_adds_the_memory_beside_the_package_and_nothing_twice(tmp_path: Path) -> None:
    clock = Clock()
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
        "intel-rapl:2": "package-1",
        "intel-rapl:2:0": "dram",
    }
    files = {name: zone(tmp_path, name, label, 0, limit=65_000_000) for name, label in zones.items()}
    assert [path.name for path in dram_zones(tmp_path)] == ["intel-rapl:0:1", "intel-rapl:2:0"]
    reader = RaplReader(tmp_path, clock=clock)
    first = reader.read()
    for power, file in enumerate(files.values(), start=1):
        file.write_text(str(power * 1_000_000))
    clock.advance(1.0)
    second = reader.read()
    assert first.energy_j is not None
    assert second.energy_j == pytest.approx(first.energy_j + 1 + 3 + 6 + 7)
    files["intel-rapl:0:1"].write_text("500000")  # the memory's counter wraps by itself
    clock.advance(1.0)
    assert reader.read().energy_j == pytest.approx(second.energy_j + 65 - 3 + 0.5)
    assert "2 package(s), 2 dram zone(s); whole machine" in reader.method


def test_rapl_absence_and_permissions_are_explained(tmp_path: Path) -> None:
    assert "no package zone" in str(rapl_problem(tmp_path))
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    assert rapl_problem(tmp_path) is None
    file.write_text("garbage")
    assert "energy_uj" in str(rapl_problem(tmp_path))
    file.unlink()
    file.mkdir()  # unreadable for root too, unlike mode 0
    with pytest.raises(EnvironmentUnusableError, match="energy_uj"):
        RaplReader(tmp_path)


def test_rapl_without_permission_names_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories cannot be entered by another user
        root = Path(name)
        root.chmod(0o755)
        zone(root, "intel-rapl:0", "package-0", 1).chmod(0)
        with as_nobody():
            problem = rapl_problem(root)
        assert problem is not None
        assert "readable by root only" in problem
        assert f"chmod -R a+r {root}/intel-rapl:*" in problem


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's right to read every file for a while, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_estimate_is_a_counter_of_declared_constants() -> None:
    clock = Clock()
    used: dict[int, float] = {7: 3.0}
    reader = EstimatedReader(7, idle_w=5.0, w_per_cpu=10.0, clock=clock, cpu_seconds=used.get)
    assert reader.method == "estimated: 5 W + 10 W per busy CPU (declared constants, not measured)"
    first = reader.read()
    assert first.power_w is None
    clock.advance(2.0)
    used[7] = 6.0
    second = reader.read()
    assert second.power_w == pytest.approx(5.0 + 10.0 * 1.5)
    assert first.energy_j is not None
    assert second.energy_j == pytest.approx(first.energy_j + 40.0)
    del used[7]
    assert reader.read().empty


def test_cpu_time_of_another_process_then_none_when_it_is_gone() -> None:
    burn = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.2: pass\nprint(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    used = process_cpu_seconds(child.pid)
    assert used is not None
    assert 0.2 <= used < 5
    child.communicate(b"\n")
    assert process_cpu_seconds(child.pid) is None


def test_cpu_time_from_proc_where_the_clock_is_missing(tmp_path: Path) -> None:
    gone = 2**30  # above any kernel's largest process id, so the clock refuses it
    (tmp_path / str(gone)).mkdir()
    fields = ["S", *["0"] * 10, "150", "50", "0"]
    (tmp_path / str(gone) / "stat").write_text(f"{gone} (a ) strange (name) {' '.join(fields)}")
    assert process_cpu_seconds(gone, tmp_path) == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert process_cpu_seconds(gone + 1, tmp_path) is None


def test_own_cpu_time_agrees_with_python() -> None:
    before = time.process_time()
    used = process_cpu_seconds(os.getpid())
    assert used is not None
    assert before <= used <= time.process_time()


def test_open_reader_on_a_cpu() -> None:
    spec = EnergySpec(source="estimated", estimate=EstimateSpec(idle_w=1, w_per_cpu=2))
    reader = open_reader(spec, device_uuid="cpu:0@host", pid=os.getpid())
    assert (reader.source, reader.estimated, reader.device_uuid) == ("estimated", True, "cpu:0@host")
    with pytest.raises(ValueError, match="pid"):
        open_reader(spec, device_uuid=None, pid=None)
    if rapl_problem() is not None:
        assert open_reader(EnergySpec(), device_uuid=None, pid=os.getpid()).source == "estimated"
        with pytest.raises(EnvironmentUnusableError, match="rapl cannot be read"):
            open_reader(EnergySpec(source="rapl"), device_uuid=None, pid=os.getpid())


def test_cpu_source_beside_a_gpu_says_what_it_leaves_out() -> None:
    reader = open_reader(EnergySpec(source="estimated"), device_uuid="GPU-1", pid=os.getpid())
    assert reader.method.endswith("CPU side only, GPU-1 is not measured")
