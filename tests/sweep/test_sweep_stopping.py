"""The stop rule in a simulated sweep: whole blocks, the plan before the looks, no block after the answer, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import CPU, example_spec, simulate_trial
from ray.tune.search import Searcher

from rayscale.analysis.looks import planned_looks, schedule, sequential_section, with_sequential
from rayscale.analysis.run import analyze_records, to_json
from rayscale.design import Plan, Trial, plan_sweep
from rayscale.errors import InputError
from rayscale.ledger import Failure, Ledger
from rayscale.record import Record
from rayscale.sweep.devices import FixedFleet, SlotDevice
from rayscale.sweep.runner import run_sweep
from rayscale.sweep.searcher import BlockSearcher
from rayscale.sweep.stopping import NeverStopping, SequentialStopping, open_stopping

LEVELS = [12_500, 25_000, 50_000]


def stop_plan(repetitions: int = 8, after: list[int] | None = None, dv: str = "perplexity", **rule: object) -> Plan:
    stop = {"dv": dv, "after": after or [3, 5], **rule}
    design = {"factors": {"tokens": LEVELS}, "repetitions": repetitions, "seed": 2601, "stop": stop}
    return plan_sweep(example_spec(design=design))


def write_record(ledger: Ledger, trial: Trial, perplexity: float) -> None:
    record, _ = simulate_trial(trial, CPU, 100.0, 0.0, np.random.default_rng(trial.run_order))
    evaluation = record.evaluation.model_copy(update={"perplexity": perplexity})
    ledger.write_record(record.model_copy(update={"evaluation": evaluation}))


def null_value(trial: Trial) -> float:
    return 5000 + float(np.random.default_rng([trial.repetition, trial.tokens]).normal())


def effect_value(trial: Trial) -> float:
    return null_value(trial) - 900 * np.log2(trial.tokens / 12_500)


def drive(plan: Plan, ledger: Ledger, value, slots: int = 1, bad: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Run the sweep as Tune would, with records made up; returns the keys in the order run, and what was said."""
    said: list[str] = []
    done = ledger.completed()
    todo = tuple(trial for trial in plan.trials if trial.trial_key not in done)
    stopping = open_stopping(plan, ledger, said.append)
    ledger.write_plan(plan, {}, stopping.planned)
    devices = FixedFleet(tuple(SlotDevice(f"cpu:{index}", None, f"CPU {index}") for index in range(slots)))
    searcher = BlockSearcher(Plan(plan.spec, todo).blocks(), devices, 1, stopping)
    trials = {trial.trial_key: trial for trial in plan.trials}
    out: list[tuple[str, str]] = []
    ran: list[str] = []
    for count in range(10_000):
        answer = searcher.suggest(f"t{count}") if len(out) < 2 * slots else None
        if isinstance(answer, dict):
            out.append((f"t{count}", answer["trial_key"]))
        elif out:
            trial_id, key = out.pop(0)
            ran.append(key)
            outcome = "failed" if key in bad else "completed"
            if outcome == "completed":
                write_record(ledger, trials[key], value(trials[key]))
            else:
                ledger.write_failure(key, ledger.new_attempt(key), Failure("crashed", "made up", "now"))
            searcher.on_trial_complete(trial_id, {"outcome": outcome})
        else:
            assert answer == Searcher.FINISHED
            break
    if not [trial for trial in plan.trials if trial.trial_key not in ledger.completed()]:
        stopping.finish()
    return ran, said


def stopping_factor(plan: Plan) -> float:
    return float(planned_looks(plan.spec)["small_sample_factor"])


