"""Alpha spending: published boundaries, simulated type-I error over 20,000 null sweeps, adjusted p."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from rayscale.analysis.anova import anova
from rayscale.analysis.cells import Cells
from rayscale.analysis.looks import (
    Look,
    planned_looks,
    sequential_section,
    stop_rule,
    take_look,
    widest_halfwidth,
    with_sequential,
)
from rayscale.analysis.run import AnalysisRequest, analyze_frame
from rayscale.analysis.sequential import SPENDING, adjusted_p, boundaries_of, spent_alpha
from rayscale.analysis.sequential_estimate import estimate_drift
from rayscale.analysis.sequential_size import small_sample_factor
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


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 4.0), (1.0, 1.0, 4.0)])
def test_type_one_error_over_20000_null_sweeps(spending: str, scale: tuple[float, ...]) -> None:
    rng, k = np.random.default_rng(2601), len(scale)
    y = rng.normal(size=(SWEEPS, 50, k)) * scale + rng.normal(size=(SWEEPS, 50, 1))
    p = look_p_values(y, AFTER)
    nominal = tuple(boundary.nominal for boundary in boundaries_of(FIFTHS, 0.05, spending, k - 1))
    careful = small_sample_factor(tuple(AFTER), nominal, 0.05, k - 1) * np.array(nominal)
    error = float((p <= careful).any(axis=1).mean())
    monte_carlo = 3 * math.sqrt(0.05 * 0.95 / SWEEPS)
    print(f"{spending} {scale}: type-I error {error:.4f} over {SWEEPS} null sweeps (0.05 + {monte_carlo:.4f} allowed)")
    assert error <= 0.05 + monte_carlo
    assert error > 0.03  # a rule that never stops would hold alpha, too
    assert float((p <= 0.05).any(axis=1).mean()) > 0.1  # what looking without a rule costs


def test_small_samples_without_the_factor_exceed_alpha() -> None:
    """What the factor is for: five looks from 5 blocks on, one level far more variable than the others."""
    rng, looks = np.random.default_rng(8), [5, 10, 15, 20]
    p = look_p_values(rng.normal(size=(SWEEPS, 20, 3)) * (1, 1, 4), looks)
    nominal = tuple(b.nominal for b in boundaries_of([n / 20 for n in looks], 0.05, "pocock", 2))
    factor = small_sample_factor(tuple(looks), nominal, 0.05, 2)
    before, after = (float((p <= share * np.array(nominal)).any(axis=1).mean()) for share in (1.0, factor))
    monte_carlo = 3 * math.sqrt(0.05 * 0.95 / SWEEPS)
    assert 0.7 < factor < 1
    assert before > 0.05 + monte_carlo / 3
    assert after <= 0.05 + monte_carlo
    assert small_sample_factor((20,), (0.05,), 0.05, 2) == 1.0  # a single look is the ordinary test
    hopeless = boundaries_of([2 / 500, 1.0], 0.05, "obrien_fleming", 2)  # two blocks can never be enough
    assert 0.9 < small_sample_factor((2, 500), tuple(b.nominal for b in hopeless), 0.05, 2) <= 1.0


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("stage", [1, 3])
def test_the_adjusted_effect_splits_the_outcomes_in_halves(dim: int, stage: int) -> None:
    """Under the median-unbiased drift half of all studies do better than the one observed; likewise at the interval."""
    times, rng = FIFTHS[:stage], np.random.default_rng(dim)
    bounds = [b.statistic for b in boundaries_of(FIFTHS, 0.05, "pocock", dim)]
    statistic = bounds[stage - 1] + 3.0
    found = estimate_drift(float(special.chdtrc(dim, statistic)), times, 0.05, "pocock", dim, 0.9)
    assert found is not None
    for drift, share in ((found.median, 0.5), (found.ci[0], 0.05), (found.ci[1], 0.95)):
        steps = rng.normal(0, math.sqrt(0.2), (20_000, stage, dim))
        steps[:, :, 0] += 0.2 * drift
        reached = np.sum(np.cumsum(steps, axis=1) ** 2, axis=2) / times
        before = (reached[:, :-1] >= bounds[: stage - 1]).any(axis=1)
        extreme = before | (reached[:, -1] >= statistic)
        assert float(extreme.mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))
    assert found.shrinkage == pytest.approx(1.0) if stage == 1 else found.shrinkage < 1.0


def test_estimates_at_the_ends() -> None:
    nothing = estimate_drift(0.99, FIFTHS, 0.05, "pocock", 2, 0.95)
    assert nothing is not None
    assert (nothing.naive, nothing.median, nothing.ci[0]) == (0.0, 0.0, 0.0)
    assert math.isnan(nothing.shrinkage)
    assert estimate_drift(0.0, [0.2], 0.05, "pocock", 2, 0.95) is None  # so clear that nothing is biased


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
    factor = planned_looks(sequential_spec)["small_sample_factor"]
    assert section["sequential"]["log10_p_adjusted"] == pytest.approx(tiny.log10_p - math.log10(factor))


def test_the_halfwidth_is_that_of_the_widest_paired_interval() -> None:
    from scipy import stats

    y = np.random.default_rng(4).normal(size=(12, 3)) * [1, 2, 5]
    pairs = [(0, 1), (0, 2), (1, 2)]
    widths = [np.diff(stats.ttest_rel(y[:, a], y[:, b]).confidence_interval(0.95))[0] / 2 for a, b in pairs]
    assert widest_halfwidth(cells_of(y), 0.05) == pytest.approx(max(widths), rel=1e-9)


def test_a_stopped_sweep_shows_naive_and_adjusted_differences(sequential_spec: SweepSpec) -> None:
    y = np.random.default_rng(11).normal(size=(50, 3)) + np.array([0.0, 0.3, 0.6])
    looks: list[Look] = []
    for n in AFTER:
        looks.append(take_look(cells_of(y[:n]), sequential_spec, looks, last=n == 50))
        if looks[-1].decision != "continue":
            break
    used = looks[-1].n
    assert 10 < used < 50
    frame = pd.DataFrame(
        [(i, level, y[i, j]) for i in range(used) for j, level in enumerate((500_000, 1_000_000, 2_000_000))],
        columns=["repetition", "tokens", "perplexity"],
    )
    measure = analyze_frame(frame, AnalysisRequest(("perplexity",)))
    document = {"plan": planned_looks(sequential_spec), "looks": [vars(look) for look in looks]}
    tree = with_sequential({"results": {"perplexity": measure}}, document, sequential_spec)
    found = tree["sequential"]["estimates"]
    assert 0.5 < found["shrinkage"] < 1
    assert found["effect_per_block"]["adjusted"] < found["effect_per_block"]["naive"]
    pair, naive = found["pairs"]["500000|2000000"], measure["pairwise"]["500000|2000000"]
    assert pair["mean_diff_adjusted"] == pytest.approx(found["shrinkage"] * naive["mean_diff"])
    assert pair["repeated_ci95"]["lo"] < naive["ci95"]["lo"] < naive["ci95"]["hi"] < pair["repeated_ci95"]["hi"]
    notes = tree["results"]["perplexity"]["notes"]
    assert any("tends to overstate its effect" in note for note in notes)
    assert any("500000 - 2000000" in note and "adjusted" in note for note in notes)
    more = {**document, "looks": [{**document["looks"][0], "decision": "end"}]}
    other = with_sequential({"results": {"perplexity": measure}}, more, sequential_spec)
    assert other["sequential"]["estimates"] is None  # the blocks since are not those of the look


class TestSeveralFactors:
    def spec(self, make_spec: Callable[..., SweepSpec], **stop: Any) -> SweepSpec:
        design = {
            "factors": {"tokens": [500_000, 1_000_000, 2_000_000], "train.precision": ["fp32", "bf16"]},
            "repetitions": 20,
            "stop": {"dv": "perplexity", "after": [10], **stop},
        }
        return make_spec(design=design)

    def cells(self, effect: np.ndarray) -> Cells:
        y = np.random.default_rng(0).normal(0, 1, (10, 6)) + effect
        labels = (("500000", "1000000", "2000000"), ("fp32", "bf16"))
        return Cells(("tokens", "train.precision"), labels, tuple(map(str, range(10))), y, 60, 0)

    @pytest.mark.parametrize(
        ("named", "name", "dim", "effect"),
        [
            (None, "tokens", 2, [0, 0, 3, 3, 6, 6]),
            ("train.precision", "train.precision", 1, [0, 4, 0, 4, 0, 4]),
            ("train.precision:tokens", "tokens:train.precision", 2, [0, 6, 3, 3, 6, 0]),
        ],
    )
    def test_the_effect_named_is_tested(
        self, make_spec: Callable[..., SweepSpec], named: str | None, name: str, dim: int, effect: list[float]
    ) -> None:
        spec = self.spec(make_spec, effect=named)
        plan = planned_looks(spec)
        assert (plan["factor"], plan["effect_df"]) == (name, dim)
        assert take_look(self.cells(np.array(effect)), spec, [], last=False).decision == "efficacy"
        others = {"tokens": [0, 4, 0, 4, 0, 4], "train.precision": [0, 0, 3, 3, 6, 6]}
        other = np.array(others.get(name, [0, 0, 3, 3, 6, 6]))
        assert take_look(self.cells(other), spec, [], last=False).decision == "continue"

    @pytest.mark.parametrize(
        ("stop", "message"),
        [
            ({"effect": "train.precison"}, "expected one of tokens, train.precision"),
            ({"effect": "tokens:tokens"}, "stop.effect"),
            ({"effect": "tokens:train.precision", "target_halfwidth": 1.0}, "an interaction has no levels"),
        ],
    )
    def test_what_cannot_be_tested_is_refused(
        self, make_spec: Callable[..., SweepSpec], stop: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            self.spec(make_spec, **stop)

    def test_the_adjusted_differences_are_those_of_the_effect(self, make_spec: Callable[..., SweepSpec]) -> None:
        spec = self.spec(make_spec, effect="train.precision")
        cells = self.cells(np.array([0, 4, 0, 4, 0, 4]))
        look = take_look(cells, spec, [], last=False)
        grid = itertools.product((500_000, 1_000_000, 2_000_000), ("fp32", "bf16"))
        rows = [(i, *cell, cells.values[i, j]) for j, cell in enumerate(grid) for i in range(10)]
        frame = pd.DataFrame(rows, columns=["repetition", "tokens", "train.precision", "perplexity"])
        measure = analyze_frame(frame, AnalysisRequest(("perplexity",), ("tokens", "train.precision")))
        document = {"plan": planned_looks(spec), "looks": [vars(look)]}
        tree = with_sequential({"results": {"perplexity": measure}}, document, spec)
        assert list(tree["sequential"]["estimates"]["pairs"]) == ["fp32|bf16"]


@pytest.mark.parametrize("spending", SPENDING)
def test_repetitions_saved_at_the_effect_of_the_seed_study(spending: str) -> None:
    """arXiv 2601.06649: F(2, 98) = 24268.23 with 50 repetitions; every sweep would have stopped at its first look."""
    effect = math.sqrt(2 * (24268.23 - 1) / 50)  # root of the noncentrality per repetition
    means = np.array([-1.0, 0.0, 1.0]) / math.sqrt(2) * effect
    y = np.random.default_rng(4).normal(size=(2_000, 50, 3)) + means
    nominal = tuple(b.nominal for b in boundaries_of(FIFTHS, 0.05, spending, 2))
    careful = small_sample_factor(tuple(AFTER), nominal, 0.05, 2) * np.array(nominal)
    crossed = look_p_values(y, AFTER) <= careful
    used = np.array(AFTER)[np.argmax(crossed, axis=1)]
    print(f"{spending}: {50 - used.mean():.1f} of 50 repetitions saved at the seed study's effect size")
    assert crossed.any(axis=1).all()
    assert np.all(used == 10)
    # With an effect of the size of the noise it takes more looks, and still saves some.
    small = np.random.default_rng(5).normal(size=(2_000, 50, 3)) + means / effect * 0.7
    stops = look_p_values(small, AFTER) <= careful
    later = np.where(stops.any(axis=1), np.array(AFTER)[np.argmax(stops, axis=1)], 50)
    assert 10 < later.mean() < 50


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_repeated_intervals_cover_wherever_the_sweep_stops(effect: float) -> None:
    """Two levels, Pocock; the repeated interval covers at least as often as promised, the naive one less often."""
    d = np.random.default_rng(6).normal(effect, 1, (SWEEPS, 50))
    nominal = tuple(b.nominal for b in boundaries_of(FIFTHS, 0.05, "pocock", 1))
    careful = small_sample_factor(tuple(AFTER), nominal, 0.05, 1) * np.array(nominal)
    parts = [d[:, :n] for n in AFTER]
    mean = np.stack([part.mean(axis=1) for part in parts], axis=1)
    se = np.stack([part.std(axis=1, ddof=1) / math.sqrt(part.shape[1]) for part in parts], axis=1)
    df = np.array(AFTER) - 1
    p = 2 * special.stdtr(df, -np.abs(mean / se))
    stop = np.where((p <= careful).any(axis=1), np.argmax(p <= careful, axis=1), 4)
    at = (np.arange(SWEEPS), stop)
    off = np.abs(mean[at] - effect) / se[at]
    repeated = float(np.mean(off <= -special.stdtrit(df[stop], careful[stop] / 2)))
    naive = float(np.mean(off <= -special.stdtrit(df[stop], 0.025)))
    assert repeated >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / SWEEPS)
    assert naive < repeated
