"""One look of a group-sequential sweep: is the question answered, and what does the whole sequence of looks say?

The test of a look is the repeated-measures F with Greenhouse-Geisser p on all complete blocks; `sequential` says how
small that p must be. A look may also end the sweep because the widest interval of a difference is narrow enough; that
choice depends on the residual variance alone, which under normality is independent of the means, so it costs no alpha.

A boundary of `sequential` holds for a Brownian motion; `sequential_size` makes it smaller for what few blocks add.
Simulated type-I error at alpha 0.05, looks at 10, 20, ... 50 blocks, 20,000 null sweeps, is then within Monte-Carlo
error of 0.05 or below, with equal variances and with sd of the levels as 1 : 2 : 4 or 1 : 1 : 4 (without: 0.056).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rayscale.analysis.anova import Effect, anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.distributions import t_critical
from rayscale.analysis.jsonable import Tree, number, p_number
from rayscale.analysis.kernel import FloatArray, mean_and_sd
from rayscale.analysis.looks_estimates import stopped_estimates
from rayscale.analysis.sequential import adjusted_p, boundaries_of
from rayscale.analysis.sequential_size import small_sample_factor
from rayscale.analysis.sweepcells import main_factor, resolve_effect, varied_factors
from rayscale.errors import InputError
from rayscale.spec import StopSpec, SweepSpec

Decision = Literal["efficacy", "halfwidth", "continue", "end"]


@dataclass(frozen=True)
class Look:
    """One look. None where undefined.

    Attributes:
        number: 1, 2, ...
        n: Complete blocks it saw.
        fraction: Information n / planned repetitions; 1 for the last look.
        F: F of the tested effect.
        p: Its p with Greenhouse-Geisser correction; None if undefined or below the smallest double.
        log10_p: Decimal logarithm of p.
        nominal: The p that it takes to stop here.
        cumulative_alpha: Alpha spent up to here.
        halfwidth: Half-width of the widest interval (confidence 1 - alpha) of a difference between two levels.
        decision: `efficacy`, `halfwidth`: the sweep ends early; `continue`; `end`: all blocks are done.
        reason: The decision in words.
        at: Wall clock, ISO 8601.
    """

    number: int
    n: int
    fraction: float
    F: float | None
    p: float | None
    log10_p: float | None
    nominal: float
    cumulative_alpha: float
    halfwidth: float | None
    decision: Decision
    reason: str
    at: str


def stop_rule(spec: SweepSpec) -> StopSpec:
    """Return the sweep's stop rule.

    Args:
        spec: The sweep.

    Returns:
        The rule.

    Raises:
        InputError: If it has none.
    """
    if spec.design.stop is None:
        raise InputError(f"{spec.name}: the sweep has no design.stop")
    return spec.design.stop


def schedule(spec: SweepSpec) -> list[int]:
    """List the numbers of complete blocks at which to look, the end of the sweep included.

    Args:
        spec: A sweep with a stop rule.

    Returns:
        Ascending numbers.
    """
    return sorted({*stop_rule(spec).after, spec.design.repetitions})


def alpha_of(spec: SweepSpec) -> float:
    """Return the type-I error over all looks of a sweep with a stop rule."""
    alpha = stop_rule(spec).alpha
    return spec.analysis.alpha if alpha is None else alpha


def tested_effect(spec: SweepSpec) -> tuple[str, int]:
    """Name the effect that a stop rule is about.

    Args:
        spec: A sweep with a stop rule.

    Returns:
        `tokens`, another factor or an interaction `a:b`, with the factors in the order of the design; and its df1.
    """
    sizes = {name: len(levels) for name, levels in varied_factors(spec).items()}
    return resolve_effect(sizes, stop_rule(spec).effect)


def small_sample(spec: SweepSpec) -> float:
    """Return the factor on the nominal levels of a sweep's looks, as planned."""
    numbers, alpha, (_, dim) = schedule(spec), alpha_of(spec), tested_effect(spec)
    fractions = [n / spec.design.repetitions for n in numbers]
    nominal = tuple(b.nominal for b in boundaries_of(fractions, alpha, stop_rule(spec).spending, dim))
    return small_sample_factor(tuple(numbers), nominal, alpha, dim)


