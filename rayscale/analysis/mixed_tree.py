"""The mixed models of design 4.6 as parts of the tree: what each asks, and why it is null where it is.

lmm_random_intercept  missing cells: y ~ factors + (1|subject) on every row, beside the listwise result
lmm_subject           y ~ factors + (1|subject): as if all subjects had been measured on one device
lmm_device            y ~ factors + (1|device) + (1|device:subject): what holds for devices in general
lmm_device_condition  lmm_device and (1|device:condition), from three devices on: the effect may differ between devices
lmm_device_fixed      y ~ factors + device + (1|subject): what holds for just these devices
lmm_device_drift      lmm_device and the order of the runs (without devices: lmm_subject and the order)
lmm_start_temperature lmm_device_drift and the device's temperature at the start of the run
lmm_nested            several rows per cell: y ~ factors + (1|subject) + (1|subject:cell)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.distributions import t_critical, t_two_sided
from rayscale.analysis.jsonable import Tree, interval_tree, number, p_number
from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.levels import interval_name
from rayscale.analysis.mixed import MixedFit, RandomTerm, UndefinedModelError, fit_mixed
from rayscale.analysis.mixed_crossed import fit_crossed
from rayscale.analysis.mixed_design import FixedPart, IntArray, LongRows, device_means, fixed_part, rows_of
from rayscale.analysis.mixed_tests import FTest, adjusted_covariance, estimate, kenward_roger, satterthwaite

FEW_DEVICES = 6
"""Below it, the spread between devices rests on so few numbers that its warning comes with every result."""

LEAST_DEVICES = 3
"""Devices needed before one can ask how far an effect differs between them."""

LEAST_BLOCKS = 6
"""Subjects needed before a drift is estimated on one device without being asked for."""


@dataclass(frozen=True)
class Part:
    """A part of the tree with its notes."""

    tree: Tree
    notes: list[str] = field(default_factory=list)


def missing_part(cells: Cells, alpha: float) -> Part:
    """Fit the mixed model that keeps the subjects with missing cells.

    Args:
        cells: The design; without missing cells there is nothing to add.
        alpha: Significance level.

    Returns:
        `lmm_random_intercept`: with one factor flat names (`F_kr`, `df2_kr`, `p_kr`, `var_subject`, `var_resid`,
        `icc`, `emmean.<level>`, `emmean_se_kr.<level>`), with several the tests by term.
    """
    if not np.isnan(cells.values).any() or not (~np.isnan(cells.values)).any():
        return Part({})

    def build() -> Tree:
        tree = _model(cells, rows_of(cells), ("subject",), alpha)
        variances = tree.pop("var")
        total = variances["subject"] + variances["residual"]
        tree |= {"var_subject": variances["subject"], "var_resid": variances["residual"]}
        tree["icc"] = number(variances["subject"] / total) if total else None
        tree["emmean_se_kr"] = tree.pop("emmean_se")
        return _flat(tree, cells)

    return _attempt("lmm_random_intercept", build)


def nested_part(cells: Cells, rows: LongRows, alpha: float) -> Part:
    """Fit the mixed model of all rows where a cell has several, beside the ANOVA of the cells' means.

    Args:
        cells: The design.
        rows: Every row.
        alpha: Significance level.

    Returns:
        `lmm_nested`: as the other models, `var.{subject,cell,residual}`; with one factor `F_kr` and its like are
        numbers.
    """
    return _attempt("lmm_nested", lambda: _flat(_model(cells, rows, ("subject", "cell"), alpha), cells))


def device_part(cells: Cells, rows: LongRows, alpha: float) -> Part:
    """Ask what the devices change.

    Args:
        cells: The design.
        rows: Its rows, with a device each.
        alpha: Significance level.

    Returns:
        `n_devices, device_as_subject_anova, lmm_subject, lmm_device, lmm_device_condition, lmm_device_fixed`; with
        one device the models with a device are null, with two the one whose effect differs between devices.
    """
    several = rows.n_devices > 1
    tree: Tree = {"n_devices": rows.n_devices, "device_as_subject_anova": None}
    notes = _device_notes(cells, rows)
    if several:
        tree["device_as_subject_anova"] = _device_anova(device_means(cells, rows))
    plans: list[tuple[str, Callable[[], Tree]]] = [
        ("lmm_subject", lambda: _model(cells, rows, ("subject",), alpha)),
        ("lmm_device", lambda: _model(cells, rows, ("device", "subject"), alpha)),
        ("lmm_device_condition", lambda: _model(cells, rows, ("device", "device_condition", "subject"), alpha)),
        ("lmm_device_fixed", lambda: _model(cells, rows, ("subject",), alpha, fixed_device=True)),
    ]
    for name, build in plans:
        needed = {"lmm_subject": 1, "lmm_device_condition": LEAST_DEVICES}.get(name, 2)
        part = _attempt(name, build) if rows.n_devices >= needed else Part({name: None})
        tree |= part.tree
        notes += part.notes
    return Part(tree, notes)


def drift_part(cells: Cells, rows: LongRows, alpha: float) -> Part:
    """Ask whether the measure drifts with the order of the runs, and with the start temperature.

    Args:
        cells: The design.
        rows: Its rows, with an order.
        alpha: Significance level.

    Returns:
        `lmm_device_drift` with `drift_per_run` (change of the measure per unit of the order column), `drift_se`,
        `drift_p`, `drift_ci95`; `lmm_start_temperature` with `per_degree` where temperatures are known.
    """
    if rows.order is None:
        return Part({})
    random = ("device", "subject") if rows.n_devices > 1 else ("subject",)
    order = {rows.order_name: rows.order}

    def drift() -> Tree:
        return _model(cells, rows, random, alpha, covariates=order, slope=(rows.order_name, "drift", "per_run"))

    part = _attempt("lmm_device_drift", drift)
    if rows.temperature is None:
        return part
    both = {**order, "temp_start_c": rows.temperature}

    def temperature() -> Tree:
        slope = ("temp_start_c", "temperature", "per_degree")
        return _model(cells, rows, random, alpha, covariates=both, slope=slope)

    more = _attempt("lmm_start_temperature", temperature)
    return Part(part.tree | more.tree, part.notes + more.notes)


# -- one model ---------------------------------------------------------------------------------------------------------


def _attempt(name: str, build: Callable[[], Tree]) -> Part:
    try:
        tree = build()
    except UndefinedModelError as error:
        return Part({name: None}, [f"{name} is null: {error}"])
    except np.linalg.LinAlgError:
        return Part({name: None}, [f"{name} is null: its equations have no unique solution"])
    zero = tree["at_zero"]
    notes = [f"{name}: the variance of {' and '.join(zero)} is estimated as 0"] if zero else []
    tests = tree["F_kr"] if isinstance(tree["F_kr"], dict) else {"": tree["F_kr"]}
    if any(value is None for value in tests.values()):
        notes.append(f"{name}: a Kenward-Roger F is null, as there are too few rows for its degrees of freedom")
    return Part({name: tree}, notes)


def _model(
    cells: Cells,
    rows: LongRows,
    random: tuple[str, ...],
    alpha: float,
    *,
    covariates: Mapping[str, FloatArray] | None = None,
    slope: tuple[str, str, str] | None = None,
    fixed_device: bool = False,
) -> Tree:
    groups = {"device": rows.device} if fixed_device and rows.device is not None else None
    fixed = fixed_part(cells, rows, covariates, groups)
    pivot = float(rows.y[0])
    terms = [RandomTerm(name, _codes(rows, random, name)) for name in random]
    with np.errstate(over="ignore", under="ignore"):
        fit = (fit_crossed if "device_condition" in random else fit_mixed)(rows.y - pivot, fixed.x, terms)
    tree = _tests(fit, fixed) | {"var": _variances(fit)} | _means(fit, fixed, cells, pivot)
    if slope is not None:
        tree |= _slope(fit, fixed, slope, alpha)
    return tree | {"at_zero": list(fit.at_zero), "n_rows": fit.n}


def _codes(rows: LongRows, random: tuple[str, ...], name: str) -> IntArray:
    """Groups of a term; a subject beside a device is a subject within that device."""
    if name == "device" and rows.device is not None:
        return rows.device
    if name == "device_condition" and rows.device is not None:
        return rows.device * (int(rows.cell.max()) + 1) + rows.cell
    if name == "cell":
        return rows.subject * (int(rows.cell.max()) + 1) + rows.cell
    if "device" in random and rows.device is not None:
        return rows.subject * (int(rows.device.max()) + 1) + rows.device
    return rows.subject


def _tests(fit: MixedFit, fixed: FixedPart) -> Tree:
    tree: Tree = {key: {} for key in ("F_kr", "df1", "df2_kr", "p_kr", "log10_p_kr")}
    tree |= {key: {} for key in ("F_satterthwaite", "df2_satterthwaite", "p_satterthwaite")}
    for term, contrast in fixed.contrasts.items():
        kr, other = kenward_roger(fit, contrast), satterthwaite(fit, contrast)
        tree["df1"][term] = kr.df1
        tree["log10_p_kr"][term] = number(kr.log10_p)
        for kind, test in (("kr", kr), ("satterthwaite", other)):
            for key, value in _numbers(test).items():
                tree[f"{key}_{kind}"][term] = value
    return tree


def _numbers(test: FTest) -> Tree:
    return {"F": number(test.F), "df2": number(test.df2), "p": p_number(test.p)}


def _variances(fit: MixedFit) -> Tree:
    return {name: number(fit.variance(name)) for name in fit.names}


def _means(fit: MixedFit, fixed: FixedPart, cells: Cells, pivot: float) -> Tree:
    """Marginal means with Kenward-Roger errors and df; below the factor's name where there are several factors."""
    covariance = adjusted_covariance(fit)
    found: dict[str, Tree] = {key: {} for key in ("emmean", "emmean_se", "emmean_df")}
    for factor, levels in fixed.means.items():
        for level, row in levels.items():
            result = estimate(fit, row, covariance)
            values = (pivot + result.value * fit.scale, result.se * fit.scale, result.df)
            for key, value in zip(found, values, strict=True):
                place = found[key] if len(cells.factors) == 1 else found[key].setdefault(factor, {})
                place[level] = number(value)
    return found


