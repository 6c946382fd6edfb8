"""The mixed-model kernel against dense textbook formulas, statsmodels, balanced theory and awkward scales."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.mixed import MixedFit, RandomTerm, UndefinedModelError, fit_mixed
from rayscale.analysis.mixed_design import FixedPart, LongRows, fixed_part, rows_of
from rayscale.analysis.mixed_tests import adjusted_covariance, estimate, kenward_roger, satterthwaite


def design(values: np.ndarray) -> Cells:
    n, k = values.shape
    filled = int(np.sum(~np.isnan(values)))
    return Cells(("a",), (tuple(str(i) for i in range(k)),), tuple(f"s{i}" for i in range(n)), values, filled, 0)


def one_way(values: np.ndarray) -> tuple[MixedFit, FixedPart]:
    cells = design(values)
    rows = rows_of(cells)
    fixed = fixed_part(cells, rows)
    return fit_mixed(rows.y - rows.y[0], fixed.x, [RandomTerm("subject", rows.subject)]), fixed


@dataclass(frozen=True)
class Study:
    """Devices > subjects > levels, some rows lost, with a covariate."""

    y: np.ndarray
    fixed: FixedPart
    terms: list[RandomTerm]


def study(seed: int, lost: float = 0.15) -> Study:
    rng = np.random.default_rng(seed)
    devices, per_device, levels = 4, 5, 3
    subject, cell = (part.ravel() for part in np.indices((devices * per_device, levels)))
    device = subject // per_device
    order = rng.permutation(len(cell)).astype(float)
    y = rng.normal(0, 2, devices)[device] + rng.normal(0, 1, devices * per_device)[subject]
    y = y + 0.3 * cell + 0.01 * order + rng.normal(0, 0.7, len(cell))
    kept = rng.random(len(cell)) > lost
    rows = LongRows(y[kept], subject[kept], cell[kept], device[kept], ("a", "b", "c", "d"), order[kept])
    cells = design(np.zeros((devices * per_device, levels)))
    fixed = fixed_part(cells, rows, {"order": order[kept]})
    return Study(rows.y, fixed, [RandomTerm("device", device[kept]), RandomTerm("subject", subject[kept])])


class Dense:
    """Kenward & Roger (1997) written out with rows x rows matrices."""

    def __init__(self, y: np.ndarray, x: np.ndarray, terms: list[RandomTerm], variances: np.ndarray) -> None:
        self.x, self.n = x, len(y)
        self.g = [(term.codes[:, None] == term.codes).astype(float) for term in terms] + [np.eye(self.n)]
        v = sum(value * part for value, part in zip(variances, self.g, strict=True))
        self.vi = np.linalg.inv(v)
        self.phi = np.linalg.inv(x.T @ self.vi @ x)
        self.p = self.vi - self.vi @ x @ self.phi @ x.T @ self.vi
        self.beta = self.phi @ x.T @ self.vi @ y
        self.criterion = float(np.linalg.slogdet(v)[1] + np.linalg.slogdet(x.T @ self.vi @ x)[1] + y @ self.p @ y)
        pairs = [[self.p @ a @ self.p @ b for b in self.g] for a in self.g]
        self.expected = np.array([[0.5 * np.trace(m) for m in row] for row in pairs])
        self.observed = np.array([[y @ m @ self.p @ y for m in row] for row in pairs]) - self.expected

    def adjusted(self) -> np.ndarray:
        w, total = np.linalg.inv(self.expected), np.zeros_like(self.phi)
        for i, a in enumerate(self.g):
            for j, b in enumerate(self.g):
                left, right = (-self.x.T @ self.vi @ m @ self.vi @ self.x for m in (a, b))
                q = self.x.T @ self.vi @ a @ self.vi @ b @ self.vi @ self.x
                total += w[i, j] * (q - left @ self.phi @ right)
        return self.phi + 2 * self.phi @ total @ self.phi

    def kr(self, contrast: np.ndarray) -> tuple[float, float]:
        q, w = len(contrast), np.linalg.inv(self.expected)
        theta = contrast.T @ np.linalg.inv(contrast @ self.phi @ contrast.T) @ contrast
        slopes = [-self.x.T @ self.vi @ m @ self.vi @ self.x for m in self.g]
        m = [theta @ self.phi @ slope @ self.phi for slope in slopes]
        pairs = [(i, j) for i in range(len(m)) for j in range(len(m))]
        a1 = sum(w[i, j] * np.trace(m[i]) * np.trace(m[j]) for i, j in pairs)
        a2 = sum(w[i, j] * np.trace(m[i] @ m[j]) for i, j in pairs)
        b = (a1 + 6 * a2) / (2 * q)
        g = ((q + 1) * a1 - (q + 4) * a2) / ((q + 2) * a2)
        c1, c2, c3 = (top / (3 * q + 2 * (1 - g)) for top in (g, q - g, q + 2 - g))
        mean = 1 / (1 - a2 / q)
        variance = 2 / q * (1 + c1 * b) / ((1 - c2 * b) ** 2 * (1 - c3 * b))
        rho = variance / (2 * mean**2)
        df2 = 4 + (q + 2) / (q * rho - 1)
        wald = (contrast @ self.beta) @ np.linalg.inv(contrast @ self.adjusted() @ contrast.T) @ (contrast @ self.beta)
        return df2 / (mean * (df2 - 2)) * wald / q, df2


@pytest.mark.parametrize("seed", range(6))
def test_unbalanced_nested_model_agrees_with_dense_formulas(seed: int) -> None:
    data = study(seed)
    fit = fit_mixed(data.y, data.fixed.x, data.terms)
    scale2 = fit.scale**2
    dense = Dense(data.y, data.fixed.x, data.terms, fit.variances * scale2)
    assert fit.beta * fit.scale == pytest.approx(dense.beta, rel=1e-9, abs=1e-9)
    assert fit.expected / scale2**2 == pytest.approx(dense.expected, rel=1e-8)
    assert fit.observed / scale2**2 == pytest.approx(dense.observed, rel=1e-7)
    assert adjusted_covariance(fit) * scale2 == pytest.approx(dense.adjusted(), rel=1e-7, abs=1e-10)
    for term in ("a", "order"):
        found = kenward_roger(fit, data.fixed.contrasts[term])
        assert (found.F, found.df2) == pytest.approx(dense.kr(data.fixed.contrasts[term]), rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_the_minimum_of_the_restricted_likelihood(seed: int) -> None:
    data = study(seed, lost=0.3)
    fit = fit_mixed(data.y, data.fixed.x, data.terms)
    best = fit.variances * fit.scale**2
    least = Dense(data.y, data.fixed.x, data.terms, best).criterion
    for index in range(3):
        for change in (-0.02, 0.02):
            other = best.copy()
            other[index] = max(0.0, other[index] + change * best.sum())
            if not np.array_equal(other, best):
                assert Dense(data.y, data.fixed.x, data.terms, other).criterion > least


def test_agrees_with_statsmodels() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(8)
    values = rng.normal(0, 1.5, (12, 1)) + rng.normal(0, 1, (12, 4)) + np.arange(4)
    values[rng.random((12, 4)) < 0.15] = np.nan
    fit, fixed = one_way(values)
    rows = rows_of(design(values))
    other = sm.MixedLM(rows.y, fixed.x, groups=rows.subject).fit(reml=True, gtol=1e-10)
    assert fit.variance("subject") == pytest.approx(float(np.asarray(other.cov_re)[0, 0]), rel=1e-4)
    assert fit.variance("residual") == pytest.approx(float(other.scale), rel=1e-4)
    beta = fit.beta * fit.scale
    assert beta[1:] == pytest.approx(np.asarray(other.fe_params)[1:], rel=1e-4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(2, 5))
def test_balanced_data_give_the_anova(seed: int, n: int, k: int) -> None:
    """With complete data and a positive subject variance F and df are those of the repeated-measures ANOVA."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, (n, 1)) + rng.normal(0, 1, (n, k))
    fit, fixed = one_way(values)
    if fit.at_zero:
        return
    effect = anova(values, (k,), ("a",)).effects[0]
    kr, other = kenward_roger(fit, fixed.contrasts["a"]), satterthwaite(fit, fixed.contrasts["a"])
    assert (kr.F, kr.df1, kr.df2) == pytest.approx((effect.F, effect.df1, effect.df2), rel=1e-7)
    assert (other.F, other.df2) == pytest.approx((effect.F, effect.df2), rel=1e-6)
    assert kr.p == pytest.approx(effect.p_unc, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1e9, 1e9), st.sampled_from([1e-150, 1e-3, 1.0, 1e6, 1e150]))
