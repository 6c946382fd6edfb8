from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from energy_traces import reading, sampled, trace_of
from fault_bench import attempt, during, gpu

from rayscale.energy.measure import energy_result, unavailable, value_at
from rayscale.energy.quality import judge
from rayscale.energy.reader import Reading
from rayscale.energy.sampler import SamplerStats
from rayscale.record import EnergyResult, Phase, Quality, Reason
from rayscale.spec import EnergySpec

SPEC = EnergySpec()
PHASES = [
    Phase(name="idle", start=0, end=5),
    Phase(name="context_idle", start=5, end=10),
    Phase(name="eval", start=10, end=11),
    Phase(name="train", start=11, end=41),
    Phase(name="eval", start=41, end=42),
]


def power(t: float) -> float:
    return 50.0 if t < 4.999 else 80.0 if t < 9.999 else 300.0


def rows(counter_factor: float | None = 1.0) -> list[Reading]:
    made = sampled(power, 43.0, counter=True)
    factor = 0.0 if counter_factor is None else counter_factor
    energies = [None if counter_factor is None else (row.energy_j or 0.0) * factor for row in made]
    return [
        dataclasses.replace(row, energy_j=energy, temperature_c=30.0 + row.t, throttle="SwPowerCap")
        for row, energy in zip(made, energies, strict=True)
    ]


def verdict(made: list[Reading], source: str = "nvml", **kwargs: object) -> tuple[Quality, EnergyResult]:
    trace = trace_of(made, source)  # type: ignore[arg-type]
    stats = kwargs.pop("stats", None)
    result = energy_result(trace, PHASES, SPEC)
    return judge(trace, PHASES, result, SPEC, stats, **kwargs), result  # type: ignore[arg-type]


def codes(quality: Quality) -> dict[str, str]:
    return {reason.code: reason.verdict for reason in quality.reasons}


def test_clean_attempt_on_a_gpu() -> None:
    quality, result = verdict(rows(), stats=SamplerStats(polls=431), reference_c=40.0)
    assert quality == Quality(verdict="clean", reasons=[])
    assert set(result.phases) == {"idle", "context_idle", "eval", "train"}
    assert result.phases["train"].energy_j == pytest.approx(9000.0)
    assert result.phases["eval"].energy_j == pytest.approx(600.0)
    assert result.phases["eval"].duration_s == 2.0
    assert (result.net_baseline, result.idle_w) == ("context_idle", pytest.approx(80.0))
    assert result.net_energy_j == pytest.approx(9000 - 80 * 30)
    assert result.idle_sd_w is not None
    assert result.idle_sd_w < 35  # one sample at the phase's end shows the next level
    assert (result.temp_start_c, result.temp_end_c) == (pytest.approx(41.0), pytest.approx(71.0))
    assert result.method == "counter; a nvml device"
    assert result.sampler["polls"] == 431


def test_both_baselines_are_stored_with_mean_sd_and_n() -> None:
    _, result = verdict(rows())
    bare, context = result.phases["idle"], result.phases["context_idle"]
    assert (bare.mean_w, context.mean_w) == (pytest.approx(50.0), pytest.approx(80.0))
    assert (bare.samples, context.samples) == (51, 51)
    assert (bare.sd_w, context.sd_w) == (pytest.approx(30 / math.sqrt(51)), pytest.approx(220 / math.sqrt(51)))
    assert result.idle_sd_w == context.sd_w
    train = result.phases["train"]
    assert train.bound_j is not None
    assert context.bound_j is not None
    assert result.net_bound_j == pytest.approx(train.bound_j + context.bound_j / 5 * 30)


def test_thresholds_are_those_of_the_sweep_file() -> None:
    """Each rule with a number flags at the default, and does not where the file allows more."""
    failed = [reading(row.t) if 20 < row.t < 20.55 else row for row in rows()]
    hot = [dataclasses.replace(row, throttle="HwThermalSlowdown" if 20 < row.t < 21 else "") for row in rows()]
    limits = [dataclasses.replace(row, power_limit_w=700.0 if row.t < 20 else 690.0) for row in rows()]
    gap = [row for row in rows() if not 20 < row.t < 23]
    stale = [dataclasses.replace(row, energy_j=min(row.energy_j or 0.0, 8000.0)) for row in rows()]
    cases: list[tuple[str, list[Reading], dict[str, float]]] = [
        ("sampler_errors", failed, {"max_failed_polls": 0.5}),
        ("throttled", hot, {"max_throttled": 0.5}),
        ("limit_changed", limits, {"max_limit_change": 0.05}),
        ("coverage", gap, {"min_coverage": 0.5}),
        ("disagreement", rows(1.05), {"suspect_disagreement": 0.5}),
        ("counter_stale", stale, {"max_standstill": 30.0}),
    ]
    for code, made, allowed in cases:
        trace = trace_of(made)
        for spec, flagged in ((EnergySpec(), True), (EnergySpec.model_validate(allowed), False)):
            found = codes(judge(trace, PHASES, energy_result(trace, PHASES, spec), spec, None))
            assert (code in found) == flagged, code


