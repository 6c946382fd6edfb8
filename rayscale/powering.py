"""What `rayscale power` does: planning numbers from stated values, a sweep file or a pilot ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rayscale.analysis.cells import Cells
from rayscale.analysis.power import (
    CAUTIOUS,
    Design,
    Pilot,
    effect_from_variances,
    pilot_effect,
    repetitions_for,
    rm_power,
    smallest_difference,
    smallest_effect,
)
from rayscale.analysis.sweepcells import resolve_effect, sweep_cells, varied_factors
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.spec import SweepSpec


@dataclass(frozen=True)
class PowerRequest:
    """What the user states; None is left open.

    Attributes:
        f: Cohen's f.
        means: Expected mean of each condition, instead of f.
        sd_subject: Sd of what a repetition's trials share; with `means`.
        sd_error: Sd of the rest; with `means`.
        levels: Number of conditions.
        rho: Correlation within a repetition.
        epsilon: Departure from sphericity.
        alpha: Significance level.
        power: Wanted power.
        n: Repetitions.
        dv: Measure of the pilot; None takes the sweep's first.
        from_ledger: Insist on a pilot.
        effect: The factor or interaction of a sweep to plan for; None takes `tokens`, or else the first factor.
    """

    f: float | None = None
    means: tuple[float, ...] = ()
    sd_subject: float = 0.0
    sd_error: float | None = None
    levels: int | None = None
    rho: float | None = None
    epsilon: float | None = None
    alpha: float = 0.05
    power: float = 0.8
    n: int | None = None
    dv: str | None = None
    from_ledger: bool = False
    effect: str | None = None


def power_document(
    request: PowerRequest, spec: SweepSpec | None = None, ledger: Ledger | None = None
) -> dict[str, Any]:
    """Plan a study as far as what is known allows.

    Args:
        request: What the user states; it goes before what a pilot says.
        spec: The sweep whose levels and repetitions are planned.
        ledger: Where finished trials serve as a pilot, if there are any and no effect is stated.

    Returns:
        `design, effect, power_at_n, n_for_power, smallest_effect, pilot, notes`; null where something is missing. With
        a pilot of several factors `effects`: the same for each main effect and interaction.

    Raises:
        InputError: For impossible values, or if nothing to plan from is given.
    """
    described = spec or (ledger.read_plan().spec if ledger and ledger.storage.read("plan.json") is not None else None)
    stated_f, stated_rho = _stated(request, _others(request, described))
    pilot = _pilot(request, spec, ledger) if stated_f is None else None
    design = _design(request, described, pilot, stated_rho)
    f = stated_f if stated_f is not None else pilot.f if pilot else None
    n = request.n if request.n is not None else spec.design.repetitions if spec else None
    notes = _notes(request, pilot, stated_rho)
    name = _resolved(request, described)[0] if described else pilot.factor if pilot else None
    if f is None and n is None:
        raise InputError("nothing to plan from: expected --f, --means, --n, a sweep file or a ledger with records")
    sd_error = _sd_error(request, _others(request, described), pilot)
    return {
        "design": {
            "levels": design.levels,
            "rho": design.rho,
            "epsilon": design.epsilon,
            "alpha": design.alpha,
            "effect_df": design.df1,
        },
        "effect": {"name": name, "f": f, "source": "stated" if stated_f is not None else "pilot" if pilot else None},
        "power_at_n": {"n": n, "power": rm_power(f, n, design) if f is not None and n is not None else None},
        "n_for_power": {"power": request.power, "n": repetitions_for(f, request.power, design) if f else None},
        "smallest_effect": {
            "n": n,
            "power": request.power,
            "f": smallest_effect(n, request.power, design) if n is not None else None,
            "difference": _difference(n, request.power, design, sd_error),
        },
        **({"effects": effects} if (effects := _effects(request, spec, ledger, pilot, n)) else {}),
        "pilot": _pilot_tree(pilot, request.power, design) if pilot else None,
        "notes": notes,
    }


def _resolved(request: PowerRequest, spec: SweepSpec) -> tuple[str, int]:
    """Name the effect to plan for, with its df1."""
    return resolve_effect({name: len(levels) for name, levels in varied_factors(spec).items()}, request.effect)


def _others(request: PowerRequest, spec: SweepSpec | None) -> int:
    """Count the cells that one level's mean is taken over."""
    if spec is None:
        if request.effect is not None:
            raise InputError(f"--effect {request.effect}: expected a sweep file or ledger that has it")
        return 1
    name = _resolved(request, spec)[0]
    if ":" in name and request.means:
        raise InputError(f"--means: expected --f for the interaction {name}; its means are no list of levels")
    return math.prod(len(levels) for factor, levels in varied_factors(spec).items() if factor not in name.split(":"))


