r"""LaTeX building blocks: escaped text, numbers in math mode, APA-style p values and booktabs tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rayscale.analysis.jsonable import Tree
from rayscale.analysis.levels import interval_name

_ESCAPES = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": r"$-$",
    "²": r"$^2$",
    "³": r"$^3$",
    "η": r"$\eta$",
    "ε": r"$\varepsilon$",
    "χ": r"$\chi$",
    "µ": r"$\mu$",
    "μ": r"$\mu$",
    "…": r"\dots{}",
    "“": "``",
    "”": "''",
    "–": "--",
    "—": "---",
    "\u00a0": "~",
    "\u202f": r"\,",
}
_LETTERS = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ")
"""Letters beyond ASCII that LaTeX sets in its default encoding; others need packages that this text does without."""


def escape(text: str) -> str:
    """Make text safe for LaTeX.

    Args:
        text: Any text.

    Returns:
        The text with all special characters escaped; letters that plain LaTeX lacks by their code, as `[U+4E2D]`.
    """
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char in {"\n", "\t"}:
        return " "
    if not char.isprintable():
        return ""
    return char if char.isascii() or char in _LETTERS else f"[U+{ord(char):04X}]"


def escape_pair(label: str, between: str = " -- ") -> str:
    """Write the name of a pair, such as `500K|1M`, with its levels escaped."""
    return between.join(escape(level) for level in label.split("|"))


def math_number(value: float | None, digits: int = 4) -> str:
    r"""Set a number in math mode.

    Args:
        value: The number; None is shown as a dash.
        digits: Significant digits.

    Returns:
        E.g. `$1.23$` or `$4.5 \times 10^{-7}$`.
    """
    if value is None:
        return "---"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$" if exponent else f"${mantissa}$"


def math_p(p: float | None, log10_p: float | None = None) -> str:
    """Set a p value in math mode.

    Args:
        p: The p value; None where it underflowed or is undefined.
        log10_p: Its decimal logarithm.

    Returns:
        E.g. `$0.043$`; from the logarithm where p underflowed; a dash where both are None.
    """
    if p is not None:
        return f"${p:.3f}$" if p >= 0.001 else math_number(p, 2)
    if log10_p is None:
        return "---"
    whole = math.floor(log10_p)
    return f"${10 ** (log10_p - whole):.1f} \\times 10^{{{whole}}}$"


def short_p(p: float | None, known: bool = True) -> str:
    """Set a p value for a crowded table: `$.043$`, `$<.001$`, a dash where the test is not defined.

    Args:
        p: The p value; None in a defined test means underflow.
        known: Whether the test is defined.

    Returns:
        The cell; the JSON and CSV output have all digits.
    """
    if not known:
        return "---"
    return "$<.001$" if p is None or p < 0.001 else f"${bare(p)}$"


def apa_p(p: float | None) -> str:
    """Write a p value as the APA manual asks, for use in math mode.

    Args:
        p: The p value of a defined test; None means underflow.

    Returns:
        `p = .043` or `p < .001`.
    """
    return "p < .001" if p is None or p < 0.001 else f"p = {bare(p)}"


def bare(share: float | None) -> str:
    """Write a number that cannot exceed one without its leading zero, for use in math mode."""
    if share is None:
        return r"\mathrm{n/a}"
    text = f"{share:.3f}"
    return text.removeprefix("0") if share >= 0 else f"-{text.removeprefix('-0')}"


def ci_header(alpha: float) -> str:
    r"""Name an interval by its confidence: `95\% CI`."""
    return f"{100 * (1 - alpha):g}\\% CI"


def math_interval(bounds: Tree, digits: int = 4) -> str:
    """Set an interval: `[$1$, $2$]`, or a dash."""
    if bounds.get("lo") is None or bounds.get("hi") is None:
        return "---"
    return f"[{math_number(bounds['lo'], digits)}, {math_number(bounds['hi'], digits)}]"


def common_power(values: Iterable[float | None]) -> int:
    """Choose the power of ten that the numbers of one unit share, so that a table's columns stay narrow.

    Args:
        values: The numbers; None is unknown.

    Returns:
        0 if the largest is between 0.01 and 100,000, else its power of ten.
    """
    largest = max((abs(value) for value in values if value), default=1.0)
    power = math.floor(math.log10(largest))
    return 0 if -2 <= power < 5 else power


def scaled(value: float | None, power: int) -> float | None:
    """Divide a number by a power of ten; None stays None."""
    return None if value is None else value / 10.0**power


def scaled_interval(bounds: Tree, power: int) -> Tree:
    """Divide an interval by a power of ten."""
    return {end: scaled(bounds.get(end), power) for end in ("lo", "hi")}


def in_powers(power: int) -> str:
    """Say in a caption that numbers are in units of a power of ten; empty for 0."""
    return f" Values in units of $10^{{{power}}}$." if power else ""


def share_interval(bounds: Tree | None, alpha: float) -> str:
    """Set the interval of a share for the end of a sentence; empty where it is unknown."""
    if not bounds or bounds.get("hi") is None:
        return ""
    return f", {ci_header(alpha)} $[{bare(bounds['lo'])}, {bare(bounds['hi'])}]$"


def interval_key(prefix: str, alpha: float) -> str:
    """Name the interval of a statistic in the tree: `partial_eta2_ci95`."""
    return f"{prefix}_{interval_name(alpha)}"


def table(caption: str, label: str, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Write a booktabs table.

    Args:
        caption: In LaTeX.
        label: Any text; it becomes `tab:...`.
        header: In LaTeX.
        rows: Cells in LaTeX, as many per row as there are heads.
        text_columns: How many columns from the left hold text; the others are set to the right.

    Returns:
        A `table` environment.
    """
    key = "".join(char if char.isascii() and char.isalnum() else "-" for char in label)
    columns = "l" * text_columns + "r" * (len(header) - text_columns)
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\small\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{key}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
