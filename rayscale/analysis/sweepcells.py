"""From a sweep's records to the cells of one measure, as its file declares factors, metrics and exclusions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rayscale.analysis.cells import Cells, lay_out, require_columns
from rayscale.analysis.levels import level_label
from rayscale.analysis.table import ledger_frame
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import SweepSpec


def varied_factors(spec: SweepSpec) -> dict[str, list[str]]:
    """List the factors with several levels and their labels.

    Args:
        spec: The sweep.

    Returns:
        Factor -> labels.

    Raises:
        InputError: If nothing is varied.
    """
    varied = {
        name: [level_label(level) for level in levels]
        for name, levels in spec.design.factors.items()
        if len(levels) > 1
    }
    if not varied:
        raise InputError(f"{spec.name}: one condition; there is nothing to compare")
    return varied


def main_factor(factors: Iterable[str]) -> str:
    """Choose the factor that planning and stopping are about: `tokens`, else the first.

    Args:
        factors: At least one name.

    Returns:
        The name.
    """
    names = list(factors)
    return "tokens" if "tokens" in names else names[0]


def resolve_effect(sizes: Mapping[str, int], named: str | None) -> tuple[str, int]:
    """Name an effect as the analysis of variance does.

    Args:
        sizes: Factors with several levels -> their number, in the order of the design.
        named: A factor, or an interaction `a:b` in any order; None takes the main factor.

    Returns:
        The effect and its df1.

    Raises:
        InputError: If there is no such effect.
    """
    wanted = (named or main_factor(sizes)).split(":")
    if not set(wanted) <= set(sizes) or len(set(wanted)) < len(wanted):
        raise InputError(f"effect `{named}`: expected one of {', '.join(sizes)}, or several joined by `:`")
    factors = [name for name in sizes if name in wanted]
    return ":".join(factors), math.prod(sizes[name] - 1 for name in factors)


def sweep_cells(records: Iterable[Record], spec: SweepSpec, dv: str) -> Cells:
    """Lay out one measure of a sweep.

    Args:
        records: Completed trials, possibly none; those with an excluded verdict are left out.
        spec: The sweep.
        dv: The measure.

    Returns:
        Repetitions x conditions; a repetition is complete if all its conditions have a finite value.

    Raises:
        InputError: If the measure is unknown or nothing is varied.
    """
    kept = [record for record in records if record.quality.verdict not in spec.analysis.exclude]
    frame = ledger_frame(kept, spec.analysis.metrics, spec.report)
    require_columns(frame, [dv])
    varied = varied_factors(spec)
    return lay_out(frame, dv, list(varied), "repetition", known_levels=varied, lenient=True)
