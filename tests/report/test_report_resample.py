"""The figure of reported efficiency against sampling period."""

from __future__ import annotations

from rayscale.ledger import Ledger
from rayscale.report.figures import report_figures
from rayscale.report.gather import gather
from rayscale.report.plot_resample import PERIODS_S, PeriodPoint, period_points
from rayscale.resampling_view import TrialView, trial_view


def views_of(ledger: Ledger) -> list[TrialView]:
    return [view for record in ledger.records()[:6] if (view := trial_view(ledger, record)) is not None]


def test_the_spread_grows_with_the_period_and_stops_at_the_length_of_the_phase(gpu: Ledger) -> None:
    views = views_of(gpu)
    points = period_points(views)
    longest = {
        tokens: max(view.window[1] - view.window[0] for view in views if view.record.condition["tokens"] == tokens)
        for tokens in {point.tokens for point in points}
    }
    assert all(point.period_s <= longest[point.tokens] for point in points)
    for tokens, duration in longest.items():
        row: list[PeriodPoint] = [point for point in points if point.tokens == tokens]
        assert [point.period_s for point in row] == [one for one in PERIODS_S if one <= duration]
        assert row[0].share.sd < row[-1].share.sd
        assert all(one.share.low <= one.share.mean <= one.share.high for one in row)
        assert all(abs(one.share.mean - 1) < 0.05 for one in row)


def test_the_figure_says_its_numbers_in_words(gpu: Ledger) -> None:
    figures = {figure.slug: figure for figure in report_figures(gather(gpu, {"results": {}}))}
    figure = figures["figure-sampling"]
    assert "50K at" in figure.alt
    svg = figure.svg()
    assert svg.startswith("<svg")
    assert "reported efficiency" in svg


def test_estimated_power_is_called_so(laptop: Ledger) -> None:
    figures = {figure.slug: figure for figure in report_figures(gather(laptop, {"results": {}}))}
    assert "(of estimated power)" in figures["figure-sampling"].caption
