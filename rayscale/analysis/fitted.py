"""A scaling law fitted to a table, with what the data can and cannot identify said first: the document of `fit`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.analysis.isoflop import WARNING, parabolas
from rayscale.analysis.scaling import (
    FitResult,
    Optimum,
    PowerLaw,
    Problem,
    bootstrap,
    compute_optimal,
    fit,
    has_optimum,
    law_of,
    polish,
)
from rayscale.analysis.scaling_energy import energy_optimum_tree, fit_energy
from rayscale.analysis.scaling_profile import named, profile_intervals
from rayscale.errors import InputError

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]

MIN_POINTS = 8
COLLINEAR = 0.9999
"""Correlation of ln N and ln D from which the two terms cannot be told apart."""
BOOTSTRAP_SEED = 20260109
MIN_VALUES = 3
"""Coefficient, exponent and floor are three unknowns: fewer values of N (or D) leave one of them open."""
MIN_SPREAD = 2.0
"""Below this ratio of the largest to the smallest value the exponent is noise, and a fit is refused."""


@dataclass(frozen=True)
class FitRequest:
    """What is fitted.

    Attributes:
        loss: Column of the losses.
        n: Column of the parameters; None if they do not vary.
        d: Column of the tokens; None if `flops` is given.
        flops: Column of the training FLOPs: D = C/(6 N).
        run: Column that names the run; None: every row is a run.
        drop_largest: Rows with the largest losses to leave out.
        resamples: Bootstrap refits.
        compute: Budget to find the compute-optimal sizes for. Units: FLOP.
        energy: Column of the training energies. Units: J.
        batch: Column of the rows per step, for joules per FLOP; None: not known.
        joules: Energy to find the energy-optimal sizes for; needs `energy`. Units: J.
    """

    loss: str
    n: str | None = None
    d: str | None = None
    flops: str | None = None
    run: str | None = None
    drop_largest: int = 0
    resamples: int = 1000
    compute: float | None = None
    energy: str | None = None
    batch: str | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Points:
    """The rows that are fitted, as arrays of one shape (n,); None where a variable is not given."""

    loss: Array
    n: Array | None
    d: Array | None
    flops: Array | None
    runs: NDArray[np.int64]
    energy: Array | None = None
    batch: Array | None = None


def fit_frame(frame: pandas.DataFrame, request: FitRequest, source: str) -> dict[str, Any]:
    """Fit a table.

    Args:
        frame: One row per measured loss.
        request: Columns and options.
        source: Name of the table, for messages.

    Returns:
        The document of design 4.6: E, A, B, alpha, beta, objective, n_points, ci95, notes and more.

    Raises:
        InputError: If columns are missing, values are not positive, or the data cannot identify any law.
    """
    points = _drop(_points(frame, request, source), request.drop_largest)
    names, sizes, notes = _terms(points, source)
    problem = Problem.of(sizes, points.loss)
    found = fit(problem)
    if request.drop_largest:
        notes.insert(0, f"{request.drop_largest} rows with the largest losses left out, as asked")
    if min(found.law.exponents) <= 0:
        notes.append("an exponent is not above 0: the loss does not fall with that size, and no size is the best")
    resampled = bootstrap(problem, found.minimum, points.runs, request.resamples, BOOTSTRAP_SEED)
    document = _law_document(names, found.law)
    document |= {
        "objective": found.minimum.objective,
        "n_points": len(points.loss),
        "n_runs": len(np.unique(points.runs)),
        "ci95": _intervals(names, resampled),
        "se": _standard_errors(names, resampled),
        "profile95": _profile(problem, found, names, notes),
        "starts": {"tried": found.starts, "reached_best": found.reached, "worst_objective": found.worst},
        "range": {"N": _range(points.n), "D": _range(points.d), "flops": _range(points.flops)},
        "held_out": _held_out(points, sizes, problem, found),
        "isoflop": _isoflop(points, notes),
        "optimum": _optimum(names, found.law, resampled, request.compute),
        "energy_optimum": _energy_optimum(points, names, found.law, resampled, request),
        "notes": notes,
    }
    return document


def _points(frame: pandas.DataFrame, request: FitRequest, source: str) -> Points:
    wanted = {"--loss": request.loss, "--n": request.n, "--d": request.d, "--flops": request.flops}
    wanted |= {"--energy": request.energy, "--batch": request.batch}
    columns = {option: name for option, name in wanted.items() if name}
    missing = [f"{option} {name}" for option, name in columns.items() if name not in frame.columns]
    if missing:
        known = ", ".join(map(str, frame.columns))
        raise InputError(f"{source}: no column for {', '.join(missing)}; expected one of {known}")
    values = {option: _positive(frame, name, source) for option, name in columns.items()}
    n, d, flops = values.get("--n"), values.get("--d"), values.get("--flops")
    if d is None and flops is not None:
        if n is None:
            raise InputError(f"{source}: --flops needs --n, since D = C/(6 N)")
        d = flops / (6 * n)
    if request.run is not None and request.run not in frame.columns:
        raise InputError(f"{source}: no column for --run {request.run}")
    names = frame[request.run].astype(str).to_numpy() if request.run else np.arange(len(frame))
    runs = np.unique(names, return_inverse=True)[1].astype(np.int64)
    flops = flops if flops is not None else _six_nd(n, d)
    return Points(values["--loss"], n, d, flops, runs, values.get("--energy"), values.get("--batch"))


def _positive(frame: pandas.DataFrame, name: str, source: str) -> Array:
    import pandas as pd

    numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers > 0)))
    if len(bad):
        raise InputError(
            f"{source}: row {bad[0] + 1}, column {name}: expected a positive number, got {frame[name].iloc[bad[0]]!r}"
        )
    return numbers


def _range(x: Array | None) -> list[float] | None:
    return None if x is None else [float(x.min()), float(x.max())]


def _six_nd(n: Array | None, d: Array | None) -> Array | None:
    return 6 * n * d if n is not None and d is not None else None


def _drop(points: Points, count: int) -> Points:
    if count < 0 or len(points.loss) - count < MIN_POINTS:
        raise InputError(f"{len(points.loss)} rows, {count} to leave out: expected at least {MIN_POINTS} rows to fit")
    keep = np.sort(np.argsort(points.loss, kind="stable")[: len(points.loss) - count])

    def kept(x: Array | None) -> Array | None:
        return None if x is None else x[keep]

    return Points(
        points.loss[keep],
        kept(points.n),
        kept(points.d),
        kept(points.flops),
        points.runs[keep],
        kept(points.energy),
        kept(points.batch),
    )


def _terms(points: Points, source: str) -> tuple[list[str], list[Array], list[str]]:
    """Choose the terms that the data can identify, and say what is missing."""
    notes: list[str] = []
    varying = {name: x for name, x in (("N", points.n), ("D", points.d)) if x is not None and x.max() > x.min()}
    if not varying:
        raise InputError(f"{source}: neither N nor D varies; expected at least one of them over a decade")
    if len(varying) == 2 and abs(np.corrcoef(np.log(varying["N"]), np.log(varying["D"]))[0, 1]) > COLLINEAR:
        raise InputError(f"{source}: N and D grow together (D/N is constant), so their terms cannot be told apart")
    if len(varying) == 1:
        name = next(iter(varying))
        other, lost = ("N", "A and alpha") if name == "D" else ("D", "B and beta")
        notes.append(
            f"{other} does not vary: {lost} cannot be identified; fitted is a power law in {name} with a floor"
        )
    for name, x in varying.items():
        values = len(np.unique(x))
        if values < MIN_VALUES or x.max() < MIN_SPREAD * x.min():
            raise InputError(
                f"{source}: {name} has {values} values over a factor of {x.max() / x.min():.3g}; a power law with a "
                f"floor needs at least {MIN_VALUES} over a factor of {MIN_SPREAD:g}"
            )
        if values == len(varying) + 2 == MIN_VALUES:
            notes.append(
                f"{values} values of {name} determine the three parameters: nothing is left to test the law by"
            )
        if x.max() < 10 * x.min():
            factor = x.max() / x.min()
            notes.append(
                f"{name} varies by a factor of {factor:.3g} only; a decade or more is needed to trust its exponent"
            )
    return list(varying), list(varying.values()), notes


_NAMES = {"N": ("A", "alpha"), "D": ("B", "beta")}


def _law_document(names: list[str], law: PowerLaw) -> dict[str, Any]:
    document: dict[str, Any] = {"E": law.floor, "A": None, "B": None, "alpha": None, "beta": None}
    for name, coefficient, exponent in zip(names, law.coefficients, law.exponents, strict=True):
        document[_NAMES[name][0]], document[_NAMES[name][1]] = coefficient, exponent
    return document


def _columns(names: list[str], laws: list[PowerLaw]) -> dict[str, Array]:
    documents = [_law_document(names, law) for law in laws]
    known = [key for key, value in documents[0].items() if value is not None]
    return {key: np.array([document[key] for document in documents]) for key in known}


def _intervals(names: list[str], laws: list[PowerLaw]) -> dict[str, list[float | None]]:
    """Percentile bootstrap intervals; an end beyond the largest double is None."""
    return {key: _quantiles(x) for key, x in _columns(names, laws).items()}


def _quantiles(x: Array) -> list[float | None]:
    with np.errstate(invalid="ignore"):  # between two infinities
        return [_finite(float(q)) for q in np.quantile(x, [0.025, 0.975])]


def _standard_errors(names: list[str], laws: list[PowerLaw]) -> dict[str, float | None]:
    with np.errstate(over="ignore", invalid="ignore"):  # data that leave a coefficient open make huge refits
        return {key: _finite(float(np.std(x, ddof=1))) for key, x in _columns(names, laws).items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _optima(laws: list[PowerLaw], budget: float) -> list[Optimum]:
    """Solve for the optimum of each refit that has one."""
    return [compute_optimal(law, budget) for law in laws if has_optimum(law)]


def _profile(
    problem: Problem, found: FitResult, names: list[str], notes: list[str]
) -> dict[str, list[float | None]] | None:
    """Profile intervals, and a note where they leave a parameter open or do not exist."""
    intervals = profile_intervals(problem, found.minimum)
    if intervals is None:
        notes.append("no profile intervals: the fit leaves no residuals to scale them by")
        return None
    document = named(intervals, found.law, names)
    if open_ends := [name for name, ends in document.items() if None in ends]:
        notes.append(f"the data leave {', '.join(open_ends)} open on at least one side (profile interval)")
    return document


def _energy_optimum(
    points: Points, names: list[str], law: PowerLaw, resampled: list[PowerLaw], request: FitRequest
) -> dict[str, object] | None:
    if request.joules is None:
        return None
    if points.energy is None or points.n is None or points.flops is None or len(names) < 2:
        raise InputError("--joules: needs --energy, and N and D that both vary")
    energy = fit_energy(points.n, points.flops, points.energy, points.batch)
    return energy_optimum_tree(law, resampled, energy, request.joules)


def _held_out(points: Points, sizes: list[Array], problem: Problem, found: FitResult) -> dict[str, Any] | None:
    """Fit without the tenth of the rows with the most compute, from the whole fit on, and predict them."""
    if points.flops is None or len(points.loss) < 2 * MIN_POINTS:
        return None
    order = np.argsort(points.flops, kind="stable")
    last = order[-max(len(order) // 10, 1) :]
    rest = np.setdiff1d(order, last)
    if any(np.ptp(x[rest]) == 0 for x in sizes):
        return None
    others = problem.rows(rest)
    law = law_of(others, polish(others, found.minimum.theta))
    error = np.log(predict(law, [x[last] for x in sizes]) / points.loss[last])
    return {"n": len(last), "mean_log_error": float(error.mean()), "rms_log_error": float(np.sqrt((error**2).mean()))}


def predict(law: PowerLaw, sizes: list[Array]) -> Array:
    """Evaluate a law.

    Args:
        law: The law.
        sizes: One array per term. Shape (n,) each.

    Returns:
        Losses. Shape (n,).
    """
    terms = [c / x**e for c, e, x in zip(law.coefficients, law.exponents, sizes, strict=True)]
    return law.floor + np.sum(terms, axis=0)


def _isoflop(points: Points, notes: list[str]) -> dict[str, Any] | None:
    if points.n is None or points.d is None or points.flops is None:
        return None
    found = parabolas(points.n, points.d, points.flops, points.loss)
    if found is None:
        return None
    notes.append(WARNING)
    return asdict(found)


def _optimum(
    names: list[str], law: PowerLaw, resampled: list[PowerLaw], compute: float | None
) -> dict[str, Any] | None:
    """Compute-optimal sizes with bootstrap intervals; exponents only without a budget."""
    if len(names) < 2 or not has_optimum(law):
        return None
    budget = compute or 1e21
    keys = ("params_exponent", "kappa", *(("params", "tokens", "loss") if compute else ()))
    best = asdict(compute_optimal(law, budget))
    all_best = [asdict(other) for other in _optima(resampled, budget)]
    document: dict[str, Any] = {"flops": compute} | {key: best[key] for key in keys}
    known = len(all_best) >= MIN_WITH_OPTIMUM * len(resampled)
    document["ci95"] = {
        key: _quantiles(np.array([row[key] for row in all_best])) if known else [None, None] for key in keys
    }
    return document


MIN_WITH_OPTIMUM = 0.975
"""Share of the refits that must have an optimum: with fewer its 95 % interval is open."""
