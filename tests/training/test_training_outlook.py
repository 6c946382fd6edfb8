"""Outlooks: memory and time of a sweep by arithmetic, for devices that are here and that are not."""

from __future__ import annotations

from typing import Any

import pytest
from training_helpers import tiny_spec

from rayscale.spec import SweepSpec
from rayscale.training.flops import ModelShape, shape_from_config
from rayscale.training.outlook import assumed_times, card_outlook, memory_outlook


def tinyllama(gpus: int = 1, **train: Any) -> tuple[SweepSpec, ModelShape]:
    data = {"synthetic": {}, "sequence_length": 2048}
    tree = tiny_spec(
        model={"config": None, "preset": "tinyllama-1.1b"}, data=data, train=train, resources={"gpus": gpus}
    )
    return tree, shape_from_config(tree.model.fields or {}, 32000)


def test_memory_is_shown_part_by_part_and_compared_with_the_card() -> None:
    found = memory_outlook(*tinyllama(batch_size=32, micro_batch_size="auto"), 80 * 10**9)
    assert found is not None
    assert (found["micro_batch_size"], found["fits"]) == (8, True)
    assert sum(found["parts"].values()) == found["total_bytes"] < found["limit_bytes"]
    assert found["sentence"].endswith("fits 73.6 GB")
    small = memory_outlook(*tinyllama(batch_size=32, micro_batch_size="auto"), 24 * 10**9)
    assert small is not None
    assert (small["micro_batch_size"], small["fits"]) == (1, False)
    assert "does NOT fit 22.1 GB" in small["sentence"]


def test_without_the_card_there_is_a_sum_and_no_verdict() -> None:
    found = memory_outlook(*tinyllama(batch_size=4), None)
    assert found is not None
    assert (found["limit_bytes"], found["fits"], found["micro_batch_size"]) == (None, None, 4)
    on_cpu = memory_outlook(*tinyllama(gpus=0, batch_size=1), None)
    assert on_cpu is not None
    assert on_cpu["limit_bytes"] is not None
    assert on_cpu["sentence"].startswith("memory per trial (fp32)")


def test_what_cannot_be_counted_has_no_sum() -> None:
    spec = tiny_spec(model={"config": {"model_type": "mamba"}})
    assert memory_outlook(spec, ModelShape(1, 1, 1, 1, 1, 1), None) is None


def test_cards_say_what_fits() -> None:
    assert "bf16 does not fit; bf16-pure 17.9 GB" in card_outlook(24 * 10**9)
    assert "with micro-batches of 8" in card_outlook(80 * 10**9)


def test_times_are_flops_over_a_share_of_the_peak() -> None:
    times = assumed_times(0.38 * 989e12 * 100, "auto")
    assert times["NVIDIA H100"] == pytest.approx(100)
    assert times["NVIDIA A10G"] == pytest.approx(100 * 989 / 70)
