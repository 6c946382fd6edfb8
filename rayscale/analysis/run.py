"""The way in: a table or a ledger's records, and what is asked of them, to the JSON tree of design 4.6."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayscale.analysis.adjust import ADJUSTMENTS
from rayscale.analysis.cells import AGGREGATES, Cells, lay_out, require_columns
from rayscale.analysis.details_models import explained
from rayscale.analysis.efficiency import METRICS, is_energy_column, mechanical_exponent
from rayscale.analysis.expression import expression_columns
from rayscale.analysis.jsonable import Tree, to_json
from rayscale.analysis.levels import level_label
from rayscale.analysis.log_tree import SCALES
from rayscale.analysis.mixed_parts import Extras, attach_parts
from rayscale.analysis.mixed_rows import ledger_rows, subjects_within_devices, table_rows
from rayscale.analysis.provenance import provenance
from rayscale.analysis.resampling import RESAMPLES
from rayscale.analysis.sentences import plain_sentences
from rayscale.analysis.shared import mark_dependence, shared_notes
from rayscale.analysis.table import ledger_frame
from rayscale.analysis.tree import build_tree, without_constant_factors
from rayscale.analysis.walk import nested_order
from rayscale.errors import InputError
from rayscale.record import Record
from rayscale.spec import RatioMargin, SweepSpec

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["AnalysisRequest", "analyze_frame", "analyze_records", "to_json"]


@dataclass(frozen=True)
class AnalysisRequest:
    """What to analyse.

    Attributes:
        dv: Columns of the measures.
        within: Columns of the within-subject factors.
        subject: Column of the subject.
        alpha: Significance level; intervals have confidence 1 - alpha.
        correction: Adjustment of pairwise p values that text leads with; the tree has all of them.
        aggregate: `mean` or `median` of several rows of one cell; None refuses such rows.
        device: Column of the device each row ran on; adds the mixed models with devices.
        order: Column that grows with time; adds the check of the run order and the drift model.
        scale: `raw` or `log`: which analysis is primary, declared beforehand; the other stands beside it.
        equivalence: Measure -> margin within which two levels count as equivalent.
        equivalence_ratio: Measure -> the same as a ratio > 1, tested on the log scale.
        resamples: Permutations and bootstrap resamples; 0 leaves them out.
    """

    dv: tuple[str, ...]
    within: tuple[str, ...] = ("tokens",)
    subject: str = "repetition"
    alpha: float = 0.05
    correction: str = "bonferroni"
    aggregate: str | None = None
    device: str | None = None
    order: str | None = None
    scale: str = "raw"
    equivalence: Mapping[str, float] = field(default_factory=dict)
    equivalence_ratio: Mapping[str, float] = field(default_factory=dict)
    resamples: int = 0

    def problems(self) -> list[str]:
        """List what cannot be meant, one line each."""
        found = [f"expected at least one {name}" for name in ("dv", "within") if not getattr(self, name)]
        if not 0 < self.alpha < 1:
            found.append(f"alpha {self.alpha}: expected a number between 0 and 1")
        if self.correction not in ADJUSTMENTS:
            found.append(f"unknown correction `{self.correction}`; expected one of {', '.join(ADJUSTMENTS)}")
        if self.scale not in SCALES:
            found.append(f"unknown scale `{self.scale}`; expected one of {', '.join(SCALES)}")
        if self.aggregate is not None and self.aggregate not in AGGREGATES:
            found.append(f"unknown aggregate `{self.aggregate}`; expected one of {', '.join(AGGREGATES)}")
        roles = [*self.within, self.subject, *(name for name in (self.device, self.order) if name is not None)]
        found += [f"column `{name}` has two roles" for name in dict.fromkeys(roles) if roles.count(name) > 1]
        found += [f"column `{name}` cannot be measure and factor at once" for name in self.dv if name in roles]
        return found


def analyze_frame(frame: DataFrame, request: AnalysisRequest) -> Tree:
    """Analyse a long table.

    Args:
        frame: One row per subject and condition.
        request: What to analyse.

    Returns:
        For one measure its tree; for several `{"results": {measure: tree}}`. Empty values count as missing cells:
        subjects that have all cells are used, the others named under `notes` and counted under `missing`.

    Raises:
        InputError: For unknown columns, infinite values or duplicate cells (naming subject and level), fewer than two
            subjects or levels in the table.
    """
    if request.problems():
        raise InputError(request.problems())
    optional = [name for name in (request.device, request.order) if name is not None]
    require_columns(frame, [*request.dv, *request.within, request.subject, *optional])
    note: str | None = None
    if request.device is not None and request.aggregate is None:
        frame, note = subjects_within_devices(frame, request.within, request.subject, request.device)
    trees = {}
    for dv in request.dv:
        cells = lay_out(frame, dv, request.within, request.subject, aggregate=request.aggregate)
        if len(cells.subjects) < 2:
            raise InputError(
                f"column `{request.subject}`: one subject; a repeated-measures analysis needs at least two"
            )
        if max(cells.shape) < 2:
            raise InputError(f"column `{', '.join(request.within)}`: one level; a comparison needs at least two")
        extras = _table_extras(frame, cells, dv, request)
        trees[dv] = _one_measure(cells, dv, request, _estimated(frame, dv, {}), extras, [note] if note else [])
    return next(iter(trees.values())) if len(trees) == 1 else {"results": trees}


def analyze_records(records: Iterable[Record], spec: SweepSpec, *, as_multi: bool = True) -> Tree:
    """Analyse the records of a sweep as its file declares.

    Args:
        records: The completed trials.
        spec: The sweep: measures, correction, alpha, exclusion rule, factors.
        as_multi: Always put the trees under `results.<measure>`; False merges a single one into the top.

    Returns:
        `sweep, n_trials, n_planned, excluded, energy_estimated, provenance, results`.

    Raises:
        InputError: For unknown measures or wrong user metrics.
    """
    records = list(records)
    kept = [record for record in records if record.quality.verdict not in spec.analysis.exclude]
    frame = ledger_frame(kept, spec.analysis.metrics, spec.report)
    request = _request(spec)
    _check_measures(frame, request.dv)
    planned = spec.design.repetitions
    for levels in spec.design.factors.values():
        planned *= len(levels)
    notes = _ledger_notes(records, kept, planned)
    results = {}
    for dv in request.dv:
        cells = lay_out(frame, dv, request.within, request.subject, known_levels=_known(spec), lenient=True)
        extras = Extras.of_ledger(ledger_rows(frame, cells, dv, request.subject))
        tree = _one_measure(cells, dv, request, _estimated(frame, dv, spec.analysis.metrics), extras, notes)
        results[dv] = mark_dependence(tree, kept, spec.analysis.metrics, [str(name) for name in frame.columns])
    head: Tree = {
        "sweep": spec.name,
        "n_trials": len(records),
        "n_planned": planned,
        "excluded": [_exclusion(record) for record in records if record.quality.verdict in spec.analysis.exclude],
        "energy_estimated": any(record.energy.estimated for record in kept),
        "provenance": provenance(kept, spec),
    }
    return head | (next(iter(results.values())) if not as_multi and len(results) == 1 else {"results": results})


def _table_extras(frame: DataFrame, cells: Cells, dv: str, request: AnalysisRequest) -> Extras:
    if request.device is None and request.order is None and request.aggregate is None:
        return Extras()
    rows = table_rows(frame, cells, dv, request.subject, request.device, request.order)
    return Extras(rows, request.device is not None, request.order is not None, request.aggregate)


def _one_measure(
    cells: Cells, dv: str, request: AnalysisRequest, estimated: bool, extras: Extras, notes: Sequence[str] = ()
) -> Tree:
    varying = without_constant_factors(cells)
    metric = METRICS.get(dv)
    tree: Tree = {
        "dv": dv,
        "unit": metric.unit if metric else None,
        "definition": metric.definition if metric else None,
        "within": list(varying.factors),
        "subject": request.subject,
        "levels": {name: list(labels) for name, labels in zip(varying.factors, varying.levels, strict=True)},
        "alpha": request.alpha,
        "correction": request.correction,
        "energy_estimated": estimated,
        "mechanical_exponent": mechanical_exponent(dv) if "tokens" in varying.factors else None,
    }
    margin, ratio = request.equivalence.get(dv), request.equivalence_ratio.get(dv)
    tree |= build_tree(
        varying, request.alpha, scale=request.scale, margin=margin, ratio=ratio, resamples=request.resamples
    )
    dropped = [name for name in cells.factors if name not in varying.factors]
    tree["notes"] = [*notes, *(f"{name} has one level and is left out" for name in dropped), *tree["notes"]]
    if request.aggregate is not None:
        tree["cells"] = {
            "n_obs": cells.n_obs,
            "n_duplicate_rows": cells.n_duplicate_rows,
            "aggregate": request.aggregate,
        }
        tree["notes"].append(
            f"{cells.n_duplicate_rows} further rows of the same cells were joined by {request.aggregate}"
        )
    tree["plain"] = []
    attach_parts(tree, varying, extras, request.alpha)
    # What the order of runs, devices and missing cells mean is known now: its warning goes before the findings.
    others, loud = tree["plain"], int(nested_order(tree))
    tree["plain"] = [*others[:loud], *plain_sentences(tree), *others[loud:]]
    tree["explained"] = explained(tree)
    return tree


def _request(spec: SweepSpec) -> AnalysisRequest:
    varied = tuple(name for name, levels in spec.design.factors.items() if len(levels) > 1)
    return AnalysisRequest(
        dv=tuple(dict.fromkeys(spec.analysis.dv)),
        within=varied or ("tokens",),
        alpha=spec.analysis.alpha,
        correction=spec.analysis.correction,
        scale=spec.analysis.scale,
        equivalence={dv: m for dv, m in spec.analysis.equivalence.items() if not isinstance(m, RatioMargin)},
        equivalence_ratio={dv: m.ratio for dv, m in spec.analysis.equivalence.items() if isinstance(m, RatioMargin)},
        resamples=RESAMPLES,
    )


def _known(spec: SweepSpec) -> dict[str, list[str]]:
    return {name: [level_label(level) for level in levels] for name, levels in spec.design.factors.items()}


def _check_measures(frame: DataFrame, measures: Sequence[str]) -> None:
    columns = [str(name) for name in frame.columns]
    problems = []
    for name in measures:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
            problems.append(f"analysis.dv: unknown measure `{name}`; did you mean `{near[0]}`?")
    if problems:
        raise InputError(problems)


def _estimated(frame: DataFrame, dv: str, metrics: Mapping[str, str]) -> bool:
    """Whether the measure rests on energy that was estimated, not measured, in any row."""
    if "energy_estimated" not in frame.columns or not bool(frame["energy_estimated"].isin([True]).any()):
        return False
    return _uses_energy(dv, metrics, [str(name) for name in frame.columns])


def _uses_energy(name: str, metrics: Mapping[str, str], columns: Sequence[str]) -> bool:
    if name not in metrics:
        return is_energy_column(name)
    # A user metric may use earlier user metrics only, so this ends.
    earlier = dict(list(metrics.items())[: list(metrics).index(name)])
    return any(_uses_energy(part, earlier, columns) for part in expression_columns(metrics[name], columns))


def _ledger_notes(records: Sequence[Record], kept: Sequence[Record], planned: int) -> list[str]:
    notes = []
    if len(records) < planned:
        notes.append(f"the sweep is not finished: {len(records)} of {planned} planned trials have a record")
    if len(kept) < len(records):
        rejected = [record for record in records if record not in kept]
        names = ", ".join(f"{record.trial_key} ({record.quality.verdict})" for record in rejected[:10])
        more = " ..." if len(rejected) > 10 else ""
        notes.append(f"{len(rejected)} of {len(records)} trials are excluded by the declared rule: {names}{more}")
    return notes + shared_notes(kept)


def _exclusion(record: Record) -> dict[str, Any]:
    return {
        "trial_key": record.trial_key,
        "condition": dict(record.condition),
        "repetition": record.repetition,
        "verdict": record.quality.verdict,
        "reasons": [reason.code for reason in record.quality.reasons],
    }
