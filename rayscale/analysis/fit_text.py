"""A fitted scaling law as text."""

from __future__ import annotations

from typing import Any

from rayscale.analysis.forecast_tree import visible_floor


def render_fit(document: dict[str, Any]) -> str:
    """Write a fit as text.

    Args:
        document: From `fit_frame`.

    Returns:
        Text.
    """
    terms = [
        f" + {coefficient}/{size}^{exponent}"
        for coefficient, size, exponent in (("A", "N", "alpha"), ("B", "D", "beta"))
        if document[coefficient] is not None
    ]
    lines = [f"L = E{''.join(terms)}, Huber loss on ln L; {document['n_points']} points, {document['n_runs']} runs", ""]
    for name in ("E", "A", "alpha", "B", "beta"):
        if document[name] is not None:
            profile = (document["profile95"] or {}).get(name)
            lines.append(
                f"{name:>6} {_shown(name, document[name]):>12.6g}   95% CI {_ends(name, document['ci95'][name])} "
                "(bootstrap by run)" + ("" if profile is None else f", {_ends(name, profile)} (profile)")
            )
    starts = document["starts"]
    lines.append("")
    lines.append(
        f"objective {document['objective']:.9g}; {starts['reached_best']} of {starts['tried']} starts reached it"
    )
    if document["held_out"]:
        held = document["held_out"]
        lines.append(
            f"the {held['n']} rows with the most compute, left out: rms error of ln L {held['rms_log_error']:.3g}"
        )
    if document["optimum"]:
        lines += _optimum_lines(document["optimum"])
    if document["energy_optimum"]:
        lines += _energy_lines(document["energy_optimum"])
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])])


def _shown(name: str, value: float) -> float:
    return visible_floor(value) if name == "E" else value


def _ends(name: str, ends: list[float | None]) -> str:
    low, high = ("open" if end is None else f"{_shown(name, end):.5g}" for end in ends)
    return f"{low} to {high}"


def _energy_lines(found: dict[str, Any]) -> list[str]:
    batch = "" if found["batch"] is None else f" at batch {found['batch']:g}"
    return [
        f"J per FLOP goes as N^{found['size_exponent']:.3f}{batch} (rms error of its logarithm "
        f"{found['rms_log_error']:.2g})",
        f"at {found['joules']:.3g} J: N = {found['params']:.4g}, D = {found['tokens']:.4g}, L = {found['loss']:.4g}, "
        f"{found['flops']:.3g} FLOP",
    ]


def _optimum_lines(optimum: dict[str, Any]) -> list[str]:
    interval = " to ".join("open" if end is None else f"{end:.3f}" for end in optimum["ci95"]["params_exponent"])
    text = f"compute-optimal N grows as C^{optimum['params_exponent']:.3f} ({interval})"
    lines = [f"{text}; L - E falls as C^-{optimum['kappa']:.4f}"]
    if optimum["flops"]:
        lines.append(
            f"at {optimum['flops']:.3g} FLOP: N = {optimum['params']:.4g}, D = {optimum['tokens']:.4g}, "
            f"L = {optimum['loss']:.4g}"
        )
    return lines
