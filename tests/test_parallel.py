"""Trials on several devices on paper: what the file may ask for, trial keys, the device sets, memory and the plan."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

from rayscale.design import plan_sweep
from rayscale.energies import PhaseEnergy
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.outcome import device_of
from rayscale.planning import plan_document
from rayscale.pricing.basis import assumed_basis
from rayscale.record import Device, flatten
from rayscale.spec import ResourcesSpec, SweepSpec
from rayscale.specfile import parse_spec
from rayscale.sweep.devices import grouped, kind_of, local_slots
from rayscale.sweep.nodes import Node, cluster_devices, refuse_empty
from rayscale.sweep.slot import slot_device
from rayscale.training.flops import shape_from_config
from rayscale.training.memory import spec_need
from rayscale.training.outlook import memory_outlook
from rayscale.training.parallel import sharded_need


def spec_of(resources: str, train: str = "batch_size: 4", more: str = "") -> SweepSpec:
    text = TINY.replace("resources: {gpus: 0, cpus: 1}", f"resources: {{{resources}}}")
    return parse_spec(text.replace("batch_size: 4", train) + more, "tiny.yaml")


@pytest.mark.parametrize(
    ("resources", "world", "devices", "threads"),
    [
        ("gpus: 0, cpus: 4", 1, 1, 4),
        ("gpus: auto, cpus: 4", 1, 1, 4),
        ("gpus: 1, cpus: 4", 1, 1, 4),
        ("gpus: 2, cpus: 4", 2, 2, 2),
        ("gpus: 4, cpus: 2", 4, 4, 1),
        ("gpus: 0, ranks: 2, cpus: 4", 2, 1, 2),
        ("gpus: 2, ranks: 2, cpus: 4", 2, 2, 2),
    ],
)
def test_ranks_follow_from_gpus_or_are_stated(resources: str, world: int, devices: int, threads: int) -> None:
    spec = spec_of(resources)
    assert (spec.world, spec.resources.devices, spec.threads) == (world, devices, threads)


@pytest.mark.parametrize(
    ("resources", "train", "words"),
    [
        ("gpus: two", "batch_size: 4", "expected a number of GPUs or `auto`, got 'two'"),
        ("gpus: true", "batch_size: 4", "expected a number of GPUs or `auto`, got True"),
        ("gpus: -1", "batch_size: 4", "greater than or equal to 0"),
        ("gpus: auto, ranks: 2", "batch_size: 4", "`ranks` 2 is for the CPU (`gpus: 0`), got gpus: auto"),
        ("gpus: 4, ranks: 2", "batch_size: 4", "on GPUs a trial has one rank per GPU: gpus: 2"),
        ("gpus: 8", "batch_size: 4", "train.batch_size: 4 rows cannot be shared evenly by 8 ranks"),
        ("gpus: 2", "batch_size: 3", "expected a multiple of 2"),
        ("gpus: 2", "batch_size: 4, micro_batch_size: 4", "train.micro_batch_size: 4 does not divide the 2 rows"),
        ("gpus: 2", "batch_size: 4, schedule: wsd, share_prefix: true", "train.share_prefix: not with several ranks"),
        ("gpus: 2", "batch_size: 4, parallel: fsdp, precision: fp8", "fp8: not with train.parallel: fsdp"),
        ("gpus: 2", "batch_size: 4, parallel: fsdp, lora_rank: 4", "train.lora_rank: not with train.parallel: fsdp"),
        ("gpus: 2", "batch_size: 4, parallel: fsdp, compile: on", "train.compile: on: not with train.parallel: fsdp"),
        ("gpus: 2", "batch_size: 4, parallel: zero", "'ddp' or 'fsdp'"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_starts(resources: str, train: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(resources, train)
    assert words in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("more", ["model.prune: [0, 0.5]", "eval.quantize: [none, int8]", "model.distill_from: [x]"])
def test_a_level_that_sharding_refuses_is_found_in_the_file(more: str) -> None:
    text = TINY.replace("tokens: [512, 1024]", f"tokens: [512, 1024], {more}")
    text = text.replace("gpus: 0, cpus: 1", "gpus: 0, ranks: 2").replace("1.0e-2}", "1.0e-2, parallel: fsdp}")
    with pytest.raises(InputError, match=r"not with train\.parallel: fsdp; expected parallel: ddp"):
        parse_spec(text, "tiny.yaml")


def keys(spec: SweepSpec) -> list[str]:
    return [trial.trial_key for trial in plan_sweep(spec).trials]


def test_trial_keys_change_with_the_ranks_only(tiny_spec: SweepSpec) -> None:
    alone = keys(tiny_spec)
    assert alone == ["e58800c93d4649f2", "2baeb85d6f43a886", "6c3a75aa0ab7af5f", "d8e4758c0fd554ce"]  # as before ranks
    assert keys(spec_of("gpus: auto, cpus: 1")) == keys(spec_of("gpus: 1, cpus: 1")) == alone
    assert keys(spec_of("gpus: 0, cpus: 1", "batch_size: 4, parallel: fsdp")) == alone  # there is nothing to share
    two = keys(spec_of("gpus: 2, cpus: 2"))
    assert keys(spec_of("gpus: 0, ranks: 2, cpus: 2")) == two  # as with one: where it runs is in the record
    sharded = keys(spec_of("gpus: 2, cpus: 2", "batch_size: 4, parallel: fsdp"))
    four = keys(spec_of("gpus: 4, cpus: 4"))
    assert len({*alone, *two, *sharded, *four}) == 4 * len(alone)


# -- devices ----------------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 20), size=st.integers(1, 6))
def test_sets_are_of_neighbours_and_use_no_device_twice(count: int, size: int) -> None:
    found = grouped(range(count), size)
    assert [device for one in found for device in one] == list(range(count // size * size))
    assert {len(one) for one in found} <= {size}


def gpu_node(*uuids: str, cpus: float = 16.0, counted: int = 4) -> Node:
    named = {f"gpu:{uuid}": 1.0 for uuid in uuids}
    return Node("a0000000", "a", "10.0.0.1", {"CPU": cpus, "GPU": counted, "accelerator_type:A10G": 1.0, **named})


def test_a_nodes_named_gpus_make_sets_that_claim_each_of_them() -> None:
    found = cluster_devices([gpu_node("GPU-d", "GPU-b", "GPU-c", "GPU-a")], ResourcesSpec(gpus=2), gpus=True)
    assert [(one.name, one.uuid) for one in found] == [
        ("gpu:GPU-a+GPU-b", "GPU-a+GPU-b"),
        ("gpu:GPU-c+GPU-d", "GPU-c+GPU-d"),
    ]
    assert dict(found[0].claims) == {"gpu:GPU-a": 1.0, "gpu:GPU-b": 1.0, "GPU": 2.0}
    assert {(one.kind, one.binding, one.node) for one in found} == {("2 x A10G", "resource", "a")}
    assert found[0].document() == {"device": "gpu:GPU-a+GPU-b", "node": "a", "by": "resource"}


def test_unnamed_gpus_are_taken_in_sets_as_best_effort() -> None:
    found = cluster_devices([gpu_node(counted=5)], ResourcesSpec(gpus=2), gpus=True)
    assert [dict(one.claims)["GPU"] for one in found] == [2.0, 2.0]
    assert {(one.uuid, one.binding) for one in found} == {(None, "best effort")}


def test_no_node_with_enough_gpus_is_refused_by_number() -> None:
    nodes = [gpu_node("GPU-a", "GPU-b")]
    refuse_empty(nodes, ResourcesSpec(gpus=2))
    with pytest.raises(EnvironmentUnusableError, match=r"has the GPUs that a trial needs: resources\.gpus: 4"):
        refuse_empty(nodes, ResourcesSpec(gpus=4))


def test_more_gpus_than_here_are_refused() -> None:
    with pytest.raises(EnvironmentUnusableError, match=r"resources\.gpus: 64 asked for, but .* visible here"):
        local_slots(ResourcesSpec(gpus=64))


def test_a_slot_takes_all_gpus_that_ray_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "energy"))
    fakes: ModuleType = __import__("fake_nvml")
    nvml = fakes.FakeNvml(fakes.FakeGpu("GPU-a"), fakes.FakeGpu("GPU-b"), fakes.FakeGpu("GPU-c"))
    config = {"device": "gpu:any@n1-0", "device_uuid": None, "node": "n1", "binding": "best effort"}
    assert slot_device(config, ["0", "2"], 2, nvml=nvml).uuid == "GPU-a+GPU-c"
    from rayscale.errors import RayscaleError

    with pytest.raises(RayscaleError, match="1 are usable; expected 2"):
        slot_device(config, ["0", "7"], 2, nvml=nvml)


def test_kinds_and_counts_are_told() -> None:
    assert kind_of(["A10G"]) == "A10G"
    assert kind_of(["A10G", "A10G", "L4"]) == "2 x A10G + L4"
    two = Device(kind="cuda", uuid="GPU-a+GPU-b", name="2 x A10G", host="h", ranks=("GPU-a", "GPU-b"))
    assert two.count == 2
    assert Device(kind="cuda", uuid="GPU-a", name="A10G", host="h").count == 1
    assert Device(kind="cpu", uuid="cpu:0@h", name="CPU", host="h", ranks=("cpu:0@h",) * 2).count == 1


def test_several_gpus_are_one_device_with_the_sum_of_their_rates() -> None:
    facts = SimpleNamespace(device_uuid="GPU-a", device_name="A10G", peak_tflops=70.0, peak_source="data sheet")
    session: Any = SimpleNamespace(describe=lambda: facts)
    job: Any = SimpleNamespace(device_uuid="GPU-a+GPU-b", slot="gpu:GPU-a+GPU-b", tflops_bench=100.0)
    found = device_of(job, session, [("GPU-b", "A10G")])
    assert (found.uuid, found.name, found.count, found.peak_tflops) == ("GPU-a+GPU-b", "2 x A10G", 2, 140.0)
    assert found.ranks == ("GPU-a", "GPU-b")
    cpu: Any = SimpleNamespace(device_uuid=None, device_name=None, peak_tflops=3.0, peak_source="train.peak_tflops")
    session, job = (
        SimpleNamespace(describe=lambda: cpu),
        SimpleNamespace(device_uuid=None, slot="cpu:0", tflops_bench=1),
    )
    alone, two = device_of(job, session, []), device_of(job, session, [(None, None)])
    assert (alone.ranks, two.ranks) == ((), (alone.uuid,) * 2)  # a CPU is one device, whoever shares it
    assert (two.uuid, two.name, two.peak_tflops, two.count) == (alone.uuid, alone.name, 3.0, 1)


def test_device_hours_are_those_of_all_devices() -> None:
    from rayscale.analysis.accounting import Part
    from rayscale.analysis.efficiency import cost

    assert Part.of(10.0, None).on(2) == Part.of(20.0, None)
    assert Part.of(10.0, 5.0, 1.0).on(3) == Part.of(30.0, 5.0, 1.0)
    assert cost(None, 3600.0, 1.0, None, 2.0, 4) == 8.0
    assert cost(None, 3600.0, 1.0, None, 2.0) == 2.0
    assert PhaseEnergy(duration_s=1.0, energy_j=None).energy_j is None


def test_an_account_counts_the_time_of_each_device(tmp_path: Path) -> None:
    from ledgers import make_ledger

    from rayscale.analysis.accounting import phase_parts

    record = make_ledger(tmp_path).records()[0]
    device = record.device.model_copy(update={"kind": "cuda", "uuid": "GPU-a+GPU-b", "ranks": ("GPU-a", "GPU-b")})
    one, two = phase_parts(record), phase_parts(record.model_copy(update={"device": device}))
    assert one.keys() == two.keys()
    for name, part in one.items():
        assert two[name].seconds == pytest.approx(2 * part.seconds)
        assert two[name].energy_j == part.energy_j  # the record's energy is the sum already
    row = flatten(record.model_copy(update={"device": device}))
    assert (row["devices"], row["world_size"]) == (2, 1)


def test_a_price_takes_n_gpus_to_be_n_times_as_fast_and_says_so() -> None:
    one, two = (plan_sweep(spec_of(f"gpus: {n}, cpus: 2", "batch_size: 4, precision: bf16")) for n in (1, 2))
    single, double = assumed_basis("h100", one), assumed_basis("h100", two)
    assert double.train_rate.typical == pytest.approx(2 * single.train_rate.typical)
    assert double.busy_w is not None
    assert single.busy_w is not None
    assert double.busy_w.typical == pytest.approx(2 * single.busy_w.typical)
    assert any("2 GPUs per trial" in note for note in double.notes)


# -- memory and plan --------------------------------------------------------------------------------------------------


def test_sharding_takes_less_memory_the_more_ranks_there_are() -> None:
    spec = parse_spec((Path(__file__).parent.parent / "sweeps" / "tinyllama.yaml").read_text(encoding="utf-8"), "t")
    fields = spec.model.fields or {}
    shape = shape_from_config(fields, 32000)
    need = spec_need(spec, fields, shape, "bf16", cuda=True)
    assert need is not None
    totals = [sharded_need(need, world, shape.layers).total(1) for world in (2, 4, 8)]
    assert need.total(1) > totals[0] > totals[1] > totals[2]
    assert sharded_need(need, 8, shape.layers).moments == need.moments // 8


@pytest.mark.parametrize(("parallel", "rows"), [("ddp", 2), ("fsdp", 2)])
def test_the_plan_counts_per_rank_and_says_so(parallel: str, rows: int) -> None:
    spec = spec_of("gpus: 0, ranks: 2, cpus: 2", f"batch_size: 4, parallel: {parallel}")
    document = plan_document(plan_sweep(spec), None, None)
    assert document["totals"]["notes"] == [f"each trial trains with 2 ranks on the CPU ({parallel})"]
    outlook = memory_outlook(spec, shape_from_config(spec.model.fields or {}, 64), None)
    assert outlook is not None
    assert outlook["micro_batch_size"] == rows
    assert outlook["sentence"].startswith("memory per rank (fp32): ")
    alone = memory_outlook(spec_of("gpus: 0, cpus: 1"), shape_from_config(spec.model.fields or {}, 64), None)
    assert alone is not None
    assert outlook["total_bytes"] < alone["total_bytes"]
    assert outlook["limit_bytes"] == alone["limit_bytes"] / 2


def test_gpus_that_are_not_here_are_noted_in_the_plan() -> None:
    document = plan_document(plan_sweep(spec_of("gpus: 64, cpus: 64", "batch_size: 64")), None, None)
    assert "so the sweep needs another" in document["totals"]["notes"][0]
