"""The simulated ledger has to be believable, or what is tested on it proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import make_ledger

from rayscale.analysis.table import ledger_frame
from rayscale.energy.measure import energy_result
from rayscale.energy.trace import read_trace
from rayscale.ledger import Ledger
from rayscale.report.measures import describe, rests_on_energy
from rayscale.report.plotting import MAX_TITLE, shorten


@pytest.mark.parametrize("kind", ["laptop", "gpu"])
def test_energies_are_those_of_the_traces(kind: str, request: pytest.FixtureRequest) -> None:
    ledger: Ledger = request.getfixturevalue(kind)
    spec = ledger.read_plan().spec
    for record in ledger.records()[:3]:
        trace = read_trace(ledger.attempt_directory(record.trial_key, record.attempt))
        measured = energy_result(trace, record.phases, spec.energy)
        assert measured.estimated is record.energy.estimated
        assert measured.phases["train"].energy_j == pytest.approx(record.energy.phases["train"].energy_j, rel=1e-6)
        assert measured.phases["train"].mean_w == pytest.approx(record.energy.phases["train"].mean_w, rel=0.01)


def test_the_same_seed_gives_the_same_ledger(tmp_path: Path) -> None:
    first, second, other = (
        make_ledger(tmp_path / name, repetitions=2, seed=seed).records()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert first != other


def test_more_tokens_lower_the_loss_and_take_longer(laptop: Ledger) -> None:
    means = ledger_frame(laptop.records()).groupby("tokens")[["perplexity", "duration_s"]].mean()
    assert means["perplexity"].is_monotonic_decreasing
    assert means["duration_s"].is_monotonic_increasing


def test_what_rests_on_energy_is_followed_through_user_metrics() -> None:
    metrics = {"a": "energy_j * 2", "b": "a + 1", "c": "perplexity / 2", "d": "d + c"}
    assert [rests_on_energy(name, metrics) for name in ("pee", "a", "b", "c", "d", "perplexity")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert describe("b", metrics, energy_estimated=True).title == "b (estimated)"
    assert describe("b", metrics, energy_estimated=False).title == "b"
    assert describe("perplexity", metrics, energy_estimated=True).heading == "Perplexity"


def test_a_short_title_still_says_estimated() -> None:
    title = shorten(f"{'x' * 80} (estimated)")
    assert title.endswith("… (estimated)")
    assert len(title) == MAX_TITLE
    assert shorten("Perplexity") == "Perplexity"