def test_affine_maps_change_nothing(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 2, (8, 1)) + rng.normal(0, 1, (8, 3)), 2)
    values[0, 0] = values[3, 2] = np.nan
    before, fixed = one_way(values)
    after, _ = one_way((values + (np.round(shift) if scale == 1.0 else 0.0)) * scale)
    rel = 1e-5
    first, second = (kenward_roger(fit, fixed.contrasts["a"]) for fit in (before, after))
    assert (second.F, second.df2) == pytest.approx((first.F, first.df2), rel=rel)


@pytest.mark.parametrize("spread", [1e3, 1e6, 1e8])
def test_a_huge_subject_spread_costs_no_digits(spread: float) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0, spread, (20, 1)) + rng.normal(0, 3, (20, 3))
    fit, fixed = one_way(values)
    found = kenward_roger(fit, fixed.contrasts["a"])
    assert (found.F, found.df2) == pytest.approx((anova(values, (3,), ("a",)).effects[0].F, 38), rel=1e-7)


def test_a_variance_of_zero_is_a_result() -> None:
    """Subjects more alike than chance: the variance is 0, Satterthwaite's df pool it, Kenward-Roger stays careful."""
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (10, 3))
    values -= values.mean(axis=1, keepdims=True)
    fit, fixed = one_way(values)
    assert fit.at_zero == ("subject",)
    assert fit.variance("subject") == 0.0
    assert satterthwaite(fit, fixed.contrasts["a"]).df2 == pytest.approx(27)
    assert kenward_roger(fit, fixed.contrasts["a"]).df2 == pytest.approx(18)


