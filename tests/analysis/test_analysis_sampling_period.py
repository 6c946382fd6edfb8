"""The resampled view: exact on signals whose answer is known, and the section and command made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import example_spec, make_ledger

from rayscale.analysis.sampling_period import MAX_SHIFTS, MIN_SHIFTS, resample, shifts_of, spread
from rayscale.cli import run_command
from rayscale.resampling_view import render_resampled, resample_sweep, resampled_section

FEW = np.array([0.0])


@given(st.floats(1.0, 900.0), st.floats(0.01, 1e4), st.floats(0.05, 100.0))
def test_constant_power_is_seen_right_by_every_shift_that_sees_it(watts: float, duration: float, period: float) -> None:
    seen = resample(np.array([5.0]), np.array([watts]), 100.0, 100.0 + duration, period)
    known = np.isfinite(seen.rms_w)
    assert np.allclose(seen.rms_w[known], watts, rtol=1e-12)
    assert np.allclose(seen.energy_j[known], watts * duration, rtol=1e-12)
    assert np.array_equal(known, seen.samples > 0)
    assert np.all(np.abs(seen.samples - duration / period) <= 1 + 1e-6)


@given(st.lists(st.floats(1.0, 900.0), min_size=2, max_size=40), st.integers(1, 8))
def test_the_mean_over_all_shifts_is_the_true_mean(watts: list[float], per_period: int) -> None:
    """Every value holds for 1 s; the window is a whole number of periods; one shift falls into each second."""
    watts = watts[: len(watts) // per_period * per_period]
    if not watts:
        return
    shifts = np.arange(per_period) + 0.5
    seen = resample(np.arange(float(len(watts))), np.array(watts), 0.0, float(len(watts)), float(per_period), shifts)
    assert seen.mean_w.mean() == pytest.approx(np.mean(watts), rel=1e-9)
    assert (seen.rms_w**2).mean() == pytest.approx(np.mean(np.square(watts)), rel=1e-9)


@given(
    st.lists(st.floats(0.1, 900.0), min_size=1, max_size=50),
    st.floats(0.0, 40.0),
    st.floats(0.1, 60.0),
    st.floats(0.1, 90.0),
)
def test_against_a_plain_loop(watts: list[float], start: float, duration: float, period: float) -> None:
    starts = np.arange(float(len(watts)))
    shifts = np.array([0.0, 0.3, 0.9]) * period
    end = start + duration
    duration = end - start  # as rounded
    seen = resample(starts, np.array(watts), start, end, period, shifts)
    for shift, mean, count in zip(shifts, seen.mean_w, seen.samples, strict=True):
        offsets = [shift + k * period for k in range(2000) if shift + np.float64(k) * period < duration]
        values = [watts[min(int(start + offset), len(watts) - 1)] for offset in offsets]
        assert count == len(values)
        assert np.isnan(mean) if not values else mean == pytest.approx(np.mean(values))


def test_resonance_shows_as_spread() -> None:
    """A load that alternates with exactly half the sampling period: each shift sees one of its two halves only."""
    starts = np.arange(0.0, 600.0, 30.0)
    power = np.where(np.arange(len(starts)) % 2 == 0, 700.0, 300.0)
    found = spread(resample(starts, power, 0.0, 600.0, 60.0).rms_w)
    assert found is not None
    assert (found.low, found.high) == (300.0, 700.0)
    assert found.mean == pytest.approx(500.0)
    assert found.sd == pytest.approx(200.0)


def test_a_phase_shorter_than_the_period_may_get_no_sample() -> None:
    seen = resample(np.array([0.0]), np.array([100.0]), 0.0, 15.0, 60.0)
    assert seen.empty_share == pytest.approx(0.75, abs=0.01)
    found = spread(seen.energy_j)
    assert found is not None
    assert found.mean == pytest.approx(1500.0)
    assert resample(np.array([0.0]), np.array([100.0]), 0.0, 15.0, 60.0, np.array([30.0])).empty_share == 1.0


def test_nothing_seen_is_none_not_zero() -> None:
    assert spread(np.array([np.nan, np.nan])) is None
    assert spread(np.array([])) is None


def test_pee_is_inverse_to_reported_power() -> None:
    seen = resample(np.array([0.0, 30.0]), np.array([200.0, 400.0]), 0.0, 60.0, 60.0, np.array([10.0, 40.0]))
    assert seen.pee(2.0, 300.0) == pytest.approx([3.0, 1.5])


@given(st.floats(0.01, 1e3), st.floats(0.01, 1e6))
def test_shifts_lie_in_one_period(period: float, duration: float) -> None:
    shifts = shifts_of(period, duration)
    assert MIN_SHIFTS <= len(shifts) <= MAX_SHIFTS
    assert shifts.min() >= 0
    assert shifts.max() < period


@pytest.mark.parametrize(
    ("starts", "end", "period"), [([], 1.0, 1.0), ([0.0], 0.0, 1.0), ([0.0], 1.0, 0.0), ([0.0], float("nan"), 1.0)]
)
def test_senseless_input_is_refused(starts: list[float], end: float, period: float) -> None:
    with pytest.raises(ValueError, match="expected power"):
        resample(np.array(starts), np.array(starts), 0.0, end, period)


# -- the sweep --------------------------------------------------------------------------------------------------------


def test_section_puts_measured_beside_resampled(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, repetitions=2)
    records = ledger.records()
    fine = resampled_section(ledger, records, 0.1)
    coarse = resampled_section(ledger, records, 1.0)
    assert list(coarse["levels"]) == ["tokens=12500", "tokens=25000", "tokens=50000"]
    for label, level in coarse["levels"].items():
        members = [record for record in records if f"tokens={record.condition['tokens']}" == label]
        rms = [record.energy.phases["train"].rms_w or 0.0 for record in members]
        assert level["as_measured"]["power_rms_w"] == pytest.approx(np.mean(rms))
        assert level["resampled"]["power_rms_w"]["mean"] == pytest.approx(np.mean(rms), rel=0.02)
        spreads = [view["levels"][label]["resampled"]["power_rms_w"]["sd_shifts"] for view in (fine, coarse)]
        assert spreads[0] < spreads[1], "the coarser the sampling, the more the shift decides"
        assert level["resampled"]["pee"]["mean"] is not None
    assert "estimated" in " ".join(coarse["notes"])


def test_trials_without_a_trace_are_counted(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, repetitions=1)
    first = ledger.records()[0]
    for file in ledger.attempt_directory(first.trial_key, first.attempt).glob("power.*"):
        file.unlink()
    section = resample_sweep(ledger, ledger.read_plan(), "1s")
    assert "1 of 3 trials have no readable power trace" in section["notes"]
    assert len(section["levels"]) == 2


def test_factors_beside_tokens_have_their_own_levels(tmp_path: Path) -> None:
    factors = {"tokens": [12_500, 25_000], "train.learning_rate": [1e-3, 3e-3]}
    spec = example_spec(design={"factors": factors, "repetitions": 1, "seed": 1})
    ledger = make_ledger(tmp_path, spec)
    section = resample_sweep(ledger, ledger.read_plan(), "1s")
    assert len(section["levels"]) == 4
    assert "tokens=12500,train.learning_rate=0.001" in section["levels"]


def test_a_long_period_says_how_often_nothing_was_seen(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, repetitions=1)
    text = render_resampled(resample_sweep(ledger, ledger.read_plan(), "60s"))
    assert "no sample at all at" in text
    assert "energy_j" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(make_ledger(tmp_path, repetitions=3).root)
    assert run_command(["analyze", root, "--resample", "2s", "--json", "-"]) == 0
    section = json.loads(capsys.readouterr().out)["resampled"]
    assert section["period_s"] == 2.0
    assert section["levels"]["tokens=50000"]["trials"] == 3
    assert run_command(["analyze", root, "--resample", "2s"]) == 0
    assert "sampled every 2 s instead of as stored:" in capsys.readouterr().out
    assert "resampled" not in json.loads((Path(root) / "analysis.json").read_text())


@pytest.mark.parametrize("period", ["soon", "0s", "-1s"])
def test_a_senseless_period_is_one_line(period: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(make_ledger(tmp_path, repetitions=1).root)
    assert run_command(["analyze", root, f"--resample={period}"]) == 2
    assert f"--resample {period}" in capsys.readouterr().err
