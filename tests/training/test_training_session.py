from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import text_spec, tiny_session, tiny_spec

from rayscale.errors import InputError
from rayscale.training.flops import evaluation_flops
from rayscale.training.order import IGNORED
from rayscale.training.results import digest_losses, perplexity_of, tail_loss
from rayscale.training.session import Diverged, StepLog

DROPOUT = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}


def ignore(_: StepLog) -> None:
    """Swallow progress."""


def test_training_uses_exactly_the_budget_and_learns(cache: Path) -> None:
    spec = tiny_spec(train={"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-2, "log_every": 0})
    session = tiny_session(cache, spec, tokens=12_345)
    before, logs = session.evaluate(), list[StepLog]()
    result = session.train(logs.append)
    after = session.evaluate()
    assert (result.trained_tokens, result.steps) == (12_345, math.ceil(12_345 / 128))
    assert 12_345 <= result.processed_tokens < 12_345 + 64
    assert result.epochs == pytest.approx(12_345 / (19_999 // 16 * 16))
    assert [log.step for log in logs] == list(range(1, result.steps + 1))
    assert (logs[-1].tokens, logs[-1].steps) == (12_345, result.steps)
    assert logs[-1].loss == pytest.approx(result.losses[-1])
    assert before.loss == pytest.approx(math.log(64), rel=0.05)
    # Below the uniform loss by far, and not below the source's entropy, which no honest evaluation can beat.
    assert session.data.entropy_nats is not None
    assert session.data.entropy_nats < after.loss < before.loss - 1.5
    assert after.perplexity == pytest.approx(math.exp(after.loss))
    assert (after.tokens, after.bits_per_byte) == (500, None)
    assert result.flops == pytest.approx(12_345 * (6 * session.shape.matmul_params + 12 * 2 * 32 * 16))


def test_a_session_trains_once(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec())
    session.train(ignore)
    with pytest.raises(RuntimeError, match="open another"):
        session.train(ignore)


@pytest.mark.parametrize("config", [None, DROPOUT], ids=["llama", "gpt2 with dropout"])
def test_warm_up_leaves_no_trace(cache: Path, config: dict[str, Any] | None) -> None:
    spec = tiny_spec(**({"model": {"config": config}} if config else {}))
    cold, warm = (tiny_session(cache, spec, tokens=700) for _ in range(2))
    torch.manual_seed(3)
    plain = cold.train(ignore)
    torch.manual_seed(3)
    warm.warmup()
    assert warm.engine.optimizer.state
    warmed = warm.train(ignore)
    assert warmed.loss_digest == plain.loss_digest
    for name, tensor in cold.engine.model.state_dict().items():
        assert torch.equal(tensor, warm.engine.model.state_dict()[name]), name


def test_the_steps_of_a_warm_up_are_real(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec())
    weight = session.engine.model.lm_head.weight
    before = weight.detach().clone()
    with session.engine.thrown_away():
        session._step(0)
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)


def test_micro_batches_change_nothing_but_rounding(cache: Path) -> None:
    results = []
    for micro in (8, 4, 2, 1):
        train = {"batch_size": 8, "micro_batch_size": micro, "learning_rate": 1e-3, "threads": 1}
        results.append(tiny_session(cache, tiny_spec(train=train), tokens=1_000).train(ignore))
    for result in results[1:]:
        np.testing.assert_allclose(result.losses, results[0].losses, rtol=1e-6)
        assert result.trained_tokens == 1_000


def test_the_loss_is_a_mean_over_targets_not_over_micro_batches(cache: Path) -> None:
    train = {"batch_size": 4, "micro_batch_size": 2}
    session = tiny_session(cache, tiny_spec(train=train), tokens=40)
    batch = session.train_feed.batch(0)
    logits = [session.engine.model(input_ids=inputs).logits for inputs, _ in batch.micro_batches]
    targets = torch.cat([targets for _, targets in batch.micro_batches])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits).flatten(0, 1), targets.flatten())
    assert int((targets != IGNORED).sum()) == 40
    assert session._step(0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_budgets_share_their_prefix_under_a_shared_schedule(cache: Path) -> None:
    spec = tiny_spec(train={"batch_size": 4, "schedule": "constant"})
    short, long = (tiny_session(cache, spec, tokens=tokens).train(ignore).losses for tokens in (640, 1280))
    assert np.array_equal(long[:10], short)


def test_repetitions_see_other_data_from_other_weights(cache: Path) -> None:
    digests = {
        tiny_session(cache, tiny_spec(), repetition=repetition, seed=seed).train(ignore).loss_digest
        for repetition, seed in ((0, 3), (1, 3), (0, 4))
    }
    assert len(digests) == 3


def test_evaluation_is_repeatable_and_the_same_for_every_trial(cache: Path) -> None:
    first, second = (tiny_session(cache, tiny_spec(), tokens=t, repetition=r) for t, r in ((200, 0), (300, 1)))
    assert first.evaluate() == first.evaluate() == second.evaluate()
    smaller = tiny_session(cache, tiny_spec(eval={"tokens": 500, "batch_size": 3})).evaluate()
    assert smaller.loss == pytest.approx(first.evaluate().loss, rel=1e-6)


def test_bits_per_byte_of_text(tmp_path: Path) -> None:
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text(f"{index} " + "some text that is easy to learn; " * 5)
    spec = text_spec(files=[str(tmp_path / "*.txt")])
    session = tiny_session(tmp_path / "cache", spec.model_copy(update={"eval": tiny_spec().eval}))
    result = session.evaluate()
    # Bytes as tokens: a little more than loss / ln 2, since end-of-text tokens cost bits but stand for no byte.
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2), rel=0.02)
    assert (result.bits_per_byte or 0) > result.loss / math.log(2)