def test_which_counter_is_believed_is_a_setting() -> None:
    """The energy is the counter's while it is near the integral and moves; both limits are the sweep file's."""
    slow = [dataclasses.replace(row, energy_j=300.0 * (row.t // 1.5) * 1.5 + 1.0) for row in rows()]
    cases: list[tuple[list[Reading], dict[str, float | str], str]] = [
        (rows(1.15), {}, "integral of power"),
        (rows(1.15), {"max_counter_deviation": 0.2}, "counter"),
        (rows(1.05), {}, "counter"),
        (rows(1.05), {"max_counter_deviation": 0.01}, "integral of power"),
        (slow, {}, "integral of power"),
        (slow, {"max_standstill": "2s"}, "counter"),
        (rows(), {"max_standstill": "50ms"}, "counter"),
    ]
    for made, settings, method in cases:
        spec = EnergySpec.model_validate(settings)
        trace = trace_of(made)
        result = energy_result(trace, PHASES, spec)
        assert result.method.startswith(method), settings
        assert ("counter_stale" in codes(judge(trace, PHASES, result, spec, None))) == (made is slow and not settings)
    assert EnergySpec().model_dump(exclude_defaults=True) == {}


def test_net_energy_takes_plain_idle_without_context_and_is_never_floored() -> None:
    trace = trace_of(sampled(lambda t: 100.0 if t < 5 else 60.0, 20.0))
    phases = [Phase(name="idle", start=0, end=5), Phase(name="train", start=5, end=15)]
    result = energy_result(trace, phases, SPEC)
    assert result.net_baseline == "idle"
    assert result.net_energy_j == pytest.approx(-400.0)
    assert result.idle_w == pytest.approx(100.0)
    assert result.idle_sd_w == pytest.approx(math.sqrt(50 * (40 / 51) ** 2 / 50 + (40 * 50 / 51) ** 2 / 50))
    none = energy_result(trace, phases[1:], SPEC)
    assert (none.net_energy_j, none.net_baseline, none.idle_w, none.idle_sd_w) == (None, None, None, None)


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.02, None), (1.05, "suspect"), (0.95, "suspect"), (1.2, "invalid"), (0.5, "invalid")]
)
def test_disagreement_of_the_estimates(factor: float, expected: str | None) -> None:
    quality, result = verdict(rows(factor))
    assert codes(quality).get("disagreement") == expected
    assert quality.verdict == (expected or "clean")
    assert result.method.startswith("integral of power" if expected == "invalid" else "counter")


def test_gaps_make_suspect_and_invalid_without_a_counter() -> None:
    few = [row for row in rows() if not 20.05 < row.t < 25.0]
    assert codes(verdict(few)[0]) == {"coverage": "suspect"}
    many = [row for row in rows() if not 12.05 < row.t < 35.0]
    quality, result = verdict(many)
    assert codes(quality) == {"coverage": "suspect"}
    # the counter ran on through the gap, so the energy itself is still right
    assert result.phases["train"].energy_j == pytest.approx(9000.0)
    alone = [dataclasses.replace(row, energy_j=None) for row in many]
    assert codes(verdict(alone)[0]) == {"no_energy": "invalid", "coverage": "suspect"}


def test_counter_faults_are_named() -> None:
    reset = [dataclasses.replace(row, energy_j=row.t if row.t > 20.05 else row.energy_j) for row in rows()]
    assert "counter_reset" in codes(verdict(reset)[0])
    stale = [dataclasses.replace(row, energy_j=min(row.energy_j or 0.0, 8000.0)) for row in rows()]
    quality, result = verdict(stale)
    assert "counter_stale" in codes(quality)
    assert result.phases["train"].energy_j == pytest.approx(9000.0)


