"""The price of a study as a document: totals, what more repetitions or a further level add, what the design detects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rayscale.analysis.power import Design, rm_power, smallest_effect
from rayscale.analysis.rates import Rates, bill_of
from rayscale.analysis.sweepcells import main_factor
from rayscale.design import Plan, Trial, plan_sweep
from rayscale.planning import trial_flops
from rayscale.pricing.price import Basis, price_beforehand, price_of
from rayscale.sharing import run_tokens
from rayscale.spec import SweepSpec
from rayscale.training.treatments.planned import models_beforehand, planned_teacher_flops

PLANNED_POWER = 0.8
EXTRA_REPETITIONS = 10


def price_document(plan: Plan, basis: Basis, rates: Rates, effect: float | None = None) -> dict[str, Any]:
    """Price a study.

    Args:
        plan: The plan.
        basis: Rates and powers.
        rates: PUE, grids, prices.
        effect: Cohen's f to state the power for; None states the smallest detectable effect only.

    Returns:
        `basis, totals, ten_repetitions, next_level, power, notes`; what cannot be known is null.
    """
    more = _with_design(plan.spec, repetitions=plan.spec.design.repetitions + EXTRA_REPETITIONS)
    level = _next_level(plan.spec)
    longer = _with_level(plan.spec, level)
    planned = {trial.trial_key for trial in plan.trials}
    totals = _priced(plan, plan.trials, basis, rates, with_beforehand=True)
    notes = [*_budget_notes(plan.spec, totals), *_unpriced(plan), *basis.notes, *rates.notes()]
    if trial_flops(plan.trials[0]) is None:
        notes.insert(0, "no price: the model's shape is not known without loading it (give model.config)")
    return {
        "basis": _basis_tree(basis),
        "rates": rates.tree(),
        "totals": totals,
        "more_repetitions": {"repetitions": EXTRA_REPETITIONS}
        | _priced(more, [trial for trial in more.trials if trial.trial_key not in planned], basis, rates),
        "next_level": {"tokens": level}
        | _priced(longer, [trial for trial in longer.trials if trial.tokens == level], basis, rates),
        "power": design_power(plan.spec, effect),
        "notes": notes,
    }


def _budget_notes(spec: SweepSpec, totals: dict[str, Any]) -> list[str]:
    """Warn of caps that the plan will reach."""
    notes = []
    for name, key in (("gpu_hours", "device_hours"), ("kwh", "energy_kwh"), ("money", "cost")):
        cap, found = spec.budget.given.get(name), totals[key]
        if cap is not None and found is not None and found["high"] > cap:
            sure = "will" if found["low"] > cap else "may"
            notes.append(f"budget.{name} {cap:g} {sure} end the sweep early: it takes {found['typical']:.3g}")
    return notes


def _with_design(spec: SweepSpec, **changes: Any) -> Plan:
    return plan_sweep(spec.model_copy(update={"design": spec.design.model_copy(update=changes)}))


def _with_level(spec: SweepSpec, tokens: int) -> Plan:
    levels = [*spec.design.factors["tokens"], tokens]
    return _with_design(spec, factors=spec.design.factors | {"tokens": levels})


def _next_level(spec: SweepSpec) -> int:
    """Continue the token levels by their last ratio; by 2 after a single one."""
    levels = [int(level) for level in spec.design.factors["tokens"]]
    return round(levels[-1] * levels[-1] / levels[-2]) if len(levels) > 1 else 2 * levels[-1]


def _unpriced(plan: Plan) -> list[str]:
    """Say what of the treatments the price leaves out, and what it counts although a cache may hold it."""
    first = plan.blocks()[0]
    notes = []
    if any(planned_teacher_flops(trial.spec, trial.tokens) is None for trial in first):
        notes.append("a teacher's forward passes are not in the price: its shape is only known to the hub")
    made = models_beforehand(trial.spec for trial in first)
    if any(model.flops is None for model in made):
        notes.append("models trained beforehand are not in the price: their shape is not known offline")
    elif made:
        notes.append("`beforehand`: trained once per machine by the trial that needs it first; nothing if it is cached")
    return notes


def _priced(
    plan: Plan, trials: Sequence[Trial], basis: Basis, rates: Rates, with_beforehand: bool = False
) -> dict[str, Any]:
    """Price some trials of a plan, each by what it trains itself where budgets share a trunk."""
    price = price_of(trials, basis, run_tokens(plan))
    before = price_beforehand(trials, basis) if with_beforehand else None
    if price is not None and before is not None:
        price = price + before
    if price is None:
        empty = ("device_hours", "seconds", "energy_kwh", "co2e_g", "cost")
        return {"trials": len(trials), **dict.fromkeys(empty)}
    hours = price.total_s.times(trials[0].spec.resources.devices / 3600)
    kwh = None if price.joules is None else price.joules.times(1 / 3.6e6)
    corners = {
        name: bill_of(getattr(hours, name), None if kwh is None else getattr(kwh, name), rates)
        for name in ("low", "typical", "high")
    }
    costs = {name: found.cost(rates) for name, found in corners.items()}
    return {
        "trials": len(trials),
        "device_hours": asdict(hours),
        "seconds": {name: asdict(value) for name, value in price.seconds.items()},
        "energy_kwh": None if kwh is None else asdict(kwh),
        "co2e_g": {
            grid.name: None
            if kwh is None or grid.g_per_kwh is None
            else {name: found.co2e_g[grid.name] for name, found in corners.items()}
            for grid in rates.grids
        },
        "cost": None if None in costs.values() else costs,
    }


def _basis_tree(basis: Basis) -> dict[str, Any]:
    tree = asdict(basis)
    del tree["notes"]
    return tree


def design_power(spec: SweepSpec, effect: float | None) -> dict[str, Any] | None:
    """Say what the design can detect in its main factor; rho 0.5 and sphericity are assumed and shown.

    Args:
        spec: The sweep.
        effect: Cohen's f; None leaves its power out.

    Returns:
        `levels, repetitions, rho, epsilon, alpha, effect, power, smallest_effect`; None without a varied factor.
    """
    varied = {name: levels for name, levels in spec.design.factors.items() if len(levels) > 1}
    if not varied or spec.design.repetitions < 2:
        return None
    design = Design(len(varied[main_factor(varied)]), alpha=spec.analysis.alpha)
    n = spec.design.repetitions
    return {
        "factor": main_factor(varied),
        "repetitions": n,
        **asdict(design),
        "effect": effect,
        "power": None if effect is None else rm_power(effect, n, design),
        "wanted_power": PLANNED_POWER,
        "smallest_effect": smallest_effect(n, PLANNED_POWER, design),
    }
