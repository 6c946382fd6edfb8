from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.report.cells import assemble, number_column, text_column
from rayscale.report.numerals import NA, Scale, as_number, exact, number, p_exact, p_phrase, p_value, whole

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200, max_value=1e200)


def parse(text: str) -> float:
    """Read back what `number` wrote."""
    plain = text.replace("\u202f", "").replace("−", "-")
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    mantissa, _, power = plain.partition(" × 10")
    return float(f"{mantissa}e{power.translate(superscripts) or 0}")


@given(finite.filter(lambda value: value == 0 or abs(value) > 1e-200))
def test_a_number_reads_back_to_four_digits(value: float) -> None:
    assert parse(number(value)) == pytest.approx(value, rel=5.0001e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (14.8267, "14.83"),
        (9.99996, "10.00"),
        (-0.00215, "−0.002150"),
        (0.0, "0"),
        (1234567.0, "1\u202f234\u202f567"),
        (1.2344e-6, "1.234 × 10⁻⁶"),
        (None, NA),
        (math.nan, NA),
        (math.inf, NA),
        (True, NA),
        ("x", NA),
    ],
)
def test_numbers_in_print(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("p", "logarithm", "text", "full"),
    [
        (0.0423, None, "p = .042", "p = 0.0423"),
        (0.00049, None, "p < .001", "p = 0.00049"),
        (0.0005, None, "p = .001", "p = 0.0005"),  # .0005 rounds to .001, so `< .001` would be false
        (0.99999, None, "p > .999", "p = 1"),
        (0.0, -412.25, "p < .001", "log10 p = -412.2500"),
        (None, -412.25, "p < .001", "log10 p = -412.2500"),
        (None, None, "p = n/a", ""),
    ],
)
def test_p_values(p: float | None, logarithm: float | None, text: str, full: str) -> None:
    assert p_phrase(p, logarithm) == text
    assert p_exact(p, logarithm) == full


@given(st.floats(min_value=0, max_value=1))
def test_a_printed_p_never_contradicts_the_p(p: float) -> None:
    text = p_value(p)
    if text.startswith("<"):
        assert p < 0.001
    elif text.startswith(">"):
        assert p > 0.999
    else:
        assert float(text) == pytest.approx(p, abs=0.00051)


@given(st.lists(st.one_of(st.none(), finite.filter(lambda v: v == 0 or abs(v) > 1e-100)), max_size=12))
def test_a_column_is_written_on_one_scale(values: list[float | None]) -> None:
    scale = Scale.fitting(values)
    texts = [scale.write(value) for value in values]
    decimals = {len(text.partition(".")[2]) for text in texts if text != NA}
    assert len(decimals) <= 1
    largest = max((abs(value) for value in values if value), default=0.0)
    for value, text in zip(values, texts, strict=True):
        if value is None:
            assert text == NA
        else:
            back = parse(text) * 10.0**scale.power
            assert back == pytest.approx(value, abs=max(5.1e-4 * largest, 1e-300))


def test_whole_columns_have_no_decimals() -> None:
    head, cells = number_column("n", [5, 5, 12])
    assert (head, [cell.text for cell in cells]) == ("n", ["5", "5", "12"])
    assert whole(8.0) == "8"
    assert whole(7.31) == "7.310"


def test_the_tooltip_holds_all_digits_and_nothing_for_what_is_missing() -> None:
    _, (known, missing) = number_column("x", [0.1 + 0.2, None])
    assert known.title == exact(0.1 + 0.2) == "0.3"
    assert (missing.text, missing.title) == (NA, "")


def test_a_table_knows_its_numeral_columns() -> None:
    table = assemble("t", "c", [text_column("name", ["a"]), number_column("x", [1.5])])
    assert [table.is_number(0), table.is_number(1)] == [False, True]


def test_as_number_takes_numpy_and_refuses_what_is_not_finite() -> None:
    import numpy as np

    assert as_number(np.float64(2.5)) == 2.5
    assert as_number(np.nan) is None
