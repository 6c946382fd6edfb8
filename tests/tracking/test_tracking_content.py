from __future__ import annotations

import math

import pytest
from ledgers import example_spec, make_ledger

from rayscale.design import plan_sweep
from rayscale.ledger import Failure, Ledger
from rayscale.record import PhaseEnergy
from rayscale.tracking.content import condition_name, energy_note, epoch_ms
from rayscale.tracking.parent_content import parent_content, sweep_status
from rayscale.tracking.summary_content import summary_contents
from rayscale.tracking.trial_content import outcome_values, trial_content, trial_digest, trial_state


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    return make_ledger(tmp_path_factory.mktemp("content"), repetitions=2)


def content_of(ledger: Ledger, index: int = 0, active: bool = False):
    plan = ledger.read_plan()
    trial = plan.trials[index]
    return trial_content(ledger, trial, trial_state(ledger, trial.trial_key, active), plan.spec)


def test_names_say_condition_and_repetition():
    assert condition_name({"tokens": 500_000}) == "tok=500K"
    assert condition_name({"tokens": 1_500_000, "train.precision": "bf16"}) == "tok=1.5M/precision=bf16"
    assert energy_note("estimated: 5 W", True) == "Energy is *estimated*, not measured: 5 W."


def test_a_finished_trial_has_stored_times_and_its_outcomes(ledger):
    content = content_of(ledger)
    record = ledger.record(content.key)
    assert (content.status, content.name) == ("FINISHED", f"{condition_name(record.condition)}/rep=00")
    assert content.start_ms == epoch_ms(record.started_at)
    length = record.phases[-1].end - record.phases[0].start
    assert content.end_ms - content.start_ms == pytest.approx(length * 1000, abs=1)
    values = {p.key: p.value for p in content.points if p.key != "power_w"}
    assert values["energy_j"] == record.energy.phases["train"].energy_j
    assert values["duration_s"] == record.phase_seconds("train")
    assert {"pee", "joules_per_token", "perplexity", "eval_loss", "tokens_per_s", "power_mean_w"} <= set(values)
    assert {f"{part}_s" for part in ("import", "build", "data", "compile", "warmup", "train", "eval")} <= set(values)
    assert "mfu" not in values  # unknown peak: null, so not logged
    assert all(content.start_ms - 200 <= p.time_ms <= content.end_ms + 200 for p in content.points)
    assert {f.path for f in content.files} == {"power.parquet", "record.json"}
    assert content.tags["rayscale.energy_estimated"] == "true"
    assert content.tags["rayscale.energy_method"].startswith("estimated")


def test_unavailable_energy_is_left_out_and_never_zero(ledger):
    record = ledger.record(ledger.read_plan().trials[0].trial_key)
    phases = {"train": PhaseEnergy(duration_s=1.0, energy_j=None)}
    lost = record.model_copy(update={"energy": record.energy.model_copy(update={"phases": phases})})
    values = outcome_values(lost, example_spec(2))
    assert not {"energy_j", "power_mean_w", "pee", "joules_per_token"} & set(values)
    assert "perplexity" in values


def test_params_are_factors_and_a_handful_of_settings():
    design = {"factors": {"tokens": [100], "train.learning_rate": [0.1, 0.2]}, "repetitions": 1}
    plan = plan_sweep(example_spec(design=design))
    ledger = Ledger("/nowhere/quickstart")
    content = trial_content(ledger, plan.trials[0], trial_state(ledger, plan.trials[0].trial_key, False), plan.spec)
    assert set(content.params) == {"tokens", "train.learning_rate", "batch_size", "sequence_length"}
    assert content.status == "SCHEDULED"
    assert content.points == ()


def test_states_follow_the_ledger(tmp_path):
    plan = plan_sweep(example_spec(1))
    ledger, key = Ledger(tmp_path / "s"), plan.trials[0].trial_key
    seen = [trial_state(ledger, key, active=True)]
    ledger.new_attempt(key)
    seen += [trial_state(ledger, key, active=True), trial_state(ledger, key, active=False)]
    ledger.write_failure(key, 1, Failure("diverged", "loss became NaN", "2026-01-01T00:00:00+00:00"))
    seen.append(trial_state(ledger, key, active=True))
    ledger.new_attempt(key)
    seen.append(trial_state(ledger, key, active=True))
    assert [s.status for s in seen] == ["SCHEDULED", "RUNNING", "SCHEDULED", "FAILED", "RUNNING"]
    assert len({trial_digest(s, plan.spec) for s in seen}) == len(seen)


