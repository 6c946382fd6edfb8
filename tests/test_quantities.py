"""Quantities as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.quantities import format_count, format_duration, parse_bytes, parse_count, parse_duration


@pytest.mark.parametrize(
    ("text", "value"),
    [("500K", 500_000), ("1.5M", 1_500_000), ("500_000", 500_000), (512, 512), (2e6, 2_000_000), ("2e6", 2_000_000)],
)
def test_counts(text: object, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("100ms", 0.1), ("10s", 10), ("5min", 300), ("2h", 7200), (0.25, 0.25), ("250us", 0.00025)]
)
def test_durations(text: object, value: float) -> None:
    assert parse_duration(text) == pytest.approx(value, rel=1e-15)


def test_sizes() -> None:
    assert parse_bytes("4MB") == 4_000_000
    assert parse_bytes("1MiB") == 1_048_576


@pytest.mark.parametrize("bad", ["1.5", "abc", "-3", "5Q", True, math.nan, math.inf, "", ".", "_", None, [1], "1 2"])
def test_bad_counts_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        parse_count(bad)


@pytest.mark.parametrize("bad", ["10 parsecs", "-1s", math.nan, False, "s"])
def test_bad_durations_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(bad)


@given(st.integers(min_value=0, max_value=10**15))
def test_a_count_survives_its_text(number: int) -> None:
    assert parse_count(str(number)) == parse_count(f"{number:_}") == parse_count(number) == number


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["K", "M", "B"]))
def test_units_scale_exactly(number: int, unit: str) -> None:
    assert parse_count(f"{number}{unit}") == number * {"K": 10**3, "M": 10**6, "B": 10**9}[unit]


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_count, parse_duration, parse_bytes):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0


def test_formats() -> None:
    assert [format_count(x) for x in (12, 500_000, 1_500_000, 1_100_048_384)] == ["12", "500K", "1.5M", "1.1B"]
    assert [format_duration(x) for x in (0.44, 12.3, 185, 7800)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 10 min"]