def _sd_error(request: PowerRequest, others: int, pilot: Pilot | None) -> float | None:
    """Sd within repetitions of one level's mean."""
    if request.sd_error is not None:
        return request.sd_error / math.sqrt(others)
    return pilot.sd_error if pilot else None


def _difference(n: int | None, power: float, design: Design, sd_error: float | None) -> float | None:
    """Smallest difference of two levels that n repetitions detect, in units of the measure."""
    if n is None or sd_error is None:
        return None
    return smallest_difference(smallest_effect(n, power, design), design, sd_error)


def _effects(
    request: PowerRequest, spec: SweepSpec | None, ledger: Ledger | None, pilot: Pilot | None, n: int | None
) -> dict[str, Any]:
    """Plan for every effect of a pilot with several factors."""
    if pilot is None or ledger is None:
        return {}
    cells = _pilot_cells(request, ledger)[0]
    if len(cells.factors) == 1:
        return {}
    names = [
        ":".join(names) for size in range(1, len(cells.factors) + 1) for names in combinations(cells.factors, size)
    ]
    return {name: _one_effect(pilot_effect(cells, pilot.dv, request.alpha, name), request.power, n) for name in names}


def _one_effect(pilot: Pilot, power: float, n: int | None) -> dict[str, Any]:
    design = pilot.design
    return {
        "effect_df": design.df1,
        "F": pilot.F,
        "f": pilot.f,
        "f_cautious": pilot.f_cautious,
        "power_at_n": rm_power(pilot.f, n, design) if n is not None else None,
        "n_for_power": repetitions_for(pilot.f, power, design) if pilot.f > 0 else None,
        "smallest_f": smallest_effect(n, power, design) if n is not None else None,
        "smallest_difference": _difference(n, power, design, pilot.sd_error),
    }


def _stated(request: PowerRequest, others: int) -> tuple[float | None, float | None]:
    """Give f and rho as the user stated them; a level's mean over other factors has the less error."""
    if request.means and request.f is not None:
        raise InputError("--f and --means: expected one of them")
    if not request.means:
        return request.f, request.rho
    if request.sd_error is None:
        raise InputError("--means needs --sd-error (and --sd-subject, where repetitions share something)")
    if request.rho is not None:
        raise InputError("--rho: with --means it follows from --sd-subject and --sd-error")
    return effect_from_variances(request.means, request.sd_subject, request.sd_error / math.sqrt(others))


def _design(request: PowerRequest, spec: SweepSpec | None, pilot: Pilot | None, rho: float | None) -> Design:
    found = pilot.design if pilot else None
    levels = request.levels or (len(request.means) or None) or (found.levels if found else None)
    if levels is None and spec is not None:
        levels = _resolved(request, spec)[1] + 1
    if levels is None:
        raise InputError("--levels K: expected the number of conditions")
    if request.means and levels != len(request.means):
        raise InputError(f"--levels {levels}: {len(request.means)} means are given")
    same = found is not None and levels == found.levels
    epsilon = request.epsilon if request.epsilon is not None else found.epsilon if found and same else 1.0
    return Design(levels, rho if rho is not None else found.rho if found else 0.5, epsilon, request.alpha)


def _pilot(request: PowerRequest, spec: SweepSpec | None, ledger: Ledger | None) -> Pilot | None:
    """Read the pilot; None if there is none and none is insisted on."""
    records = ledger.records() if ledger and ledger.storage.read("plan.json") is not None else []
    if not ledger or not records:
        if request.from_ledger:
            where = ledger.root if ledger else "no sweep or ledger given"
            raise InputError(f"{where}: --from-ledger needs finished trials")
        return None
    try:
        cells, dv = _pilot_cells(request, ledger)
        return pilot_effect(cells, dv, request.alpha, request.effect)
    except InputError:
        if request.from_ledger or spec is None:
            raise
        return None  # a sweep that has only just begun is planned from its file


def _pilot_cells(request: PowerRequest, ledger: Ledger) -> tuple[Cells, str]:
    stored = ledger.read_plan().spec
    dv = request.dv or stored.analysis.dv[0]
    return sweep_cells(ledger.records(), stored, dv), dv


