"""Every dotted name of the oracle files, against R, pingouin and exact arithmetic, within its tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from rayscale.analysis.run import AnalysisRequest, analyze_frame

CASES = ("pub01", "pub02", "pub03", "pub04", "pub05", "pub06", "pub07", "pub08")


def look_up(tree: Any, parts: list[str]) -> Iterator[Any]:
    """Walk a dotted name; a level label may itself contain dots."""
    if not parts:
        yield tree
    elif isinstance(tree, dict):
        for size in range(1, len(parts) + 1):
            key = ".".join(parts[:size])
            if key in tree:
                yield from look_up(tree[key], parts[size:])


def oracle_frame(document: dict[str, Any]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    data = document["data"]
    if "columns" in data:
        frame = pd.DataFrame(data["columns"])
        for name, order in document["level_order"].items():
            frame[name] = pd.Categorical(frame[name], order)
        return frame, tuple(document["factors"])
    factor = document["factor"]
    rows = [
        {"subject": subject, factor: level, "y": value}
        for subject, values in zip(data["subjects"], data["values"], strict=True)
        for level, value in zip(data["levels"], values, strict=True)
    ]
    return pd.DataFrame(rows), (factor,)


@pytest.mark.parametrize("case", CASES)
def test_meets_every_name(case: str, oracle: Callable[[str], dict[str, Any]]) -> None:
    document = oracle(case)
    frame, within = oracle_frame(document)
    tree = analyze_frame(frame, AnalysisRequest(("y",), within, "subject"))
    wrong, met = [], 0
    for name, expected in document["expected"].items():
        value = next(look_up(tree, name.split(".")), None)
        bound = expected["rtol"] * abs(expected["value"]) + expected["atol"]
        if value is None or abs(value - expected["value"]) > bound:
            wrong.append(f"{name}: {value!r}, expected {expected['value']!r}")
        else:
            met += 1
    print(f"{case}: {met} of {len(document['expected'])} names met")
    assert not wrong
    assert met == len(document["expected"]) > 30


def test_p_adjustment_table(oracle: Callable[[str], dict[str, Any]]) -> None:
    from rayscale.analysis.adjust import adjust

    cases = [case for case in next(v for v in oracle("pub09").values() if isinstance(v, list) and v) if "fn" in case]
    tables = [case for case in cases if case["fn"] == "p_adjust"]
    assert len(tables) == 6
    for case in tables:
        found = adjust(case["args"]["p"], case["args"]["method"].lower())
        assert found == pytest.approx(case["expect"]["p_adj"], rel=1e-9)