def test_a_failed_trial_says_why_and_keeps_its_log(tmp_path):
    plan = plan_sweep(example_spec(1))
    ledger, trial = Ledger(tmp_path / "s"), plan.trials[0]
    for reason in ("killed", "diverged"):
        attempt = ledger.new_attempt(trial.trial_key)
        (ledger.attempt_directory(trial.trial_key, attempt) / "log.jsonl").write_text("{}\n")
        ledger.write_failure(trial.trial_key, attempt, Failure(reason, "why", "2026-01-01T00:00:00+00:00"))
    content = trial_content(ledger, trial, trial_state(ledger, trial.trial_key, False), plan.spec)
    assert content.status == "FAILED"
    assert content.tags["rayscale.attempts"] == "2"
    assert content.tags["rayscale.failure"] == "diverged"
    assert content.tags["rayscale.failed_attempts"] == "1: killed: why\n2: diverged: why"
    assert content.end_ms == epoch_ms("2026-01-01T00:00:00+00:00")
    assert [f.path for f in content.files] == ["attempt-2/log.jsonl"]


def test_digest_changes_with_what_is_shown(ledger):
    plan = ledger.read_plan()
    state = trial_state(ledger, plan.trials[0].trial_key, False)
    more = plan.spec.model_copy(update={"analysis": plan.spec.analysis.model_copy(update={"dv": ["eval_loss"]})})
    assert trial_digest(state, plan.spec) == trial_digest(state, plan.spec)
    assert trial_digest(state, plan.spec) != trial_digest(state, more)


def test_parent_counts_and_says_where_energy_comes_from(ledger):
    plan = ledger.read_plan()
    states = {t.trial_key: trial_state(ledger, t.trial_key, False) for t in plan.trials}
    assert sweep_status(states, active=False) == "FINISHED"
    assert sweep_status(states, active=True) == "RUNNING"
    content = parent_content(ledger, plan, states, "FINISHED", with_files=True)
    assert content.tags["rayscale.progress"] == "6 of 6 completed, 0 failed, 6 suspect, 0 invalid"
    assert "*estimated*" in content.tags["mlflow.note.content"]
    assert [f.path for f in content.files] == ["plan.json"]


def test_an_interrupted_sweep_is_killed_and_an_untried_one_scheduled(tmp_path):
    plan = plan_sweep(example_spec(1))
    ledger = Ledger(tmp_path / "s")

    def status() -> str:
        return sweep_status({t.trial_key: trial_state(ledger, t.trial_key, False) for t in plan.trials}, False)

    assert status() == "SCHEDULED"
    ledger.new_attempt(plan.trials[0].trial_key)
    assert status() == "KILLED"
    for trial in plan.trials:
        attempt = ledger.new_attempt(trial.trial_key)
        ledger.write_failure(trial.trial_key, attempt, Failure("crashed", "x", "2026-01-01T00:00:00+00:00"))
    assert status() == "FAILED"


def test_summaries_hold_mean_sd_and_interval(ledger):
    from rayscale.analysis.run import analyze_records

    plan, records = ledger.read_plan(), ledger.records()
    contents = summary_contents(plan, analyze_records(records, plan.spec), at_ms=1000)
    assert [c.name for c in contents] == ["tok=12.5K/mean", "tok=25K/mean", "tok=50K/mean"]
    for content in contents:
        of_level = [r.evaluation.perplexity for r in records if str(r.condition["tokens"]) == content.params["tokens"]]
        values = {p.key: p.value for p in content.points}
        assert values["perplexity"] == pytest.approx(math.fsum(of_level) / 2)
        assert values["perplexity_sd"] == pytest.approx(abs(of_level[0] - of_level[1]) / math.sqrt(2))
        assert values["perplexity_ci"] > values["perplexity_sd"]
        assert "| perplexity | 2 |" in content.tags["mlflow.note.content"]


def test_summaries_of_a_two_factor_sweep_are_found(tmp_path):
    from rayscale.analysis.run import analyze_records

    design = {"factors": {"tokens": [12_500, 25_000], "train.learning_rate": [0.1, 0.2]}, "repetitions": 2}
    ledger = make_ledger(tmp_path, example_spec(design=design))
    plan = ledger.read_plan()
    contents = summary_contents(plan, analyze_records(ledger.records(), plan.spec), at_ms=1000)
    assert len(contents) == 4
    assert contents[0].name == "tok=12.5K/learning_rate=0.1/mean"


def test_summaries_of_an_unavailable_measure_leave_it_out(ledger):
    tree = {"results": {"mfu": {"within": ["tokens"], "descriptives": {"12500": {"n": 0, "mean": None, "sd": None}}}}}
    (content,) = summary_contents(ledger.read_plan(), tree, at_ms=1)
    assert content.points == ()
    assert "| mfu | 0 | n/a | n/a | n/a |" in content.tags["mlflow.note.content"]
