from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rayscale.design import plan_sweep
from rayscale.record import (
    Device,
    EnergyResult,
    Evaluation,
    Phase,
    PhaseEnergy,
    Quality,
    Reason,
    Record,
    Training,
)
from rayscale.spec import SweepSpec

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "stats"


@pytest.fixture
def make_spec() -> Callable[..., SweepSpec]:
    """Build a sweep: 3 token counts x 4 repetitions unless told otherwise."""

    def build(factors: dict[str, list[Any]] | None = None, repetitions: int = 4, **sections: Any) -> SweepSpec:
        tree: dict[str, Any] = {
            "name": "toy",
            "design": {"factors": factors or {"tokens": [500_000, 1_000_000, 2_000_000]}, "repetitions": repetitions},
            "model": {"config": {"hidden_size": 8}},
            "data": {"corpus": "python-stdlib", "tokenizer": "bytes", "sequence_length": 64},
            **sections,
        }
        return SweepSpec.model_validate(tree)

    return build


@pytest.fixture
def make_records() -> Callable[..., list[Record]]:
    """Write one record per planned trial; loss falls with tokens, energy grows with them."""

    def build(spec: SweepSpec, **changes: Any) -> list[Record]:
        return [_record(trial, **changes) for trial in plan_sweep(spec).trials]

    return build


def _record(trial: Any, energy_j: float | None = -1.0, estimated: bool = False, peak: float | None = None) -> Record:
    wobble = 0.01 * ((trial.repetition * 7 + trial.run_order * 3) % 5)
    duration = trial.tokens / 1e5 * (1 + wobble)
    joules = duration * (50 + trial.repetition) if energy_j == -1.0 else energy_j
    loss = 6 - 0.2 * math.log2(trial.tokens / 1e5) + wobble
    power = None if joules is None else joules / duration
    train = PhaseEnergy(
        duration_s=duration, energy_j=joules, mean_w=power, rms_w=power, samples=10, coverage=1.0, bound_j=0.1
    )
    return Record(
        sweep="toy",
        trial_key=trial.trial_key,
        condition=trial.condition,
        repetition=trial.repetition,
        block=trial.block,
        run_order=trial.run_order,
        seed=trial.seed,
        attempt=1,
        started_at="2026-01-01T00:00:00+00:00",
        device=Device(kind="cpu", uuid="cpu:0@host", name="cpu", host="host", tflops_bench=0.1, peak_tflops=peak),
        phases=[Phase(name="train", start=10.0, end=10.0 + duration)],
        training=Training(
            steps=10,
            trained_tokens=trial.tokens,
            processed_tokens=trial.tokens,
            epochs=0.5,
            params=2_000_000,
            matmul_params=1_500_000,
            train_loss=loss,
            loss_digest="0" * 64,
            flops=6.0 * 1.5e6 * trial.tokens,
            flops_6nd=6.0 * 2e6 * trial.tokens,
            precision="fp32",
            threads=2,
            import_s=0.0,
            build_s=0.1,
            data_s=0.1,
            compile_s=0.0,
            warmup_s=0.1,
        ),
        evaluation=Evaluation(
            tokens=1024, loss_before=8.0, loss=loss, perplexity=math.exp(loss), bits_per_byte=None, eval_s=0.2
        ),
        energy=EnergyResult(
            source="estimated" if estimated else "nvml",
            method="estimated: 5 W + 10 W per busy CPU" if estimated else "counter",
            estimated=estimated,
            phases={"train": train},
            net_energy_j=None,
            net_baseline=None,
            idle_w=None,
            idle_sd_w=None,
            temp_start_c=None,
            temp_end_c=None,
        ),
        quality=Quality(verdict="clean"),
        environment={},
    )


@pytest.fixture
def with_verdict() -> Callable[[Record, str], Record]:
    def change(record: Record, verdict: str) -> Record:
        reasons = [Reason(code="coverage", detail="too little")]
        quality = Quality.model_validate({"verdict": verdict, "reasons": reasons})
        return record.model_copy(update={"quality": quality})

    return change


@pytest.fixture
def long_table() -> Callable[..., pd.DataFrame]:
    """Turn subjects x levels into a long table with the columns s, a, y."""

    def build(values: list[list[Any]], levels: list[Any] | None = None) -> pd.DataFrame:
        labels = levels or list(range(1, len(values[0]) + 1))
        rows = [(f"s{i + 1}", label, v) for i, row in enumerate(values) for label, v in zip(labels, row, strict=True)]
        return pd.DataFrame(rows, columns=["s", "a", "y"])

    return build


@pytest.fixture
def oracle() -> Callable[[str], dict[str, Any]]:
    def read(name: str) -> dict[str, Any]:
        found = sorted(ORACLES.glob(f"{name}_*.json"))
        if not found:
            pytest.skip(f"no oracle {name} in {ORACLES}")
        return json.loads(found[0].read_text())

    return read