def planned_looks(spec: SweepSpec) -> Tree:
    """Write down the looks before the first one is taken.

    Args:
        spec: A sweep with a stop rule.

    Returns:
        The rule, what it is about, and per look the blocks, the p that it takes and the alpha spent.
    """
    rule, varied, alpha = stop_rule(spec), varied_factors(spec), alpha_of(spec)
    (factor, dim), repetitions = tested_effect(spec), spec.design.repetitions
    numbers, careful = schedule(spec), small_sample(spec)
    boundaries = boundaries_of([n / repetitions for n in numbers], alpha, rule.spending, dim)
    return {
        "dv": rule.dv,
        "factor": factor,
        "levels": varied,
        "effect_df": dim,
        "spending": rule.spending,
        "alpha": alpha,
        "target_halfwidth": rule.target_halfwidth,
        "repetitions": repetitions,
        "small_sample_factor": careful,
        "looks": [
            {"n": n, "fraction": b.fraction, "nominal_p": careful * b.nominal, "cumulative_alpha": b.cumulative_alpha}
            for n, b in zip(numbers, boundaries, strict=True)
        ],
    }


def take_look(cells: Cells, spec: SweepSpec, earlier: Sequence[Look], *, last: bool) -> Look:
    """Look at the complete blocks.

    Args:
        cells: The measure, laid out.
        spec: A sweep with a stop rule.
        earlier: The looks taken before.
        last: No further block can come.

    Returns:
        The look with its decision.
    """
    rule, alpha, values = stop_rule(spec), alpha_of(spec), cells.complete
    n = values.shape[0]
    fraction = 1.0 if last else n / spec.design.repetitions
    name, dim = tested_effect(spec)
    effect = _effect(cells, name) if n >= 2 else None
    # A last look at no more blocks than the one before (the rest failed) spends what is left of alpha.
    fractions = [look.fraction for look in earlier if look.fraction < fraction] + [fraction]
    boundary = boundaries_of(fractions, alpha, rule.spending, dim)[-1]
    p = effect.p_GG if effect else math.nan
    nominal = small_sample(spec) * boundary.nominal
    halfwidth = widest_halfwidth(cells, alpha, name) if n >= 2 and ":" not in name else None
    decision = _decide(p, nominal, halfwidth, rule.target_halfwidth, last=last)
    return Look(
        number=len(earlier) + 1,
        n=n,
        fraction=fraction,
        F=number(effect.F) if effect else None,
        p=p_number(p),
        log10_p=number(effect.log10_p_GG) if effect else None,
        nominal=nominal,
        cumulative_alpha=boundary.cumulative_alpha,
        halfwidth=halfwidth,
        decision=decision,
        reason=_reason(decision, len(earlier) + 1, n, p, nominal, halfwidth, rule),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _effect(cells: Cells, name: str) -> Effect:
    effects = anova(cells.complete, cells.shape, cells.factors).effects
    return next(effect for effect in effects if effect.name == name)


def _decide(p: float, nominal: float, halfwidth: float | None, target: float | None, *, last: bool) -> Decision:
    """Decide; an undefined p (no error variance) answers nothing."""
    if last:
        return "end"
    if p <= nominal:
        return "efficacy"
    if target is not None and halfwidth is not None and halfwidth <= target:
        return "halfwidth"
    return "continue"


def _reason(
    decision: Decision, count: int, n: int, p: float, nominal: float, halfwidth: float | None, rule: StopSpec
) -> str:
    shown = "p is undefined" if math.isnan(p) else "p < 1e-300" if p < 1e-300 else f"p = {p:.3g}"
    if decision == "efficacy":
        return f"look {count} after {n} complete blocks: {shown} of {rule.dv} is at most {nominal:.3g}; the sweep stops"
    if decision == "halfwidth":
        return (
            f"look {count} after {n} complete blocks: every difference in {rule.dv} is known to +- {halfwidth:.3g}, "
            f"the target is {rule.target_halfwidth:g}; the sweep stops"
        )
    if decision == "end":
        return f"look {count}, the last, after {n} complete blocks: {shown} of {rule.dv} (limit {nominal:.3g})"
    return f"look {count} after {n} complete blocks: {shown} of {rule.dv}, it takes {nominal:.3g}; the sweep goes on"


def widest_halfwidth(cells: Cells, alpha: float, factor: str | None = None) -> float | None:
    """Half-width of the widest paired interval between two levels of a factor, unadjusted.

    Args:
        cells: With at least two complete blocks; other factors are averaged over.
        alpha: The intervals have confidence 1 - alpha.
        factor: The factor; None takes the main one.

    Returns:
        Half-width in the unit of the measure; None if it leaves the range of a double.
    """
    axis = cells.factors.index(factor or main_factor(cells.factors)) + 1
    others = tuple(i for i in range(1, len(cells.shape) + 1) if i != axis)
    levels: FloatArray = cells.complete.reshape(-1, *cells.shape).mean(axis=others)
    n = levels.shape[0]
    pairs = itertools.combinations(range(levels.shape[1]), 2)
    widest = max(mean_and_sd(levels[:, b] - levels[:, a])[1] for a, b in pairs)
    return number(t_critical(1 - alpha, n - 1) * widest / math.sqrt(n))


# -- what the sequence says --------------------------------------------------------------------------------------------


def look_of(stored: dict[str, Any]) -> Look:
    """Read a look back from `looks.json`.

    Args:
        stored: One entry.

    Returns:
        The look.
    """
    return Look(**stored)


def sequential_section(document: dict[str, Any] | None, spec: SweepSpec) -> Tree:
    """Write the `sequential` part of an analysis.

    Args:
        document: `looks.json`, None if no look was taken.
        spec: The sweep.

    Returns:
        Empty without looks; else `{"sequential": {...}}` with rule, looks, `p_adjusted`, `significant` and `notes`.
    """
    if not document or not document.get("looks"):
        return {}
    plan, looks = document["plan"], [look_of(stored) for stored in document["looks"]]
    ended = looks[-1].decision != "continue"
    p, log10_p = _adjusted(plan, looks) if ended else (None, None)
    known = log10_p is not None
    tree: Tree = {
        **{key: plan[key] for key in ("dv", "factor", "spending", "alpha", "target_halfwidth", "repetitions")},
        "n_used": looks[-1].n,
        "saved_repetitions": plan["repetitions"] - looks[-1].n
        if looks[-1].decision in ("efficacy", "halfwidth")
        else 0,
        "decision": looks[-1].decision,
        "p_look": looks[-1].p,
        "p_adjusted": p,
        "log10_p_adjusted": log10_p,
        "significant": log10_p <= math.log10(plan["alpha"]) + 1e-12 if known and log10_p is not None else None,
        "looks": [asdict(look) for look in looks],
        "notes": _notes(plan, looks, p, log10_p, spec),
    }
    return {"sequential": tree}


def with_sequential(tree: Tree, document: dict[str, Any] | None, spec: SweepSpec) -> Tree:
    """Add the looks of a sweep to its analysis.

    Args:
        tree: What `analyze_records` returned.
        document: `looks.json`, None if no look was taken.
        spec: The sweep.

    Returns:
        The tree with `sequential`, whose notes stand first among the notes of its measure too.
    """
    section = sequential_section(document, spec)
    if section:
        found = section["sequential"]
        measure = tree.get("results", {}).get(found["dv"])
        if measure is not None and document:
            estimates = stopped_estimates(document, measure)
            found["estimates"] = estimates.tree
            measure["notes"] = [*found["notes"], *estimates.notes, *measure.get("notes", [])]
    return {**tree, **section}


def _adjusted(plan: Tree, looks: Sequence[Look]) -> tuple[float | None, float | None]:
    """Stage-wise p of the looks and its decimal logarithm."""
    last = looks[-1]
    if last.log10_p is None:
        return None, None
    careful = plan.get("small_sample_factor", 1.0)  # a ledger from before it has none
    fractions = [look.fraction for look in looks if look.fraction < last.fraction] + [last.fraction]
    if len(fractions) == 1:
        log10_p = min(0.0, last.log10_p - math.log10(careful))
        return (min(1.0, last.p / careful) if last.p is not None else None), log10_p
    p = adjusted_p(min(1.0, (last.p or 0.0) / careful), fractions, plan["alpha"], plan["spending"], plan["effect_df"])
    return p, math.log10(p) if p > 0 else None


def _notes(plan: Tree, looks: Sequence[Look], p: float | None, log10_p: float | None, spec: SweepSpec) -> list[str]:
    count, last = len(looks), looks[-1]
    if spec.design.stop is None:
        return [
            f"{count} look(s) at {plan['dv']} were taken under a stop rule that the sweep file no longer has: the p "
            "values of trials run since are not adjusted for them"
        ]
    if last.decision == "continue":
        return [f"{last.reason}; p values before the end are not final"]
    shown = "undefined" if log10_p is None else f"{p:.3g}" if p else f"10^{log10_p:.1f}"
    return [
        last.reason,
        f"adjusted for {count} look(s) ({plan['spending']} spending of alpha {plan['alpha']:g}, stage-wise order) p of "
        f"{plan['dv']} is {shown}; this p, not the one of the ANOVA table, is the result of the stopped sweep",
    ]