def test_an_answered_question_stops_the_sweep(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    ran, said = drive(plan, ledger, effect_value)
    assert ran == [trial.trial_key for trial in plan.trials[:9]]  # three blocks, and no trial of the fourth
    status = ledger.status(plan)
    assert (status.completed, status.not_needed, status.pending, status.failed) == (9, 15, 0, 0)
    assert status.stopped == said[0]
    assert "look 1 after 3 complete blocks" in said[0]
    section = sequential_section(ledger.read_looks(), plan.spec)["sequential"]
    assert (section["decision"], section["n_used"], section["saved_repetitions"]) == ("efficacy", 3, 5)
    assert section["significant"] is True
    assert section["p_adjusted"] == pytest.approx(section["p_look"] / stopping_factor(plan))


def test_the_analysis_names_the_adjusted_p_first(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    drive(plan, ledger, effect_value)
    tree = analyze_records(ledger.records(), plan.spec)
    found = with_sequential(tree, ledger.read_looks(), plan.spec)
    assert found["sequential"]["dv"] == "perplexity"
    assert found["results"]["perplexity"]["notes"][:2] == found["sequential"]["notes"]
    assert json.loads(to_json(found))["sequential"]["p_adjusted"] <= 0.05
    assert with_sequential(tree, None, plan.spec) == tree


def test_a_run_after_the_stop_does_not_run_on(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    drive(plan, ledger, effect_value)
    said: list[str] = []
    summary = run_sweep(plan, ledger, [], said.append)
    assert (summary.before, summary.completed, summary.failed) == (9, 0, {})
    assert summary.stopped is not None
    assert "the stop rule ended this sweep; 15 trials are not needed" in said[0]


def test_without_an_effect_it_runs_to_the_end(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    ran, said = drive(plan, ledger, null_value)
    assert len(ran) == 24
    looks = ledger.read_looks()["looks"]
    assert [(look["n"], look["decision"]) for look in looks] == [(3, "continue"), (5, "continue"), (8, "end")]
    assert len(said) == 3
    section = sequential_section(ledger.read_looks(), plan.spec)["sequential"]
    assert section["significant"] is False
    assert section["p_adjusted"] > 0.05
    assert ledger.status(plan).stopped is None


def test_records_are_read_for_looks_not_for_every_block(tmp_path: Path) -> None:
    class Counting(Ledger):
        reads = 0

        def records(self, plan: Plan | None = None) -> list[Record]:
            Counting.reads += 1
            return super().records(plan)

    drive(stop_plan(repetitions=12, after=[3, 8]), Counting(tmp_path / "quickstart"), null_value)
    assert Counting.reads <= 5  # at the start twice, two looks and the last one; there are 12 blocks


def test_the_target_halfwidth_stops_it_too(tmp_path: Path) -> None:
    plan, ledger = stop_plan(target_halfwidth=100.0), Ledger(tmp_path / "quickstart")
    ran, _ = drive(plan, ledger, null_value)
    assert len(ran) == 9
    section = sequential_section(ledger.read_looks(), plan.spec)["sequential"]
    assert section["decision"] == "halfwidth"
    assert section["looks"][0]["halfwidth"] <= 100
    assert section["significant"] is False


def test_the_looks_are_planned_before_the_first_one(tmp_path: Path) -> None:
    plan, ledger = stop_plan(spending="pocock", alpha=0.01), Ledger(tmp_path / "quickstart")
    drive(plan, ledger, null_value)
    stored = json.loads((ledger.root / "plan.json").read_text())["looks"]
    assert [look["n"] for look in stored["looks"]] == [3, 5, 8]
    assert stored["looks"][-1]["cumulative_alpha"] == pytest.approx(0.01)
    for planned, taken in zip(stored["looks"], ledger.read_looks()["looks"], strict=True):
        assert taken["nominal"] == pytest.approx(planned["nominal_p"], rel=1e-9)


def test_a_block_that_failed_is_replaced_before_the_look(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    ran, _ = drive(plan, ledger, effect_value, bad=(plan.trials[4].trial_key,))
    assert ran == [trial.trial_key for trial in plan.trials[:12]]
    assert ledger.read_looks()["looks"][0]["n"] == 3
    assert ledger.status(plan).failed == 0  # its trial is not needed any more


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(3, 7))
def test_no_block_beyond_a_look_begins_before_it(tmp_path_factory, slots: int, first: int) -> None:
    plan = stop_plan(after=[first])
    ledger = Ledger(tmp_path_factory.mktemp("many") / "quickstart")
    ran, _ = drive(plan, ledger, effect_value, slots=slots)
    assert sorted(ran) == sorted(trial.trial_key for trial in plan.trials[: 3 * first])


def test_a_continued_run_goes_on_with_the_next_look(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    for trial in plan.trials[:13]:  # four blocks and one trial, as an earlier run without a look may leave them
        write_record(ledger, trial, null_value(trial))
    drive(plan, ledger, null_value)
    assert [look["n"] for look in ledger.read_looks()["looks"]] == [4, 5, 8]


def test_a_rule_changed_after_a_look_is_refused(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    drive(plan, ledger, null_value)
    for changed in (stop_plan(alpha=0.1), stop_plan(after=[3, 6]), stop_plan(repetitions=9)):
        with pytest.raises(InputError, match=r"design\.stop was changed after 3 look"):
            run_sweep(changed, ledger, [], print)
    assert json.loads((ledger.root / "plan.json").read_text())["looks"]["alpha"] == 0.05


def test_a_rule_taken_away_is_said_in_the_analysis(tmp_path: Path) -> None:
    plan, ledger = stop_plan(), Ledger(tmp_path / "quickstart")
    drive(plan, ledger, effect_value)
    without = example_spec(repetitions=8)
    assert "no longer has" in sequential_section(ledger.read_looks(), without)["sequential"]["notes"][0]
    assert ledger.status(plan_sweep(without)).stopped is None


def test_an_unknown_measure_is_refused_before_anything_runs(tmp_path: Path) -> None:
    design = {"factors": {"tokens": LEVELS}, "stop": {"dv": "perplexty", "after": [3]}}
    spec = example_spec(design=design, analysis={"dv": ["perplexty"]})
    with pytest.raises(InputError, match="did you mean `perplexity`"):
        SequentialStopping(plan_sweep(spec), Ledger(tmp_path / "quickstart"), print)


def test_a_sweep_without_a_rule_is_untouched(tmp_path: Path) -> None:
    plan = plan_sweep(example_spec())
    stopping = open_stopping(plan, Ledger(tmp_path / "quickstart"), print)
    assert isinstance(stopping, NeverStopping)
    assert stopping.may_start(99)
    assert sequential_section(None, plan.spec) == {}


def test_the_rule_changes_no_trial_key() -> None:
    plain = plan_sweep(example_spec(repetitions=8))
    assert [trial.trial_key for trial in stop_plan().trials] == [trial.trial_key for trial in plain.trials]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"after": [5, 3]}, "ascending"),
        ({"after": [1, 3]}, "at least 2"),
        ({"after": [3, 9]}, "no more than `repetitions`"),
        ({"dv": "tokens_per_s"}, r"design\.stop\.dv: expected one of analysis\.dv"),
        ({"alpha": 1.5}, "less than 1"),
        ({"spending": "haybittle"}, "obrien_fleming"),
        ({"target_halfwidth": 0}, "greater than 0"),
    ],
)
def test_an_impossible_rule_is_refused(rule: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stop_plan(**{"after": [3, 5], **rule})


def test_a_rule_needs_something_to_compare() -> None:
    with pytest.raises(ValueError, match="at least two levels"):
        example_spec(design={"factors": {"tokens": [512]}, "stop": {"dv": "perplexity", "after": [3]}})


def test_the_schedule_ends_with_the_sweep() -> None:
    assert schedule(stop_plan(8, [3, 5]).spec) == [3, 5, 8]
    assert schedule(stop_plan(8, [3, 8]).spec) == [3, 8]


def shared_plan(dv: str, metrics: dict[str, str] | None = None) -> Plan:
    stop = {"dv": dv, "after": [3, 5]}
    design = {"factors": {"tokens": LEVELS}, "repetitions": 8, "seed": 2601, "stop": stop}
    train = {"schedule": "wsd", "share_prefix": True}
    return plan_sweep(example_spec(design=design, train=train, analysis={"dv": [dv], "metrics": metrics or {}}))


@pytest.mark.parametrize("dv", ["joules_per_token", "pee", "duration_s", "own"])
def test_rows_that_share_trunks_do_not_decide_by_their_time_or_energy(tmp_path: Path, dv: str) -> None:
    plan, ledger = shared_plan(dv, {"own": "eval_loss * energy_j"}), Ledger(tmp_path / "quickstart")
    with pytest.raises(InputError, match=rf"design\.stop\.dv: `{dv}` .* share_prefix"):
        open_stopping(plan, ledger, lambda _: None)
    assert not ledger.completed()


def test_a_stop_never_parts_a_trunk_from_its_branches(tmp_path: Path) -> None:
    """Perplexity is the same with and without sharing, so the rule holds; whole blocks are run, ascending."""
    plan, ledger = shared_plan("perplexity"), Ledger(tmp_path / "quickstart")
    ran, said = drive(plan, ledger, effect_value)
    assert "look 1 after 3 complete blocks" in said[0]
    assert ran == [trial.trial_key for block in plan.blocks()[:3] for trial in block]
    assert all([trial.tokens for trial in block] == LEVELS for block in plan.blocks())
