"""A trial that trains nothing, measured for real: sampler process, bell, phases, and the Record that comes of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayscale.attempt import PhaseLog, TrialJob, TrialOutcome, assemble_record
from rayscale.design import plan_sweep
from rayscale.energy.edges import EdgeBell
from rayscale.energy.process import SamplerProcess
from rayscale.energy.sampler import SamplerStats
from rayscale.energy.trace import Trace, read_trace
from rayscale.record import Device, Evaluation, Phase, PhaseEnergy, Reason, Record, Training
from rayscale.spec import EnergySpec, SweepSpec

UUID = "GPU-5afe0000-1111-2222-3333-444455556666"
HEAD = f"gpu {UUID} Simulated-H100 9\npower 0 60\n"
ENERGY = EnergySpec.model_validate({"source": "nvml", "period": "50ms"})


@dataclass(frozen=True)
class Measured:
    """What came of it; `truth_j` is the energy that the script put into the train phase."""

    record: Record
    trace: Trace | None
    stats: SamplerStats
    truth_j: float

    @property
    def codes(self) -> set[str]:
        return {reason.code for reason in self.record.quality.reasons}

    @property
    def words(self) -> dict[str, str]:
        return {reason.code: reason.detail for reason in self.record.quality.reasons}

    @property
    def train(self) -> PhaseEnergy:
        return self.record.energy.phases["train"]

    @property
    def error_j(self) -> float:
        return float("inf") if self.train.energy_j is None else abs(self.train.energy_j - self.truth_j)


def measure(
    script: Path,
    directory: Path,
    *lines: str,
    disturb: Callable[[Any], Any] = lambda sampler: sampler,
    sampler: Any = None,
    notes: Sequence[Reason] = (),
    seconds: tuple[float, float] = (0.8, 0.8),
) -> Measured:
    """Sample an idle phase at 60 W and a training at 300 W, then 500 W.

    Args:
        script: What the library reads; it must be named in the environment.
        directory: The attempt's.
        *lines: Further statements; `{begin}`, `{quarter}`, `{middle}` and `{end}` are those of the load.
        disturb: What happens to the sampler at `middle`; returns the one that samples from then on.
        sampler: What samples at first; None: a `SamplerProcess`.
        notes: Reasons that a slot adds.
        seconds: How long the training is at 300 W, and at 500 W.
    """
    always = [line for line in lines if line.startswith(("process", "ring", "scope")) or line.endswith(" 0 inf")]
    script.write_text(HEAD + "\n".join(always) + "\n")
    sampler = sampler or SamplerProcess(ENERGY, UUID, os.getpid(), directory)
    sampler.start()
    begin = time.monotonic() + 0.7
    middle, end = begin + seconds[0], begin + sum(seconds)
    changes = ((begin, 300.0), (middle, 500.0), (end, 60.0))
    statements = [*(f"power {at} {watts}" for at, watts in changes), *lines]
    text = HEAD + "\n".join(statements).format(begin=begin, quarter=(begin + middle) / 2, middle=middle, end=end)
    script.with_suffix(".next").write_text(text + "\n")
    script.with_suffix(".next").replace(script)
    with (directory / "log.jsonl").open("w", encoding="utf-8") as file:
        log = PhaseLog(file, EdgeBell(directory))
        with log.phase("idle"):
            _sleep_until(begin - 0.35)
        with log.phase("train"):  # its ring waits for two ticks first
            _sleep_until(middle)
            sampler = disturb(sampler)
            _sleep_until(end)
        with log.phase("eval"):
            time.sleep(0.6)
    stats = sampler.stop()
    record = assemble_record(job_of(directory), outcome_of(log.phases), stats, list(notes))
    train = next(phase for phase in log.phases if phase.name == "train")
    edges = np.clip([train.start, *(at for at, _ in changes), train.end], train.start, train.end)
    truth = float(np.dot(np.diff(edges), [60.0, *(watts for _, watts in changes)]))
    return Measured(Record.from_json(record.to_json()), _trace(directory), stats, truth)


def _trace(directory: Path) -> Trace | None:
    return read_trace(directory) if (directory / "power.parquet").exists() else None


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))


def job_of(directory: Path) -> TrialJob:
    """An attempt on the simulated GPU."""
    spec = SweepSpec.model_validate(
        {
            "name": "native",
            "design": {"factors": {"tokens": [512]}, "repetitions": 1, "seed": 1},
            "model": {"config": {"model_type": "llama"}},
            "data": {"synthetic": {"kind": "markov", "vocab_size": 64, "tokens": 20_000}, "sequence_length": 32},
            "energy": ENERGY.model_dump(mode="json"),
        }
    )
    trial = plan_sweep(spec).trials[0]
    return TrialJob("native", trial, 1, directory, None, UUID, "gpu:0", None)  # type: ignore[arg-type]


def outcome_of(phases: list[Phase], uuid: str = UUID) -> TrialOutcome:
    """What the training process would say of these phases."""
    training = Training(
        steps=7, trained_tokens=512, processed_tokens=512, epochs=0.1, params=1, matmul_params=1, train_loss=1.0,
        loss_digest="0", flops=1.0, flops_6nd=1.0, precision="bf16", threads=1, import_s=0.0, build_s=0.0,
        data_s=0.0, compile_s=0.0, warmup_s=0.0,
    )  # fmt: skip
    evaluation = Evaluation(tokens=1, loss_before=2.0, loss=1.0, perplexity=np.e, bits_per_byte=None, eval_s=0.1)
    device = Device(kind="cuda", uuid=uuid, name="Simulated-H100", host="here")
    return TrialOutcome("2026-01-01T00:00:00+00:00", phases, device, training, evaluation, {})


def stopped(seconds: float) -> Callable[[SamplerProcess], SamplerProcess]:
    """Stop the sampler's process for a while."""

    def disturb(sampler: SamplerProcess) -> SamplerProcess:
        os.kill(sampler.pid or 0, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(sampler.pid or 0, signal.SIGCONT)
        return sampler

    return disturb


def killed(directory: Path) -> Callable[[SamplerProcess], SamplerProcess]:
    """Kill the sampler's process and start another one, as a slot does."""

    def disturb(sampler: SamplerProcess) -> SamplerProcess:
        os.kill(sampler.pid or 0, signal.SIGKILL)
        while sampler.alive():
            time.sleep(0.01)
        again = SamplerProcess(ENERGY, UUID, os.getpid(), directory)
        again.start()
        return again

    return disturb
