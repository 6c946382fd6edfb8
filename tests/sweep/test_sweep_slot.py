"""Where a slot trains: a GPU by its name, or the one that Ray gave it on a node that names none."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from rayscale.errors import RayscaleError
from rayscale.sweep.slot import slot_device


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The simulated GPUs of the energy tests."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "energy"))
    import fake_nvml

    return fake_nvml


def config(device: str, uuid: str | None, binding: str) -> dict[str, str | None]:
    return {"device": device, "device_uuid": uuid, "node": "n1", "binding": binding}


def test_a_named_gpu_is_taken_whatever_ray_counts() -> None:
    found = slot_device(config("gpu:GPU-b", "GPU-b", "resource"), ["0"])
    assert (found.uuid, found.document()) == ("GPU-b", {"device": "gpu:GPU-b", "node": "n1", "by": "resource"})


@pytest.mark.parametrize(("given", "uuid"), [(["1"], "GPU-b"), (["GPU-a"], "GPU-a")])
def test_without_names_the_gpu_is_rays_by_bus_order_or_uuid(fakes: ModuleType, given: list[str], uuid: str) -> None:
    nvml = fakes.FakeNvml(fakes.FakeGpu("GPU-a", name="A10G"), fakes.FakeGpu("GPU-b", name="L4"))
    found = slot_device(config("gpu:any@n1-0", None, "best effort"), given, nvml=nvml)
    assert (found.uuid, found.binding, found.name) == (uuid, "best effort", "gpu:any@n1-0")


@pytest.mark.parametrize("given", [[], ["7"]])
def test_a_gpu_that_is_not_there_is_not_guessed(fakes: ModuleType, given: list[str]) -> None:
    nvml = fakes.FakeNvml(fakes.FakeGpu("GPU-a"))
    with pytest.raises(RayscaleError, match=r"gpu:any@n1-0: of Ray's GPUs"):
        slot_device(config("gpu:any@n1-0", None, "best effort"), given, nvml=nvml)
