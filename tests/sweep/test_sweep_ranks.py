"""Trials of several processes in a slot, without Ray: the same result, one end for all, and nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from test_sweep_attempts import ThreadSampler, attempt, long_plan, plan_of, when_training
from tiny import TINY

from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.processtree import children_of
from rayscale.specfile import parse_spec
from rayscale.sweep.attempts import SlotHost
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer


@pytest.fixture
def host(tmp_path: Path, forks: ForkServer) -> SlotHost:
    return SlotHost(Ledger(tmp_path / "tiny"), forks, ThreadSampler(), SlotDevice("cpu:0", None, "CPU"), 0.1)


def two_ranks(plan: Plan, parallel: str = "ddp") -> Plan:
    """The same sweep with two processes per trial."""
    return plan_sweep(
        plan.spec.model_copy(
            update={
                "resources": plan.spec.resources.model_copy(update={"ranks": 2}),
                "train": plan.spec.train.model_copy(update={"parallel": parallel}),
            }
        )
    )


def gone(pids: list[int], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_make_one_record(host: SlotHost, parallel: str) -> None:
    alone = attempt(host, plan_of(), 1).record
    plan = two_ranks(plan_of(), parallel)
    record = attempt(host, plan, 1).record
    assert alone is not None
    assert record is not None
    assert record.trial_key != alone.trial_key  # time and energy are results too
    assert (record.training.world_size, record.training.parallel) == (2, parallel)
    assert record.device.ranks == (record.device.uuid,) * 2
    assert (alone.training.world_size, alone.training.parallel, alone.device.ranks) == (1, None, ())
    assert record.training.trained_tokens == plan.trials[1].tokens
    assert record.evaluation.loss_before == alone.evaluation.loss_before
    assert record.evaluation.loss == pytest.approx(alone.evaluation.loss, abs=1e-5)
    assert record.training.train_loss == pytest.approx(alone.training.train_loss, abs=1e-5)
    names = [phase.name for phase in record.phases]
    assert names == ["idle", "load", "context_idle", "eval", "warmup", "train", "eval"]
    directory = host.ledger.attempt_directory(record.trial_key, 1)
    assert sorted(path.name for path in directory.iterdir()) == ["log.jsonl", "output.log", "power.parquet"]


def test_pruned_and_quantised_trials_are_those_of_one_process(host: SlotHost) -> None:
    text = TINY.replace("intermediate_size: 64}", "intermediate_size: 64}\n  prune: 0.5")
    plan = plan_sweep(
        parse_spec(text.replace("eval: {tokens: 512}", "eval: {tokens: 512, quantize: int8}"), "tiny.yaml")
    )
    alone, two = attempt(host, plan).record, attempt(host, two_ranks(plan)).record
    assert alone is not None
    assert two is not None
    assert two.evaluation.quantized == alone.evaluation.quantized is not None
    assert two.evaluation.loss_unquantized == pytest.approx(alone.evaluation.loss_unquantized, abs=1e-5)
    assert two.evaluation.loss == pytest.approx(alone.evaluation.loss, abs=1e-3)  # a weight may round to the other side
    assert two.training.nonzero_params == alone.training.nonzero_params


def test_a_rank_that_waits_draws_nothing(host: SlotHost) -> None:
    plan = two_ranks(plan_of("idle: 40ms", "idle: 400ms"))
    record = attempt(host, plan).record
    assert record is not None
    constants = plan.spec.energy.estimate
    for name in ("idle", "context_idle"):
        phase = record.energy.phases[name]
        assert phase.energy_j is not None
        assert (phase.energy_j / phase.duration_s - constants.idle_w) / constants.w_per_cpu < 0.2  # busy CPUs
    train = record.energy.phases["train"]
    assert train.energy_j is not None
    assert 0.0 < (train.energy_j / train.duration_s - constants.idle_w) / constants.w_per_cpu < 2.2


def test_a_killed_rank_ends_the_attempt_with_its_reason(host: SlotHost) -> None:
    killed: list[int] = []

    def kill_second(pid: int) -> None:
        killed.extend([children_of(pid)[0], pid])
        os.kill(killed[0], signal.SIGKILL)

    killer = when_training(host, kill_second)
    start = time.monotonic()
    result = attempt(host, two_ranks(long_plan()))
    killer.join()
    assert result.failure is not None
    assert result.failure.reason == "killed"
    assert f"rank 1 (process {killed[0]}) was killed by signal 9" in result.failure.detail
    assert time.monotonic() - start < 30
    assert gone(killed)


def test_nobody_outlives_a_killed_trial(host: SlotHost) -> None:
    seen: list[int] = []

    def kill_first(pid: int) -> None:
        seen.extend([*children_of(pid), pid])
        os.kill(pid, signal.SIGKILL)

    killer = when_training(host, kill_first)
    result = attempt(host, two_ranks(long_plan()))
    killer.join()
    assert len(seen) == 2
    assert result.failure is not None
    assert (result.failure.reason, "signal 9" in result.failure.detail) == ("killed", True)
    assert gone(seen)


def test_a_loss_that_diverges_is_the_trials_own_reason(host: SlotHost) -> None:
    text = TINY.replace("learning_rate: 1.0e-2", "learning_rate: 1.0e+30, grad_clip: null, warmup_steps: 0")
    result = attempt(host, two_ranks(plan_sweep(parse_spec(text, "tiny.yaml"))))
    assert result.failure is not None
    assert result.failure.reason == "diverged"
