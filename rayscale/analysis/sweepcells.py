"""From a sweep's records to the cells of one measure, as its file declares factors, metrics and exclusions."""

from __future__ import annotations

from collections.abc import Iterable

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