def _slope(fit: MixedFit, fixed: FixedPart, slope: tuple[str, str, str], alpha: float) -> Tree:
    """Coefficient of a covariate: `<prefix>_<unit>` with standard error, df, p and interval."""
    name, prefix, per = slope
    result = estimate(fit, fixed.contrasts[name][0])
    unit = fit.scale / fixed.units[name]
    value, se = result.value * unit, result.se * unit
    half = t_critical(1 - alpha, result.df) * se
    return {
        f"{prefix}_{per}": number(value),
        f"{prefix}_se": number(se),
        f"{prefix}_df": number(result.df),
        f"{prefix}_p": p_number(t_two_sided(result.value / result.se, result.df)) if result.se > 0 else None,
        f"{prefix}_{interval_name(alpha)}": interval_tree((value - half, value + half)),
    }


def _flat(tree: Tree, cells: Cells) -> Tree:
    """With one factor there is one term: give its numbers without the term's name."""
    if len(cells.factors) > 1:
        return tree
    term = cells.factors[0]
    keys = ("F_kr", "df1", "df2_kr", "p_kr", "log10_p_kr", "F_satterthwaite", "df2_satterthwaite", "p_satterthwaite")
    return tree | {key: tree[key][term] for key in keys}


# -- devices -----------------------------------------------------------------------------------------------------------


