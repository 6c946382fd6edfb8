"""Alpha spending: published boundaries, simulated type-I error over 20,000 null sweeps, adjusted p."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.looks import Look, planned_looks, sequential_section, stop_rule, take_look, widest_halfwidth
from rayscale.analysis.sequential import SPENDING, adjusted_p, boundaries_of, spent_alpha
from rayscale.errors import InputError
from rayscale.spec import SweepSpec

AFTER = [10, 20, 30, 40, 50]
FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]
SWEEPS = 20_000


def test_meets_the_function_table(oracle: Callable[[str], dict[str, Any]]) -> None:
    cases = [case for case in oracle("pub09")["calls"] if case["fn"] == "group_sequential_two_sided_z"]
    assert len(cases) == 2
    for case in cases:
        found = boundaries_of(case["args"]["t"], case["args"]["alpha"], "obrien_fleming", 1)
        assert [boundary.z for boundary in found] == pytest.approx(case["expect"]["z"], rel=1e-8)
        assert [boundary.cumulative_alpha for boundary in found] == pytest.approx(case["expect"]["cum"], rel=1e-8)


def test_meets_the_published_pocock_type_boundaries() -> None:
    found = [boundary.z for boundary in boundaries_of(FIFTHS, 0.05, "pocock", 1)]
    assert found == pytest.approx([2.4380, 2.4268, 2.4102, 2.3966, 2.3860], abs=5e-5)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_the_boundaries_spend_what_they_say(spending: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    path = np.cumsum(rng.normal(0, math.sqrt(0.2), (100_000, 5, dim)), axis=1)
    statistic = np.sum(path**2, axis=2) / np.array(FIFTHS)
    found = boundaries_of(FIFTHS, 0.05, spending, dim)
    crossed = np.maximum.accumulate(statistic >= [boundary.statistic for boundary in found], axis=1).mean(axis=0)
    for share, boundary in zip(crossed, found, strict=True):
        spread = math.sqrt(boundary.cumulative_alpha / 100_000)
        assert share == pytest.approx(boundary.cumulative_alpha, abs=4 * spread + 1e-5)


def look_p_values(y: np.ndarray, looks: list[int]) -> np.ndarray:
    """Greenhouse-Geisser p of many sweeps at once; y has shape (sweeps, n, k), the result (sweeps, looks)."""
    k = y.shape[2]
    columns = []
    for n in looks:
        part = y[:, :n]
        mean = part.mean(axis=1, keepdims=True)
        grand = mean.mean(axis=2, keepdims=True)
        residual = part - mean - part.mean(axis=2, keepdims=True) + grand
        cross = np.einsum("sni,snj->sij", residual, residual)
        trace = np.trace(cross, axis1=1, axis2=2)
        eps = trace**2 / ((k - 1) * np.sum(cross**2, axis=(1, 2)))
        F = n * np.sum((mean - grand) ** 2, axis=(1, 2)) / (k - 1) / (trace / ((n - 1) * (k - 1)))
        df1, df2 = (k - 1) * eps, (n - 1) * (k - 1) * eps
        columns.append(special.betainc(df2 / 2, df1 / 2, df2 / (df2 + df1 * F)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("spending", "scale", "excess"),
    [
        ("obrien_fleming", (1.0, 1.0, 1.0), 0.0),
        ("pocock", (1.0, 1.0, 1.0), 0.0),
        ("obrien_fleming", (1.0, 2.0, 4.0), 0.0),
        # Greenhouse-Geisser is an approximation; at 10 blocks its far tail is a little too light (see `looks`).
        ("pocock", (1.0, 2.0, 4.0), 0.005),
    ],
)
def test_type_one_error_over_20000_null_sweeps(spending: str, scale: tuple[float, ...], excess: float) -> None:
    rng = np.random.default_rng(2601)
    y = rng.normal(size=(SWEEPS, 50, 3)) * scale + rng.normal(size=(SWEEPS, 50, 1))
    p = look_p_values(y, AFTER)
    nominal = [boundary.nominal for boundary in boundaries_of(FIFTHS, 0.05, spending, 2)]
    error = float((p <= nominal).any(axis=1).mean())
    monte_carlo = 3 * math.sqrt(0.05 * 0.95 / SWEEPS)
    print(f"{spending}: type-I error {error:.4f} over {SWEEPS} null sweeps (0.05 + {monte_carlo:.4f} allowed)")
    assert error <= 0.05 + monte_carlo + excess
    assert error > 0.03  # a rule that never stops would hold alpha, too
    assert float((p <= 0.05).any(axis=1).mean()) > 0.1  # what looking without a rule costs


def test_the_vectorised_p_is_that_of_a_look() -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=(20, 50, 3))
    p = look_p_values(y, AFTER)
    for sweep, n in itertools.product(range(20), range(5)):
        (effect,) = anova(y[sweep, : AFTER[n]], [3], ["tokens"]).effects
        assert p[sweep, n] == pytest.approx(effect.p_GG, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4, unique=True).filter(
        lambda t: min((b - a for a, b in itertools.pairwise(sorted(t))), default=1) > 0.02
    ),
    st.sampled_from(SPENDING),
    st.integers(1, 5),
    st.floats(0.001, 0.2),
)
def test_adjusted_p_agrees_with_the_boundary(fractions: list[float], spending: str, dim: int, alpha: float) -> None:
    times = [*sorted(fractions), 1.0]
    nominal = boundaries_of(times, alpha, spending, dim)[-1].nominal
    assert adjusted_p(nominal, times, alpha, spending, dim) == pytest.approx(alpha, rel=1e-6)
    lower, higher = (adjusted_p(nominal * factor, times, alpha, spending, dim) for factor in (0.5, 1.5))
    spent = spent_alpha(times[-2], alpha, spending)
    assert spent < lower < alpha < higher


def test_adjusted_p_of_a_single_look_is_its_own() -> None:
    assert adjusted_p(1e-200, [0.2], 0.05, "pocock", 2) == 1e-200
    spent = spent_alpha(0.2, 0.05, "pocock")
    assert adjusted_p(0.0, [0.2, 0.4], 0.05, "pocock", 2) == pytest.approx(spent)  # it underflowed


def test_adjusted_p_is_uniform_without_an_effect() -> None:
    """Its distribution function is the identity at every p, not only at alpha."""
    rng = np.random.default_rng(5)
    times = [0.5, 1.0]
    path = np.cumsum(rng.normal(0, math.sqrt(0.5), (4_000, 2, 2)), axis=1)
    p = special.chdtrc(2, np.sum(path**2, axis=2) / times)
    nominal = [boundary.nominal for boundary in boundaries_of(times, 0.05, "pocock", 2)]
    found = np.array([a if a <= nominal[0] else adjusted_p(b, times, 0.05, "pocock", 2) for a, b in p[:400]])
    for level in (0.1, 0.3, 0.5, 0.8):
        assert float((found <= level).mean()) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.001, 0.2), st.sampled_from(SPENDING))
def test_spending_grows_to_alpha(a: float, b: float, alpha: float, spending: str) -> None:
    low, high = spent_alpha(min(a, b), alpha, spending), spent_alpha(max(a, b), alpha, spending)
    assert 0 <= low <= high <= alpha
    assert spent_alpha(1.0, alpha, spending) == alpha


@pytest.mark.parametrize("times", [[], [0.0, 1.0], [0.5, 0.5], [0.6, 0.4], [0.5, 1.5]])
def test_impossible_looks_are_refused(times: list[float]) -> None:
    with pytest.raises(InputError, match="information fractions"):
        boundaries_of(times, 0.05, "pocock", 1)


def test_unknown_names_are_refused(make_spec: Callable[..., SweepSpec]) -> None:
    with pytest.raises(InputError, match="unknown spending"):
        spent_alpha(0.5, 0.05, "haybittle")
    with pytest.raises(InputError, match="alpha"):
        boundaries_of([1.0], 1.5, "pocock", 1)
    with pytest.raises(InputError, match=r"no design\.stop"):
        stop_rule(make_spec())


# -- looks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sequential_spec(make_spec: Callable[..., SweepSpec]) -> SweepSpec:
    plain = make_spec(repetitions=50).model_dump(exclude_unset=True)
    plain["design"]["stop"] = {"dv": "perplexity", "after": AFTER}
    return SweepSpec.model_validate(plain)


def cells_of(values: np.ndarray) -> Cells:
    subjects = tuple(str(index) for index in range(len(values)))
    return Cells(("tokens",), (("500000", "1000000", "2000000"),), subjects, values, values.size, 0)


def test_looks_follow_one_another_to_the_adjusted_p(sequential_spec: SweepSpec) -> None:
    rng = np.random.default_rng(11)
    y = rng.normal(size=(50, 3)) + np.array([0.0, 0.3, 0.6])
    looks: list[Look] = []
    for n in AFTER:
        looks.append(take_look(cells_of(y[:n]), sequential_spec, looks, last=n == 50))
        if looks[-1].decision != "continue":
            break
    document = {"plan": planned_looks(sequential_spec), "looks": [vars(look) for look in looks]}
    section = sequential_section(document, sequential_spec)["sequential"]
    assert len(looks) > 1
    assert section["decision"] == "efficacy"
    assert section["p_look"] < section["p_adjusted"] <= 0.05
    assert section["significant"] is True
    assert "adjusted for" in section["notes"][1]


def test_before_the_end_there_is_no_adjusted_p(sequential_spec: SweepSpec) -> None:
    y = np.random.default_rng(1).normal(size=(10, 3))
    look = take_look(cells_of(y), sequential_spec, [], last=False)
    document = {"plan": planned_looks(sequential_spec), "looks": [vars(look)]}
    section = sequential_section(document, sequential_spec)["sequential"]
    assert (section["decision"], section["p_adjusted"], section["significant"]) == ("continue", None, None)
    assert "not final" in section["notes"][0]


def test_a_look_without_error_variance_answers_nothing(sequential_spec: SweepSpec) -> None:
    look = take_look(cells_of(np.tile([1.0, 2.0, 3.0], (10, 1))), sequential_spec, [], last=False)
    assert (look.p, look.log10_p, look.decision) == (None, None, "continue")
    assert "p is undefined" in look.reason
    last = take_look(cells_of(np.full((1, 3), 2.0)), sequential_spec, [look], last=True)
    assert (last.F, last.halfwidth, last.decision) == (None, None, "end")


def test_a_p_that_underflows_keeps_its_logarithm(sequential_spec: SweepSpec) -> None:
    y = np.random.default_rng(0).normal(size=(50, 3)) * 1e-9 + [0.0, 1.0, 2.0]
    tiny = take_look(cells_of(y), sequential_spec, [], last=False)
    assert tiny.decision == "efficacy"
    assert tiny.log10_p is not None
    section = sequential_section({"plan": planned_looks(sequential_spec), "looks": [vars(tiny)]}, sequential_spec)
    assert section["sequential"]["significant"] is True
    assert section["sequential"]["log10_p_adjusted"] == tiny.log10_p


def test_the_halfwidth_is_that_of_the_widest_paired_interval() -> None:
    from scipy import stats

    y = np.random.default_rng(4).normal(size=(12, 3)) * [1, 2, 5]
    pairs = [(0, 1), (0, 2), (1, 2)]
    widths = [np.diff(stats.ttest_rel(y[:, a], y[:, b]).confidence_interval(0.95))[0] / 2 for a, b in pairs]
    assert widest_halfwidth(cells_of(y), 0.05) == pytest.approx(max(widths), rel=1e-9)
