from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.run import analyze_records
from rayscale.ledger import Ledger
from rayscale.report.figures import figure_png, points_of, report_figures
from rayscale.report.gather import gather
from rayscale.report.plot_measure import Point, drift_of
from rayscale.report.plot_power import clip, thin
from rayscale.report.plotting import LEVELS, LevelColours


def integral(t: np.ndarray, power: np.ndarray, backward: bool) -> float:
    return float(np.sum(np.diff(t) * (power[1:] if backward else power[:-1])))


@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_a_clipped_trace_fills_the_window_and_keeps_its_integral(count: int, seed: int, backward: bool) -> None:
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.05, 0.2, count))
    power = rng.uniform(5, 300, count)
    start, end = float(t[0] + 0.01), float(t[-1] - 0.01)
    cut, values = clip(t, power, start, end, backward)
    assert (cut[0], cut[-1]) == (start, end)
    assert np.all(np.diff(cut) >= 0)
    middle = (np.clip(t[1:], start, end) - np.clip(t[:-1], start, end)) * (power[1:] if backward else power[:-1])
    assert integral(cut, values, backward) == pytest.approx(float(middle.sum()))


def test_a_trace_outside_the_window_is_empty() -> None:
    t, power = np.array([1.0, 2.0]), np.array([5.0, 5.0])
    assert clip(t, power, 3.0, 4.0, backward=True)[0].size == 0
    assert clip(t, power, -2.0, -1.0, backward=False)[0].size == 0


@given(st.integers(1, 5000), st.integers(10, 200), st.integers(0, 2**32 - 1))
def test_thinning_keeps_peaks_and_order(count: int, points: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, power = np.arange(float(count)), rng.normal(100, 10, count)
    power[rng.random(count) < 0.1] = np.nan
    kept_t, kept = thin(t, power, points)
    assert kept.size <= max(points, 1)
    assert np.all(np.diff(kept_t) > 0)
    if np.isfinite(power).any():
        assert np.nanmax(kept) == np.nanmax(power)
        assert np.nanmin(kept) == np.nanmin(power)


def test_drift_is_found_and_the_effect_of_tokens_is_not_taken_for_it() -> None:
    points = [
        Point(tokens, "", block, (1000 / tokens) * (1 + 0.01 * (3 * block + place)), 3 * block + place, True)
        for block in range(8)
        for place, tokens in enumerate([(10, 20, 40), (40, 10, 20), (20, 40, 10)][block % 3])
    ]
    drift = drift_of(points)
    assert drift.relative
    assert drift.per_run is not None
    assert drift.per_run == pytest.approx(1 / 1.115, rel=0.05)  # 1 % per run of the value at the start
    assert drift_of(points[:2]).per_run is None


def test_drift_of_a_measure_around_zero_stays_in_its_unit() -> None:
    points = [Point(10, "", index, value, index, True) for index, value in enumerate([-1.0, 0.0, 1.0])]
    drift = drift_of(points)
    assert not drift.relative
    assert drift.per_run == pytest.approx(1.0)


def test_levels_have_distinct_colours_however_many_there_are() -> None:
    for count in (1, 3, len(LEVELS), 12):
        colours = LevelColours(tuple(range(1, count + 1)))
        assert len({colours[level] for level in range(1, count + 1)}) == count


def test_every_trial_is_a_dot_and_ranks_follow_the_clock(laptop: Ledger) -> None:
    data = gather(laptop, {})
    points = points_of(data, "perplexity")
    assert sorted(point.rank for point in points) == list(range(1, 16))
    started = sorted(data.records, key=lambda record: record.started_at)
    assert [record.perplexity for record in (r.evaluation for r in started)] == [
        point.value for point in sorted(points, key=lambda point: point.rank)
    ]


def test_figures_are_saved_as_png(gpu: Ledger, tmp_path: Path) -> None:
    analysis = analyze_records(gpu.records(), gpu.read_plan().spec)
    files = figure_png(gpu, analysis, tmp_path / "figures", dpi=40)
    assert [file.name for file in files] == [
        f"{name}.png"
        for name in (
            *("figure-tokens-1", "figure-tokens-2", "figure-tokens-3", "figure-power", "figure-sampling"),
            *("figure-order-1", "figure-order-2", "figure-order-3", "figure-time"),
        )
    ]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_drawing_changes_no_global_setting_of_matplotlib(laptop: Ledger) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    report_figures(gather(laptop, {}))[0].svg()
    assert dict(mpl.rcParams) == before


def test_means_are_those_of_the_analysis(laptop: Ledger) -> None:
    analysis = analyze_records(laptop.records(), laptop.read_plan().spec)
    row = analysis["results"]["perplexity"]["descriptives"]["50000"]
    figure = next(f for f in report_figures(gather(laptop, analysis)) if "perplexity" in f.title)
    assert f"50K: {row['mean']:.1f}" in figure.alt
    assert "within-subject interval (Morey 2008)" in figure.caption
    assert not math.isnan(row["mean"])
