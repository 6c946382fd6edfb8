"""Models that are there before a trial: teachers and starting weights, made once or given; and whole treated trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import TINY_LLAMA, tiny_session, tiny_spec

from rayscale.analysis.accounting import operations_of, trial_account
from rayscale.attempt import TrialJob
from rayscale.design import plan_sweep
from rayscale.errors import EnvironmentUnusableError, InputError
from rayscale.record import Record, flatten
from rayscale.spec import SweepSpec
from rayscale.training.data import prepare
from rayscale.training.flops import evaluation_flops
from rayscale.training.treatments import adapter
from rayscale.training.treatments.applying import check_treatments
from rayscale.trial import run_alone

OWN_TEACHER = {"tokens": 800, "config": {"hidden_size": 48}, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(cache))


def distilled(**train: Any) -> SweepSpec:
    return tiny_spec(model={"distill_from": OWN_TEACHER}, train=train)


def test_a_student_learns_from_a_teacher_that_is_trained_once(cache: Path) -> None:
    first = tiny_session(cache, distilled())
    result = first.train(lambda _: None)
    again = tiny_session(cache, distilled(distill_temperature=3.0))
    teacher, facts = first.engine.teacher, first.describe().settings["teacher"]
    assert teacher is not None
    assert facts == again.describe().settings["teacher"]
    assert facts["tokens"] == 800
    assert facts["training_flops"] > 0
    assert teacher.model.config.hidden_size == 48
    assert result.teacher_flops == evaluation_flops(teacher.shape, 200, 16)
    assert result.flops == tiny_session(cache, tiny_spec()).train(lambda _: None).flops
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_the_teacher_changes_training_and_the_same_trial_gives_the_same_bits(cache: Path) -> None:
    digests = [
        tiny_session(cache, spec).train(lambda _: None).loss_digest
        for spec in (distilled(), distilled(), distilled(distill_weight=0.9), tiny_spec())
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_accumulation_does_not_change_what_a_student_learns(cache: Path) -> None:
    whole = tiny_session(cache, distilled()).train(lambda _: None).losses
    split = tiny_session(cache, distilled(micro_batch_size=1)).train(lambda _: None).losses
    torch.testing.assert_close(torch.from_numpy(whole), torch.from_numpy(split), rtol=1e-4, atol=1e-5)


def test_a_student_of_a_good_teacher_comes_close_to_it(cache: Path) -> None:
    teacher = {"tokens": 12_000, "learning_rate": 1e-2}
    spec = tiny_spec(model={"distill_from": teacher}, train={"distill_weight": 1.0, "distill_temperature": 1.0})
    session = tiny_session(cache, spec, tokens=6_000)
    before = session.evaluate().loss
    session.train(lambda _: None)
    facts = session.describe().settings["teacher"]
    assert before - session.evaluate().loss > 0.5 * (before - facts["eval_loss"])


def test_a_teacher_of_another_vocabulary_is_refused(cache: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: value for name, value in TINY_LLAMA.items() if name != "model_type"}
    config = AutoConfig.for_model("llama", **fields, vocab_size=96, max_position_embeddings=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="vocabulary of 96, the student of 64"):
        tiny_session(cache, tiny_spec(model={"distill_from": str(tmp_path)}))


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"model\.distill_from: .*no such model"):
        check_treatments(tiny_spec(model={"distill_from": str(tmp_path / "absent")}))
    check_treatments(tiny_spec(train={"lora_rank": 2}))
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentUnusableError, match=r"pip install 'rayscale\[lora\]'"):
        check_treatments(tiny_spec(train={"lora_rank": 2}))


def test_all_treatments_start_from_the_same_weights(cache: Path) -> None:
    pretrain = {"pretrain": {"tokens": 1600, "learning_rate": 1e-2}}
    starts = [
        tiny_session(cache, tiny_spec(model=pretrain, train=train), seed=seed).evaluate().loss
        for train, seed in (({}, 3), ({"learning_rate": 1e-4}, 4), ({"lora_rank": 2}, 5))
    ]
    fresh = tiny_session(cache, tiny_spec()).evaluate().loss
    assert starts[0] == starts[1] == starts[2] < fresh
    made = [json.loads(path.read_text(encoding="utf-8")) for path in (cache / "models").glob("*/made.json")]
    assert sum(one["tokens"] == 1600 for one in made) == 1


def trial_record(spec: SweepSpec, cache: Path, directory: Path) -> Record:
    job = TrialJob(spec.name, plan_sweep(spec).trials[0], 1, directory, prepare(spec, cache), None, "cpu:0", None)
    return run_alone(job)


def test_a_quantised_evaluation_is_a_phase_of_its_own_and_the_account_adds_up(cache: Path, tmp_path: Path) -> None:
    spec = tiny_spec(eval={"quantize": "int8"}, energy={"period": "20ms", "idle": "40ms"}, resources={"gpus": 0})
    record = trial_record(spec, cache, tmp_path)
    row, evaluation = flatten(record), record.evaluation
    assert [phase.name for phase in record.phases][-3:] == ["train", "eval", "eval_quantized"]
    assert evaluation.quantized is not None
    assert evaluation.quantized.startswith("int8")
    assert evaluation.loss != evaluation.loss_unquantized == row["eval_loss_unquantized"]
    assert row["eval_loss"] == evaluation.loss
    assert row["eval_energy_j"] == record.energy.phases["eval_quantized"].energy_j
    assert Record.from_json(record.to_json()) == record
    span = record.phases[-1].end - record.phases[0].start
    assert trial_account(record).total.seconds == pytest.approx(span, rel=1e-9)
    assert operations_of(record).evaluation == pytest.approx(3 * (evaluation.flops or 0))


def test_the_record_of_an_adapter_counts_what_trains(cache: Path, tmp_path: Path) -> None:
    spec = tiny_spec(train={"lora_rank": 2}, energy={"period": "20ms", "idle": "40ms"}, resources={"gpus": 0})
    record = trial_record(spec, cache, tmp_path)
    row, operations = flatten(record), operations_of(record)
    assert row["trainable_params"] == adapter.planned_adapter_params(TINY_LLAMA, 2) < row["params"]
    assert operations.matmul + operations.attention == pytest.approx(record.training.flops)
    assert operations.attention == 12 * 2 * 4 * 8 * 16 * 200  # 12·L·H·Q·T·D, as without adapters
    assert row["teacher_flops"] is None
    assert any("random weights" in note for note in record.environment["training"]["treatment"]["notes"])
