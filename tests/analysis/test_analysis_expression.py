from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale.analysis.expression import compile_expression, expression_columns
from rayscale.errors import InputError

ROW = {"energy_j": 8.0, "tokens": 2.0, "train.lr": 0.5, "missing": None, "name": "x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("energy_j / tokens", 4.0),
        ("-energy_j + 2 * (tokens - 1)", -6.0),
        ("2 ** 3 ** 2", 512.0),
        ("log2(energy_j) + log(exp(1)) + log10(100)", 6.0),
        ("sqrt(abs(-energy_j * 2))", 4.0),
        ("min(energy_j, tokens, 5) + max(1, tokens)", 4.0),
        ("train.lr * 4", 2.0),
        ("missing + 1", None),
        ("name + 1", None),
        ("1 / (tokens - 2)", None),
        ("log(0 - tokens)", None),
        ("(0 - tokens) ** 0.5", None),
        ("10.0 ** 10 ** 10", None),
    ],
)
def test_arithmetic(text: str, value: float | None) -> None:
    assert compile_expression(text, ROW.keys())(ROW) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "energy_j.__class__",
        "(lambda: 1)()",
        "[1, 2]",
        "energy_j if tokens else 1",
        "tokens and 1",
        "energy_j // tokens",
        "tokens[0]",
        "'a' * 3",
        "True",
        "log(1, 2)",
        "min()",
        "min(*tokens)",
        "open(tokens)",
        "f'{tokens}'",
        "",
        "1 +",
        "x := 3",
        "(" * 400 + "1" + ")" * 400,
        "tokens +" * 300 + " 1",
        "-" * 1900 + "1",
        "1" + "+1" * 900,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        compile_expression(text, ROW.keys())


def test_unknown_column_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown column `energy`; did you mean `energy_j`"):
        compile_expression("energy / tokens", ROW.keys())


def test_columns_of_an_expression() -> None:
    assert expression_columns("log(energy_j) / train.lr + min(1, tokens)", ROW.keys()) == {
        "energy_j",
        "train.lr",
        "tokens",
    }


@given(st.text(alphabet="abc0123456789.+-*/() ,_[]'\"", max_size=40))
def test_any_text_gives_a_number_or_one_clear_error(text: str) -> None:
    try:
        value = compile_expression(text, ["a", "b"])({"a": 1.5, "b": -2.0})
    except InputError as error:
        problem: str | None = str(error)
    else:
        problem = None
        assert value is None or math.isfinite(value)
    assert problem is None or problem.startswith("expression")