def test_failed_polls_and_sampler_faults_are_named() -> None:
    failed = [reading(row.t) if 20 < row.t < 20.55 else row for row in rows()]
    quality, _ = verdict(failed, stats=SamplerStats(first_error="RuntimeError: GPU is lost"))
    assert codes(quality) == {"sampler_errors": "suspect"}
    assert "GPU is lost" in quality.reasons[0].detail
    assert codes(verdict(rows(), stats=SamplerStats(write_error="disk full"))[0]) == {"sampler_errors": "suspect"}
    assert codes(verdict(rows(), stats=SamplerStats(died=True))[0]) == {"sampler_died": "suspect"}


def test_throttling_counts_but_not_the_power_cap() -> None:
    hot = [dataclasses.replace(row, throttle="SwPowerCap+HwSlowdown" if row.t > 40 else "") for row in rows()]
    quality, _ = verdict(hot)
    assert codes(quality) == {"throttled": "suspect"}
    assert "HwSlowdown" in quality.reasons[0].detail
    assert "SwPowerCap" not in quality.reasons[0].detail
    rare = [dataclasses.replace(row, throttle="HwSlowdown" if 40.01 < row.t < 40.25 else "") for row in rows()]
    assert codes(verdict(rare)[0]) == {}
    assert codes(verdict([dataclasses.replace(row, throttle=None) for row in rows()])[0]) == {}


def test_temperature_and_reasons_of_others() -> None:
    assert codes(verdict(rows(), reference_c=35.0)[0]) == {"temperature_not_settled": "suspect"}
    assert codes(verdict(rows(), reference_c=36.5)[0]) == {}
    wrong = Reason(code="wrong_device", detail="GPU-2", verdict="invalid")
    assert verdict(rows(), extra=[wrong])[0] == Quality(verdict="invalid", reasons=[wrong])


def test_estimate_is_suspect_and_says_so() -> None:
    made = sampled(power, 43.0, counter=True)
    shifted = [reading(b.t, a.power_w, b.energy_j) for a, b in itertools.pairwise(made)]
    quality, result = verdict([reading(0.0, None, 0.0), *shifted], "estimated")
    assert codes(quality) == {"estimated": "suspect"}
    assert result.estimated
    assert result.phases["train"].energy_j == pytest.approx(9000.0)
    assert result.phases["train"].integral_j == pytest.approx(9000.0)
    assert result.method == "a estimated device"


def test_short_phase() -> None:
    trace = trace_of(rows())
    phases = [Phase(name="train", start=11.02, end=11.4)]
    result = energy_result(trace, phases, SPEC)
    assert codes(judge(trace, phases, result, SPEC, None)) == {"short_phase": "suspect"}
    assert codes(judge(trace, phases, result, EnergySpec(min_periods=3), None)) == {}


def test_nothing_measured_is_null_and_invalid() -> None:
    result = unavailable(PHASES, "the sampler died")
    assert (result.source, result.method) == ("none", "unavailable: the sampler died")
    assert result.phases["eval"].duration_s == 2.0
    assert all(phase.energy_j is None and phase.mean_w is None for phase in result.phases.values())
    quality = judge(None, PHASES, result, SPEC, None)
    assert codes(quality) == {"no_energy": "invalid"}
    assert "the sampler died" in quality.reasons[0].detail
    cut, _ = verdict([row for row in rows() if row.t < 15])
    assert codes(cut)["no_energy"] == "invalid"
    assert codes(judge(None, [], unavailable([], "x"), SPEC, None)) == {"no_energy": "invalid"}


def test_slow_quantities_are_held() -> None:
    trace = trace_of([reading(0.0), reading(1.0, temperature=40.0), reading(2.0), reading(3.0, temperature=50.0)])
    at = [value_at(trace.t, trace.temperature_c, when) for when in (0.5, 1.0, 2.9, 3.0, 9.0)]
    assert at == [40.0, 40.0, 40.0, 50.0, 50.0]
    assert value_at(trace.t, trace.power_w, 1.0) is None


def test_a_counter_misread_once_is_told_and_counted_only_once() -> None:
    """One read lies below the one before it, the next is right again: no reset, so nothing was lost."""
    begin = during(0.5, 0.6)[0] + 0.5
    outcome = attempt(gpu(counter_misread=(begin, begin + 1.0)))
    assert outcome.codes == {"counter_reset"}
    assert outcome.energy_is_right
    assert outcome.result is not None
    assert outcome.result.phases["train"].counter_j == pytest.approx(outcome.truth_j, rel=0.005)
