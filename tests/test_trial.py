"""One trial without Ray: the whole path in one process, exact budget, the same bits every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.attempt import explain_failure
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import ResourcesSpec
from rayscale.trial import find_trial

BLOCKED = """
import sys
for name in ("ray", "mlflow", "statsmodels"):
    sys.modules[name] = None  # as if it were not installed: no import, and nobody finds it
from rayscale.trial import main
sys.exit(main(sys.argv[1:]))
"""


def run_alone(sweep: Path, out: Path, tokens: str = "1024", repetition: str = "0") -> subprocess.CompletedProcess[str]:
    command = ["--sweep", str(sweep), "--tokens", tokens, "--repetition", repetition, "--out", str(out)]
    command = [sys.executable, "-c", BLOCKED, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The same trial in two processes, with Ray, MLflow and statsmodels not importable."""
    from tiny import TINY

    directory = tmp_path_factory.mktemp("alone")
    sweep = directory / "tiny.yaml"
    sweep.write_text(TINY, encoding="utf-8")
    records = []
    for name in ("first", "second"):
        result = run_alone(sweep, directory / name)
        assert result.returncode == 0, result.stderr
        assert "1024 tokens" in result.stdout
        records.append(Record.from_json((directory / name / "record.json").read_text(encoding="utf-8")))
        assert (directory / name / "power.parquet").exists()
    return records


def test_the_budget_is_exact(twice: list[Record]) -> None:
    assert [record.training.trained_tokens for record in twice] == [1024, 1024]


def test_the_same_trial_gives_the_same_losses_to_the_last_bit(twice: list[Record]) -> None:
    first, second = twice
    assert first.training.loss_digest == second.training.loss_digest
    assert first.evaluation.loss == second.evaluation.loss
    assert first.trial_key == second.trial_key


def test_the_phases_follow_each_other(twice: list[Record]) -> None:
    for record in twice:
        names = [phase.name for phase in record.phases]
        assert names == ["idle", "load", "context_idle", "eval", "warmup", "train", "eval"]
        edges = [edge for phase in record.phases for edge in (phase.start, phase.end)]
        assert edges == sorted(edges)


def test_every_measured_number_is_there_and_says_what_it_is(twice: list[Record]) -> None:
    for record in twice:
        train = record.energy.phases["train"]
        assert train.energy_j is not None
        assert train.energy_j > 0
        assert record.energy.method
        if record.energy.estimated:
            assert "estimated" in record.energy.method
            assert "estimated" in [reason.code for reason in record.quality.reasons]
        assert record.evaluation.loss_before is not None
        assert record.evaluation.loss < record.evaluation.loss_before
        assert record.device.tflops_bench


def test_import_build_and_train_times_are_told_apart(twice: list[Record]) -> None:
    for record in twice:
        assert record.training.import_s > 0.3  # a cold process imports torch
        assert record.training.build_s < record.training.import_s


def test_choices_and_both_evaluations_are_in_the_record(twice: list[Record]) -> None:
    for record in twice:
        chosen, evaluation = record.environment["training"], record.evaluation
        assert (chosen["attention"], chosen["attention_note"], chosen["loss"]) == ("rayscale_causal", None, "chunked")
        assert (chosen["compile"]["on"], chosen["compile"]["reason"]) == (False, "auto: never on a CPU")
        assert (chosen["micro_batch_size"], chosen["micro_batch_reason"]) == (4, "the whole batch (train.batch_size)")
        assert chosen["memory_bytes"] > 16 * record.training.params
        assert evaluation.perplexity_before is not None
        assert evaluation.perplexity_before > evaluation.perplexity
        assert evaluation.eval_before_s is not None
        assert 0 < evaluation.eval_before_s < 60
        assert (record.device.peak_tflops, record.device.peak_source) == (None, None)
        assert "6·N_matmul" in record.training.flops_formula


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "777"], "0 trials match"),
        (["--tokens", "many"], "expected a whole number"),
        (["--tokens", "512", "--repetition", "9"], "repetitions 0 to 1"),
        (["--tokens", "512", "--factor", "x"], "expected NAME=LEVEL"),
    ],
)
def test_bad_arguments_get_one_line(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    from rayscale.trial import main

    assert main(["--sweep", str(tiny_file), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused(tiny_file: Path, tmp_path: Path) -> None:
    from rayscale.energy.reader import gpu_devices
    from rayscale.trial import choose_device

    if gpu_devices():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="no NVIDIA GPU"):
        choose_device(ResourcesSpec(gpus=1))


def test_failures_have_stable_names() -> None:
    assert explain_failure(MemoryError("x")).reason == "out_of_memory"
    assert explain_failure(RuntimeError("CUDA out of memory. Tried to allocate")).reason == "out_of_memory"
    assert explain_failure(InputError("a: b")).reason == "bad_input"
    assert explain_failure(KeyError("k")).detail == "KeyError: 'k'"


def test_a_trial_is_found_by_its_condition(tiny_file: Path) -> None:
    trial = find_trial(str(tiny_file), {"tokens": "512"}, 1)
    assert (trial.tokens, trial.repetition) == (512, 1)
    assert json.dumps(trial.condition) == '{"tokens": 512}'
