"""The LaTeX: sound in structure whatever the names are, and accepted by a real LaTeX where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.latex import to_latex
from rayscale.analysis.latex_parts import apa_p, bare, common_power, escape, math_number, math_p, short_p
from rayscale.analysis.run import AnalysisRequest, analyze_frame

HOSTILE = r"""50%_of $x^2 & {#1} \input{y} ~<|> "µ·≥ 中 ÀÿßÐþŉł±−…"""


def tree_of(dv: str, factors: dict[str, list[str]], **options: Any) -> dict[str, Any]:
    grid = pd.MultiIndex.from_product([range(8), *factors.values()], names=["rep", *factors]).to_frame(index=False)
    rng = np.random.default_rng(1)
    grid[dv] = np.exp(rng.normal(size=len(grid)) * 0.2)
    grid["order"], grid["gpu"] = rng.permutation(len(grid)), grid["rep"] % 3
    request = AnalysisRequest((dv,), tuple(factors), "rep", device="gpu", order="order", resamples=99, **options)
    return analyze_frame(grid, request)


def assert_sound(text: str) -> None:
    """Environments nest, braces balance, math is closed on its line, and rows have as many cells as columns."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare_text = body.replace(r"\{", "").replace(r"\}", "")
    assert bare_text.count("{") == bare_text.count("}")
    for line in body.splitlines():
        plain = re.sub(r"\\[$%&#_]", "", line)
        assert plain.count("$") % 2 == 0, line
        outside = re.sub(r"\$[^$]*\$", "", plain)
        assert not re.search(r"[_^#]", outside), line
        assert not re.search(r"[^\x00-\u00ff]", line), line
    for columns, rows in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        cells = [re.sub(r"\\&", "", line).count("&") + 1 for line in rows.splitlines() if line.endswith(r"\\")]
        assert len(cells) >= 2
        assert set(cells) == {len(columns)}


CASES: dict[str, dict[str, Any]] = {
    "one factor": {"dv": "y", "factors": {"tokens": ["500K", "1M", "2M"]}, "equivalence": {"y": 0.4}},
    "two factors, log scale": {"dv": "y", "factors": {"a_1": ["x", "y"], "tokens": ["1K", "2K", "4K"]}, "scale": "log"},
    "hostile names": {"dv": HOSTILE, "factors": {f"f {HOSTILE}": ["a&b", "{c", "d\\"]}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_latex_is_sound_in_structure(case: str) -> None:
    text = to_latex(tree_of(**CASES[case]))
    assert_sound(text)
    assert text.count(r"\begin{table}") >= 5
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{table}")


@pytest.mark.parametrize("case", CASES)
def test_every_table_is_followed_by_a_sentence(case: str) -> None:
    for after in to_latex(tree_of(**CASES[case])).split(r"\end{table}")[1:]:
        assert re.match(r"\n[^\\\n].*\.\n", after), after[:80]


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex on this machine; the structure is checked above"
)
@pytest.mark.parametrize("case", CASES)
def test_a_real_latex_compiles_it(case: str, tmp_path: Path) -> None:
    body = to_latex(tree_of(**CASES[case]))
    source = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "t.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_escaped_to_balanced_latex(text: str) -> None:
    assert_sound(escape(text).replace("\n", " ") + "\n")


def test_numbers_of_the_sentences() -> None:
    assert apa_p(None) == apa_p(0.0004) == "p < .001"
    assert apa_p(0.0432) == "p = .043"
    assert bare(-0.25) == "-.250"
    assert bare(None) == r"\mathrm{n/a}"
    assert short_p(0.5, known=False) == "---"
    assert short_p(None) == "$<.001$"
    assert [common_power(values) for values in ([3e-7, None], [12.0, 0.0], [4e8], [], [0.02])] == [-7, 0, 8, 0, 0]
    assert math_number(-2.5e-12, 3) == r"$-2.5 \times 10^{-12}$"
    assert math_p(1e-9) == r"$1 \times 10^{-9}$"