def _device_anova(means: Cells) -> Tree | None:
    complete = means.complete
    if complete.shape[0] < 2:
        return None
    effects = anova(complete, means.shape, means.factors).effects
    rows = {
        effect.name: {"F": number(effect.F), "df1": effect.df1, "df2": effect.df2, "p_unc": p_number(effect.p_unc)}
        for effect in effects
    }
    return next(iter(rows.values())) if len(rows) == 1 else rows


def one_device_note(rows: LongRows) -> str:
    """Say what results from a single device are worth.

    Args:
        rows: Rows with a device each, all on the same one.

    Returns:
        A sentence.
    """
    name = rows.device_names[int(rows.device[0])] if rows.device is not None else "?"
    return f"all runs are on one device ({name}): the results hold for this device; for others nothing is tested"


def _device_notes(cells: Cells, rows: LongRows) -> list[str]:
    if rows.device is None:
        return []
    pairs = {(int(a), int(b)) for a, b in zip(rows.subject, rows.device, strict=True)}
    split = len(pairs) - len({subject for subject, _ in pairs})
    notes = []
    if split:
        notes.append(
            f"{split} subjects have runs on more than one device: what differs between the devices counts as "
            "difference between the levels there"
        )
    count, subjects = rows.n_devices, len(np.unique(rows.subject))
    if count == 1:
        notes += [one_device_note(rows), "lmm_device and device_as_subject_anova are null: they take several devices"]
    elif count < FEW_DEVICES:
        notes.append(
            f"the {subjects} subjects sit on only {count} devices: for a statement about devices in general the "
            f"effective n is {count}, not {subjects} (see lmm_device; lmm_device_fixed holds for these devices)"
        )
    if count == LEAST_DEVICES - 1:
        notes.append("lmm_device_condition is null: whether the effect differs between devices takes at least three")
    if count > 1:
        incomplete = int(np.isnan(device_means(cells, rows).values).any(axis=1).sum())
        notes += [f"device_as_subject_anova leaves out {incomplete} devices that lack a cell"] if incomplete else []
    return notes