def _pilot_tree(pilot: Pilot, power: float, design: Design) -> dict[str, Any]:
    return {
        "dv": pilot.dv,
        "factor": pilot.factor,
        "n": pilot.n,
        "mean": pilot.mean,
        "F": pilot.F,
        "ms_effect": pilot.ms_effect,
        "ms_error": pilot.ms_error,
        "icc": pilot.design.rho,
        "eps_GG": pilot.design.epsilon,
        "f": pilot.f,
        "f_cautious": pilot.f_cautious,
        "n_for_power_cautious": repetitions_for(pilot.f_cautious, power, design) if pilot.f_cautious > 0 else None,
    }


def _notes(request: PowerRequest, pilot: Pilot | None, rho: float | None) -> list[str]:
    notes = []
    if pilot is None and rho is None:
        notes.append("rho is not stated: 0.5 is assumed; if repetitions share nothing real it is 0 and more are needed")
    if pilot is None and request.epsilon is None:
        notes.append("epsilon is not stated: sphericity (1) is assumed")
    if pilot and pilot.f == 0:
        notes.append("the pilot shows no more effect than noise makes (F below 1): no number of repetitions follows")
    if pilot:
        notes.append(
            f"the effect comes from a pilot of {pilot.n} repetitions; the cautious value is the one that the true "
            f"effect exceeds with confidence {CAUTIOUS:.0%}"
        )
    return notes


def render_power(document: dict[str, Any]) -> str:
    """Write the document as text.

    Args:
        document: From `power_document`.

    Returns:
        One line per answer.
    """
    design, f = document["design"], document["effect"]["f"]
    lines = [
        f"{design['levels']} levels, rho {design['rho']:.3g}, epsilon {design['epsilon']:.3g}, "
        f"alpha {design['alpha']:g}"
        + (f", effect f = {f:.4g} ({document['effect']['source']})" if f is not None else "")
    ]
    pilot = document["pilot"]
    if pilot:
        lines.append(
            f"pilot: {pilot['dv']} over {pilot['factor']}, {pilot['n']} repetitions, F = {pilot['F']:.5g}, "
            f"MS {pilot['ms_effect']:.4g} / {pilot['ms_error']:.4g}, cautious f = {pilot['f_cautious']:.4g}"
        )
    lines += [*_answers(document), *(f"note: {note}" for note in document["notes"])]
    return "\n".join(lines)


def _answers(document: dict[str, Any]) -> list[str]:
    at, wanted, least = document["power_at_n"], document["n_for_power"], document["smallest_effect"]
    pilot, lines = document["pilot"], []
    if at["power"] is not None:
        lines.append(f"power with {at['n']} repetitions: {at['power']:.4f}")
    if wanted["n"] is not None:
        lines.append(f"repetitions for power {wanted['power']:g}: {wanted['n']}")
    elif document["effect"]["f"] is not None:
        lines.append(f"repetitions for power {wanted['power']:g}: out of reach")
    if pilot and pilot["n_for_power_cautious"] is not None:
        lines.append(
            f"repetitions for power {wanted['power']:g} at the cautious effect: {pilot['n_for_power_cautious']}"
        )
    if least["f"] is not None:
        lines.append(
            f"smallest effect with {least['n']} repetitions and power {least['power']:g}: f = {least['f']:.4g}"
        )
    if least["difference"] is not None:
        mean = pilot["mean"] if pilot else None
        share = f" ({100 * least['difference'] / abs(mean):.3g}% of the mean)" if mean else ""
        lines.append(
            f"that is a difference of {least['difference']:.4g} between two levels{share}, the others halfway between"
        )
    return lines + [_effect_line(name, row) for name, row in document.get("effects", {}).items()]


def _effect_line(name: str, row: dict[str, Any]) -> str:
    power = "" if row["power_at_n"] is None else f", power now {row['power_at_n']:.3f}"
    least = "" if row["smallest_f"] is None else f", smallest f {row['smallest_f']:.3g}"
    wanted = "no number of repetitions follows" if row["n_for_power"] is None else f"{row['n_for_power']} repetitions"
    return f"{name} (df1 {row['effect_df']}): F = {row['F']:.4g}, f = {row['f']:.4g}{power}, {wanted}{least}"


def parse_numbers(text: str | None, option: str) -> tuple[float, ...]:
    """Read a comma-separated list of numbers from the command line.

    Args:
        text: E.g. `1.2,1.3,1.35`; None is an empty list.
        option: Its option, for the message.

    Returns:
        The numbers.

    Raises:
        InputError: If a part is no number.
    """
    try:
        return tuple(float(part) for part in _parts(text))
    except ValueError:
        raise InputError(f"{option} {text}: expected numbers separated by commas") from None


def _parts(text: str | None) -> Sequence[str]:
    return text.split(",") if text else ()