@pytest.mark.parametrize("broken_at", [0, 3])
def test_divergence_ends_training_where_it_happens(cache: Path, broken_at: int) -> None:
    session = tiny_session(cache, tiny_spec(train={"log_every": 0, "batch_size": 4}), tokens=640)

    def poison(log: StepLog) -> None:
        if log.step == broken_at:
            with torch.no_grad():
                session.engine.model.lm_head.weight.fill_(math.nan)

    if broken_at == 0:
        poison(StepLog(0, 0, 0, 0, 0, 0))
    with pytest.raises(Diverged) as caught:
        session.train(poison)
    assert (caught.value.step, caught.value.tokens) == (broken_at, broken_at * 64)
    assert gc.isenabled()


def test_a_huge_learning_rate_diverges_or_stays_finite(cache: Path) -> None:
    spec = tiny_spec(train={"learning_rate": 1e30, "grad_clip": None, "batch_size": 4})
    with pytest.raises(Diverged, match="NaN or infinite at step"):
        tiny_session(cache, spec, tokens=2_000).train(ignore)


def test_bf16_autocast_keeps_fp32_weights(cache: Path) -> None:
    full = tiny_session(cache, tiny_spec(train={"precision": "fp32"}), tokens=500).train(ignore)
    session = tiny_session(cache, tiny_spec(train={"precision": "bf16"}), tokens=500)
    half = session.train(ignore)
    assert session.describe().precision == "bf16"
    assert all(parameter.dtype == torch.float32 for parameter in session.engine.model.parameters())
    assert half.loss_digest != full.loss_digest
    np.testing.assert_allclose(half.losses, full.losses, rtol=0.03)


def test_pure_bf16_keeps_everything_in_bf16(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec(train={"precision": "bf16-pure"}), tokens=500)
    session.warmup()
    before, result, after = session.evaluate(), session.train(ignore), session.evaluate()
    assert after.loss < before.loss
    assert result.trained_tokens == 500
    states = [value for state in session.engine.optimizer.state.values() for value in state.values() if value.ndim]
    assert {tensor.dtype for tensor in states} == {torch.bfloat16}


def test_a_stated_peak_and_evaluations_are_in_the_results(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec(train={"peak_tflops": 0.5}))
    facts = session.describe()
    assert (facts.peak_tflops, facts.peak_source) == (0.5, "train.peak_tflops")
    assert facts.settings["attention"] == "rayscale_causal"
    assert facts.settings["loss"] == "chunked"
    assert session.evaluate().flops == evaluation_flops(session.shape, 500, 16)


def test_facts_of_a_cpu_session(cache: Path) -> None:
    session = tiny_session(cache, tiny_spec())
    facts = session.describe()
    assert (facts.precision, facts.threads, facts.device_uuid, facts.peak_tflops) == ("fp32", 1, None, None)
    assert facts.params == sum(parameter.numel() for parameter in session.engine.model.parameters())
    assert facts.versions["torch"] == torch.__version__
    assert session.build_s > 0
    assert session.data_s > 0
    assert session.compile_s == 0.0


def test_a_budget_beyond_the_corpus_is_refused(cache: Path) -> None:
    with pytest.raises(InputError, match="tokens asked for"):
        tiny_session(cache, tiny_spec(), tokens=30_000)
    spec = tiny_spec(data={"max_epochs": 2})
    assert tiny_session(cache, spec, tokens=30_000).train_feed.budget.tokens == 30_000


def test_the_collector_is_as_before_after_training(cache: Path) -> None:
    gc.disable()
    try:
        tiny_session(cache, tiny_spec()).train(ignore)
        assert not gc.isenabled()
    finally:
        gc.enable()
    tiny_session(cache, tiny_spec()).train(ignore)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_small_results() -> None:
    losses = np.asarray([9.0] * 18 + [1.0, 4.0], dtype=np.float32)
    targets = np.asarray([10] * 19 + [5])
    assert tail_loss(losses, targets) == pytest.approx(2.0)
    assert tail_loss(losses[-1:], targets[-1:]) == 4.0
    assert perplexity_of(1e9) == math.inf
    assert digest_losses(losses) != digest_losses(losses * np.float32(1 + 1e-6))


ONE_TRIAL = """
import json, sys
from pathlib import Path
from rayscale.spec import SweepSpec
from rayscale.training.data import prepare
from rayscale.training.session import open_session
spec = SweepSpec.model_validate_json(sys.argv[1])
session = open_session(spec, prepare(spec, Path(sys.argv[2])), tokens=900, seed=5, repetition=1, device="cpu")
session.warmup()
result = session.train(lambda log: None)
print(json.dumps([result.loss_digest, session.evaluate().loss]))
"""


def test_two_processes_give_the_same_bits(cache: Path) -> None:
    spec = tiny_spec(train={"threads": 2})
    here = tiny_session(cache, spec, tokens=900, repetition=1, seed=5)
    here.warmup()
    digest = here.train(ignore).loss_digest
    command = [sys.executable, "-c", ONE_TRIAL, spec.model_dump_json(), str(cache)]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(elsewhere) == [digest, here.evaluate().loss]
