"""A matplotlib figure as SVG inside an HTML page: scalable, themeable, deterministic, named for screen readers."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from rayscale.report.plotting import INK, LEVELS, MUTED, PAPER, RULE, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"c{index}" for index, colour in enumerate(LEVELS)
}
_FONT = re.compile(r"(font-family: |font: (?:[a-z]+ |\d{3} )*[\d.]+px )[^;\"]+")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"(?:url\(#|xlink:href=\"#)([^)\"]+)")
_ID = re.compile(r' id="([^"]+)"')
_DECIMALS = re.compile(r"(\d+\.\d{2})\d+")
_PATH = re.compile(r' d="[^"]*"')
_TAG = re.compile(r"<[^>]+>")


def figure_svg(figure: Figure, slug: str, alt: str) -> str:
    """Draw a figure as an `<svg>` element for inline use.

    Args:
        figure: The figure, made within `plotting.style`.
        slug: Name that makes the element's ids unique on the page.
        alt: What the figure shows, for who cannot see it.

    Returns:
        The element. Colours of the palette are CSS variables, text is in the page's font, and equal figures give
        equal bytes.
    """
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Only markup is rewritten; what stands between tags are labels, and those may contain anything.
    used = {name for tag in _TAG.findall(text) for name in _REFERENCE.findall(tag)}
    text = _TAG.sub(lambda match: _tag(match.group(), slug, used), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    view = re.search(r'viewBox="[^"]+"', text)
    head = f'<svg {view.group() if view else ""} role="img" aria-label="{escape(alt)}"'
    return re.sub(r"^<svg[^>]*>", lambda _: f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">', text).strip()


def _tag(tag: str, slug: str, used: set[str]) -> str:
    """Rewrite one tag: palette colours to variables, the page's font, two decimals in paths, ids unique on the page."""
    tag = _COLOUR.sub(lambda match: _variable(match.group()), tag)
    tag = _FONT.sub(r"\1var(--sans, sans-serif)", tag)
    tag = _PATH.sub(lambda match: _DECIMALS.sub(r"\1", match.group()), tag)
    tag = _ID.sub(lambda match: f' id="{slug}-{match[1]}"' if match[1] in used else "", tag)
    return _REFERENCE.sub(lambda match: f"{match.group()[: -len(match[1])]}{slug}-{match[1]}", tag)


def _variable(colour: str) -> str:
    name = _VARIABLES.get(colour)
    return f"var(--{name}, {colour})" if name else colour
