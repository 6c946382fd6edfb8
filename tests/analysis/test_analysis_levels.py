from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.levels import interval_name, level_label, level_values, order_levels


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (500000, "500000"),
        (500000.0, "500000"),
        (0.5, "0.5"),
        (1.0, "1"),
        (np.int64(3), "3"),
        (np.float64(2.5e-5), "2.5e-05"),
        (True, "true"),
        ("500K", "500K"),
    ],
)
def test_labels_are_in_shortest_form(value: Any, label: str) -> None:
    assert level_label(value) == label


@pytest.mark.parametrize(
    ("labels", "ordered"),
    [
        (["1M", "2M", "500K"], ["500K", "1M", "2M"]),
        (["10", "9", "8.5"], ["8.5", "9", "10"]),
        (["1s", "100ms"], ["100ms", "1s"]),
        (["pre", "post", "fup"], ["pre", "post", "fup"]),
        (["2", "nan", "1"], ["2", "nan", "1"]),
    ],
)
def test_order_is_by_value_and_names_keep_theirs(labels: list[str], ordered: list[str]) -> None:
    assert order_levels(labels) == ordered


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True))
def test_labels_give_their_numbers_back(numbers: list[float]) -> None:
    assert level_values([level_label(number) for number in numbers]) == numbers


def test_interval_names_state_the_confidence() -> None:
    assert interval_name(0.05) == "ci95"
    assert interval_name(0.01) == "ci99"
    assert interval_name(0.025) == "ci97.5"
