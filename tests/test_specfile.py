"""Sweep files: what is read, and what each mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.errors import InputError
from rayscale.spec import BpeSpec, SweepSpec
from rayscale.specfile import load_spec, parse_spec

ROOT = Path(__file__).parent.parent


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_spec(text, "x.yaml")
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    assert load_spec(path).design.factors["tokens"]


def test_the_contract_example_is_read_as_meant() -> None:
    spec = load_spec(ROOT / "sweeps" / "tinyllama.yaml")
    assert spec.design.factors["tokens"] == [500_000, 1_000_000, 2_000_000]
    assert (spec.design.repetitions, spec.train.batch_size, spec.train.learning_rate) == (50, 1, 2e-5)
    assert (spec.energy.period, spec.energy.idle, spec.energy.settle.timeout) == (0.1, 10.0, 120.0)


def test_quantities_with_units(tiny_text: str) -> None:
    text = tiny_text.replace("[512, 1024]", "[500K, 1.5M, 250_000]").replace("period: 20ms", "period: 0.25s")
    spec = parse_spec(text, "x.yaml")
    assert spec.design.factors["tokens"] == [250_000, 500_000, 1_500_000]
    assert spec.energy.period == 0.25


def test_bpe_tokenizer(tiny_text: str) -> None:
    text = tiny_text.replace(
        "synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}", "corpus: python-stdlib"
    )
    text = text.replace("sequence_length: 32", "sequence_length: 32\n  tokenizer: {bpe: 512}")
    assert parse_spec(text, "x.yaml").data.tokenizer == BpeSpec(bpe=512)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("learning_rate", "learning_rat", 12, ["train.learning_rat", "did you mean `learning_rate`"]),
        ("period: 20ms", "period: 20 parsecs", 14, ["energy.period", "100ms", "'20 parsecs'"]),
        ("batch_size: 4", "batch_size: four", 12, ["train.batch_size", "integer", "'four'"]),
        ("batch_size: 4", "batch_size: 0", 12, ["train.batch_size", "greater than or equal to 1"]),
        ("[512, 1024]", "[512, 1.5]", 3, ["design.factors", "whole number", "1.5"]),
        ("[512, 1024]", "[512, 512]", 3, ["names a level twice"]),
        ("[512, 1024]", "[]", 3, ["no levels"]),
        ("tokens: [512, 1024]", "train.batch_size: [1, 2]", 3, ["expected the factor `tokens`"]),
        ("[512, 1024]}", "[512], train.precison: [bf16]}", 3, ["train.precison", "did you mean `precision`"]),
        ("[512, 1024]}", "[512], train.precision: [bf17]}", 3, ["train.precision", "bf16"]),
        ("[512, 1024]}", "[512], wheels: [4]}", 3, ["`wheels` is no trial setting"]),
        ("name: tiny", "name: a/b", 1, ["name", "letters, digits"]),
        ("name: tiny\n", "", 1, ["name: this key is required"]),
        ("  seed: 7", "  seed: 7\n  seed: 8", 6, ["design.seed", "given twice"]),
        ("  sequence_length: 32", "  sequence_length: 32\n  corpus: python-stdlib", 9, ["exactly one source"]),
        ("seed: 7", "seed: [1", 6, ["no valid YAML"]),
    ],
)
def test_mistakes_are_told_in_one_line(tiny_text: str, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in tiny_text
    (problem,) = problems(tiny_text.replace(old, new, 1))
    assert "\n" not in problem
    assert problem.startswith(f"x.yaml:{line}:")
    for word in words:
        assert word in problem


def test_all_problems_at_once(tiny_text: str) -> None:
    text = tiny_text.replace("learning_rate", "learning_rat").replace("cpus: 1", "cpus: none").replace("20ms", "fast")
    assert [problem.split(":")[2].strip() for problem in problems(text)] == [
        "train.learning_rat",
        "energy.period",
        "resources.cpus",
    ]


def test_norway_is_no_boolean(tiny_text: str) -> None:
    assert parse_spec(tiny_text + "report: {country: NO}\n", "x.yaml").report.country == "NO"


@pytest.mark.parametrize("text", ["", "[]", "3", "a: !!python/object:os.system {}", "\x00", "a: *b", "- a\n b"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    assert problems(text)


@given(st.text(max_size=60))
def test_no_text_makes_the_reader_stumble(text: str) -> None:
    with pytest.raises(InputError):
        parse_spec(text, "x.yaml")


def test_a_missing_file_and_a_binary_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_spec(tmp_path / "binary.yaml")


def test_the_schema_names_and_explains_every_key() -> None:
    schema = SweepSpec.model_json_schema()
    json.dumps(schema)
    train = schema["$defs"]["TrainSpec"]["properties"]
    assert "rows per optimiser step" in train["batch_size"]["description"].lower()
    undescribed = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert undescribed == []


def test_a_setting_can_be_replaced_like_a_factor_does(tiny_spec: SweepSpec) -> None:
    assert tiny_spec.with_setting("train.batch_size", 2).train.batch_size == 2
    assert tiny_spec.with_setting("energy.settle.timeout", "3s").energy.settle.timeout == 3.0
    assert tiny_spec.with_setting("model.config.hidden_size", 64).model.config["hidden_size"] == 64  # type: ignore[index]
    assert tiny_spec.train.batch_size == 4