def test_marginal_means_of_complete_data_are_the_means() -> None:
    rng = np.random.default_rng(9)
    values = 100 + rng.normal(0, 2, (7, 1)) + rng.normal(0, 1, (7, 3))
    fit, fixed = one_way(values)
    for index, (level, row) in enumerate(fixed.means["a"].items()):
        found = estimate(fit, row)
        assert level == str(index)
        assert values[0, 0] + found.value * fit.scale == pytest.approx(values[:, index].mean())
        assert found.se > 0
        assert 6 < found.df < 21


class TestUndefinedModels:
    def test_no_residual(self) -> None:
        subject = np.arange(6)
        with pytest.raises(UndefinedModelError, match="no row left"):
            fit_mixed(np.arange(6.0), np.ones((6, 1)), [RandomTerm("subject", subject)])

    def test_exact_fit(self) -> None:
        values = np.arange(5.0)[:, None] + np.array([0.0, 2.0, 3.0])
        with pytest.raises(UndefinedModelError, match="residual variance is zero"):
            one_way(values)

    def test_constant(self) -> None:
        with pytest.raises(UndefinedModelError, match="residual variance is zero"):
            one_way(np.full((4, 3), 7.0))

    def test_collinear_covariate(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.normal(0, 1, (6, 2))
        cells = design(values)
        rows = rows_of(cells)
        fixed = fixed_part(cells, rows, {"order": rows.cell.astype(float)})
        with pytest.raises(UndefinedModelError, match="collinear"):
            fit_mixed(rows.y, fixed.x, [RandomTerm("subject", rows.subject)])

    def test_one_subject_per_device(self) -> None:
        rng = np.random.default_rng(0)
        codes = np.repeat(np.arange(6), 3)
        terms = [RandomTerm("device", codes), RandomTerm("subject", codes)]
        with pytest.raises(UndefinedModelError, match="cannot be told apart"):
            fit_mixed(rng.normal(0, 1, 18), np.ones((18, 1)), terms)

    def test_crossed_terms(self) -> None:
        rng = np.random.default_rng(0)
        terms = [RandomTerm("a", np.repeat(np.arange(4), 5)), RandomTerm("b", np.tile(np.arange(5), 4))]
        with pytest.raises(UndefinedModelError, match="nested"):
            fit_mixed(rng.normal(0, 1, 20), np.ones((20, 1)), terms)

    def test_an_empty_cell(self) -> None:
        values = np.arange(12.0).reshape(4, 3)
        values[:, 1] = np.nan
        with pytest.raises(UndefinedModelError, match="no row for 1"):
            one_way(values)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_odd_little_tables_give_a_number_or_say_why(seed: int) -> None:
    """Few subjects, many missing cells, ties: F is NaN or at least 0, never a crash or a negative F."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(2, 7)), int(rng.integers(2, 5))
    values = np.round(rng.normal(0, 1, (n, 1)) * rng.choice([0.0, 1.0, 1e6]) + rng.normal(0, 1, (n, k)), 1)
    values[rng.random((n, k)) < 0.3] = np.nan
    values[0, 0] = 1.0
    try:
        fit, fixed = one_way(values)
    except UndefinedModelError:
        return  # its reasons are tested one by one above
    for found in (kenward_roger(fit, fixed.contrasts["a"]), satterthwaite(fit, fixed.contrasts["a"])):
        assert np.isnan(found.F) or found.F >= 0
        assert np.isnan(found.df2) or found.df2 > 0


def test_three_models_of_150_rows_are_fast() -> None:
    """Loose, since other work shares the machine; alone it takes about 0.02 s."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 2, (50, 1)) + rng.normal(0, 1, (50, 3))
    one_way(values)
    start = time.process_time()
    for _ in range(3):
        fit, fixed = one_way(values)
        kenward_roger(fit, fixed.contrasts["a"])
    assert time.process_time() - start < 2.0


def test_a_model_with_hundreds_of_devices_as_fixed_effects_is_refused_with_its_size() -> None:
    y, x = np.arange(6000.0), np.zeros((6000, 500))
    with pytest.raises(UndefinedModelError, match="6000 rows with 500 fixed effects"):
        fit_mixed(y, x, [RandomTerm("subject", np.arange(6000) // 3)])
