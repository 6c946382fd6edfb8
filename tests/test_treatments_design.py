"""`design.treatments`: named bundles of settings as levels of one factor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.methods import methods_paragraph
from rayscale.analyzing import analyze_ledger
from rayscale.design import plan_sweep
from rayscale.errors import InputError
from rayscale.record import flatten
from rayscale.report.build import build_report
from rayscale.specfile import parse_spec

SWEEP = """\
name: alternatives
design:
  factors: {{tokens: [512]{factors}}}
  treatments:
    full: {{}}
    lora: {{train.lora_rank: 4, train.learning_rate: 0.01}}
    {third}
  repetitions: 2
model: {{preset: tiny}}
data: {{synthetic: {{vocab_size: 64}}, sequence_length: 32}}
train: {{batch_size: 8, micro_batch_size: 4}}
"""


def sweep(third: str = "pruned: {model.prune: 0.5}", factors: str = "") -> str:
    return SWEEP.format(third=third, factors=factors)


def problem(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_spec(text, "s.yaml")
    return str(caught.value)


def test_bundles_become_levels_of_one_factor() -> None:
    plan = plan_sweep(parse_spec(sweep(), "s.yaml"))
    found = {str(trial.condition["treatment"]): trial.spec for trial in plan.trials}
    assert list(plan.spec.design.factors["treatment"]) == ["full", "lora", "pruned"]
    assert len(plan.trials) == 6
    assert (found["lora"].train.lora_rank, found["lora"].train.learning_rate) == (4, 0.01)
    assert (found["full"].train.lora_rank, found["full"].model.prune) == (0, 0.0)
    assert found["pruned"].model.prune == 0.5


def test_factors_may_list_some_of_the_treatments() -> None:
    plan = plan_sweep(parse_spec(sweep(factors=", treatment: [full, pruned]"), "s.yaml"))
    assert {trial.condition["treatment"] for trial in plan.trials} == {"full", "pruned"}


def keys(text: str) -> dict[str, str]:
    return {
        f"{trial.condition['treatment']} {trial.repetition}": trial.trial_key
        for trial in plan_sweep(parse_spec(text, "s.yaml")).trials
    }


def test_a_changed_bundle_gives_its_own_trials_new_keys_and_no_others() -> None:
    before, after = keys(sweep()), keys(sweep("pruned: {model.prune: 0.25}"))
    assert {name for name in before if before[name] != after[name]} == {"pruned 0", "pruned 1"}


def test_settings_may_reach_into_sections_and_clear_them() -> None:
    third = "small: {model.config.hidden_size: 64, model.distill_from.tokens: 5K, train.grad_clip: null}"
    plan = plan_sweep(parse_spec(sweep(third), "s.yaml"))
    spec = next(trial.spec for trial in plan.trials if trial.condition["treatment"] == "small")
    assert spec.model.fields is not None
    assert spec.model.fields["hidden_size"] == 64
    assert getattr(spec.model.distill_from, "tokens", None) == 5000
    assert spec.train.grad_clip is None


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        (
            "typo: {train.lorra_rank: 4}",
            r"s\.yaml:7: design\.treatments\.typo: train\.lorra_rank.*did you mean `lora_rank`",
        ),
        ("bad: {eval.quantize: int3}", r"s\.yaml:7: design\.treatments\.bad: eval\.quantize: .*'int8'.*int3"),
        ("bad: {train.lora_rank: -1}", r"design\.treatments\.bad: train\.lora_rank: .*greater than or equal to 0"),
        ("other: {report.pue: 2}", r"design\.treatments\.other: `report\.pue` is no trial setting"),
        ("other: {tokens: 5}", r"treatments\.other: `tokens` is a factor too"),
        ("'a,b': {}", r"`a,b` names a level"),
    ],
)
def test_a_treatment_that_cannot_be_is_refused_with_its_line(third: str, expected: str) -> None:
    assert re.search(expected, problem(sweep(third)))


def test_an_unknown_treatment_among_the_levels_is_refused() -> None:
    assert "`lorra` is no key of design.treatments (full, lora, pruned)" in problem(
        sweep(factors=", treatment: [lorra]")
    )


def test_two_settings_for_one_thing_are_refused() -> None:
    text = problem(sweep(factors=", train.lora_rank: [0, 4]"))
    assert "treatments.lora: `train.lora_rank` is a factor too" in text


def test_levels_that_only_clash_together_are_refused_before_anything_runs() -> None:
    factors = ", train.batch_size: [8, 6], train.micro_batch_size: [2, 4]"
    text = problem(
        sweep(factors=factors).replace("train: {batch_size: 8, micro_batch_size: 4}", "train: {batch_size: 8}")
    )
    assert "`micro_batch_size` 4 does not divide `batch_size` 6" in text


def test_levels_that_only_fit_together_are_accepted() -> None:
    third = "odd: {train.batch_size: 9, train.micro_batch_size: 3}"
    plan = plan_sweep(parse_spec(sweep(third), "s.yaml"))
    assert plan.trials


@pytest.mark.parametrize(
    ("setting", "levels"),
    [
        ("train.precision", ["fp32", "bf16"]),
        ("train.batch_size", [4, 8]),
        ("data.sequence_length", [16, 32]),
        ("train.compile", ["off", "on"]),
        ("train.lora_rank", [0, 8]),
        ("model.prune", [0, 0.5]),
        ("eval.quantize", ["none", "int8", "int4"]),
        ("train.distill_weight", [0.25, 0.75]),
    ],
)
def test_every_alternative_is_a_factor_of_its_own(setting: str, levels: list[object]) -> None:
    text = sweep("other: {}", f", {setting}: {levels}").replace("train.lora_rank: 4, ", "")
    plan = plan_sweep(parse_spec(text, "s.yaml"))
    section, key = setting.split(".")
    assert {getattr(getattr(trial.spec, section), key) for trial in plan.trials} == set(levels)


def test_keys_from_before_treatments_still_hold() -> None:
    """As computed by the version before these settings existed; a change would run finished trials again."""
    assert plan_sweep(example_spec()).trials[0].trial_key == "42f48c03354e0850"


def test_treatments_are_analysed_and_reported_like_any_factor(tmp_path: Path) -> None:
    design = {
        "factors": {"tokens": [12_500, 25_000]},
        "treatments": {"full": {}, "pruned": {"model.prune": 0.5}, "int4": {"eval.quantize": "int4"}},
        "repetitions": 4,
    }
    ledger = make_ledger(tmp_path, example_spec(design=design))
    tree = analyze_ledger(ledger, ledger.read_plan())
    result = tree["results"]["perplexity"]
    assert {"tokens", "treatment", "tokens:treatment"} <= set(result["anova"])
    assert set(flatten(next(iter(ledger.records())))) >= {"treatment", "nonzero_params", "eval_energy_j"}
    assert "The treatments set: full (nothing further); pruned (model.prune = 0.5); int4" in methods_paragraph(tree)
    page = build_report(ledger, tree, tmp_path / "r.html").read_text(encoding="utf-8")
    for words in ("treatment full / pruned / int4", "pruned: model.prune 0.5", "Int4 evaluation is simulated"):
        assert words in page
