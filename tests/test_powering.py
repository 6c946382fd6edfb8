"""`rayscale power` and `rayscale check-reported` as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.cells import Cells
from rayscale.analysis.power import Design, pilot_effect, rm_power, smallest_difference, smallest_effect
from rayscale.cli import run_command
from rayscale.errors import InputError
from rayscale.powering import PowerRequest, power_document
from rayscale.spec import SweepSpec


def test_power_answers_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["power", "--f", ".25", "--levels", "3", "--rho", ".5", "--n", "28"]
    assert run_command(arguments) == 0
    text = capsys.readouterr().out
    assert "power with 28 repetitions: 0.8125" in text
    assert "repetitions for power 0.8: 28" in text
    assert run_command([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["power_at_n"]["power"] == pytest.approx(0.812454611, rel=1e-8)
    assert document["n_for_power"] == {"power": 0.8, "n": 28}
    assert document["smallest_effect"]["f"] < 0.25


def test_power_from_means_and_deviations(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["power", "--means", "1,2,3", "--sd-error", "2", "--sd-subject", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["design"]["rho"] == pytest.approx(0.2)
    assert document["n_for_power"]["n"] == 21


def test_power_from_a_pilot_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_ledger(tmp_path, repetitions=6)
    assert run_command(["power", str(ledger.root), "--from-ledger", "--dv", "perplexity", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pilot"]["n"] == 6


@pytest.mark.parametrize(
    "wrong",
    [
        ["power"],
        ["power", "--f", ".25"],
        ["power", "--f", ".25", "--levels", "1"],
        ["power", "--from-ledger", "--n", "5", "--levels", "3"],
        ["check-reported"],
        ["check-reported", "--F", "24268.23"],
        ["check-reported", "--F", "x", "--df", "2,98"],
    ],
)
def test_what_cannot_be_planned_or_checked_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(wrong) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expected" in captured.err or "needs" in captured.err


def test_check_reported_answers_and_its_exit_code_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check-reported", "--F", "24268.23", "--df", "2,98"]
    assert run_command([*arguments, "--ges", ".997", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["F_subject"] == pytest.approx(0.98056, rel=1e-4)
    assert run_command([*arguments, "--ges", ".999"]) == 1
    assert "do NOT fit together" in capsys.readouterr().out
    assert run_command(["check-reported", "--t", "1.9377", "--df", "49", "--comparisons", "3", "--p", ".1753"]) == 0


def simulated_power(means: np.ndarray, sd: float, n: int, sweeps: int = 4000) -> float:
    """Share of sweeps of n repetitions whose F over the given means (shape k) is significant at 0.05."""
    from scipy import special

    k = len(means)
    y = np.random.default_rng(1).normal(0, sd, (sweeps, n, k)) + means
    columns, rows = y.mean(axis=1, keepdims=True), y.mean(axis=2, keepdims=True)
    grand = columns.mean(axis=2, keepdims=True)
    error = np.sum((y - columns - rows + grand) ** 2, axis=(1, 2)) / ((n - 1) * (k - 1))
    F = n * np.sum((columns - grand) ** 2, axis=(1, 2)) / (k - 1) / error
    return float(np.mean(special.fdtrc(k - 1, (n - 1) * (k - 1), F) < 0.05))


def test_the_smallest_difference_is_found_with_the_power_it_promises() -> None:
    design, n, sd = Design(levels=3, rho=0.3), 12, 2.5
    difference = smallest_difference(smallest_effect(n, 0.8, design), design, sd)
    assert simulated_power(np.array([-0.5, 0.0, 0.5]) * difference, sd, n) == pytest.approx(0.8, abs=0.025)


class TestSeveralFactors:
    def spec(self, repetitions: int = 6) -> SweepSpec:
        factors: dict[str, Any] = {"tokens": [12_500, 25_000, 50_000], "train.precision": ["fp32", "bf16"]}
        return example_spec(design={"factors": factors, "repetitions": repetitions})

    def test_a_level_is_averaged_over_the_other_factors(self) -> None:
        request = PowerRequest(means=(1.0, 2.0, 3.0), sd_error=3.0, n=10)
        found = power_document(request, self.spec())
        assert found["effect"]["name"] == "tokens"
        assert found["power_at_n"]["power"] == pytest.approx(
            simulated_power(np.array([1.0, 2.0, 3.0]), 3.0 / 2**0.5, 10), abs=0.025
        )
        alone = power_document(PowerRequest(means=(1.0, 2.0, 3.0), sd_error=3.0, n=10))
        assert alone["power_at_n"]["power"] < found["power_at_n"]["power"]

    def test_other_effects_have_their_own_df(self) -> None:
        documents = {
            name: power_document(PowerRequest(f=0.3, n=10, effect=name), self.spec())
            for name in ("tokens", "train.precision", "train.precision:tokens")
        }
        assert [found["design"]["effect_df"] for found in documents.values()] == [2, 1, 2]
        assert documents["train.precision:tokens"]["effect"]["name"] == "tokens:train.precision"
        assert documents["train.precision"]["power_at_n"]["power"] == pytest.approx(rm_power(0.3, 10, Design(2)))

    def test_a_pilot_plans_every_effect(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ledger = make_ledger(tmp_path, self.spec())
        command = ["power", str(ledger.root), "--from-ledger", "--dv", "perplexity", "--n", "20"]
        assert run_command([*command, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert list(found["effects"]) == ["tokens", "train.precision", "tokens:train.precision"]
        for name, row in found["effects"].items():
            assert run_command([*command, "--effect", name, "--json"]) == 0
            single = json.loads(capsys.readouterr().out)
            assert row["n_for_power"] == single["n_for_power"]["n"]
            assert row["power_at_n"] == single["power_at_n"]["power"]
            assert row["smallest_f"] == single["smallest_effect"]["f"]
            assert (row["smallest_difference"] is None) == (":" in name)
        assert run_command(command) == 0
        text = capsys.readouterr().out
        assert "tokens:train.precision (df1 2): F =" in text
        assert "difference of" in text

    def test_the_pilot_effect_of_a_factor_is_that_of_its_marginal_means(self) -> None:
        y = np.random.default_rng(3).normal(size=(9, 6)) + np.repeat([0.0, 0.5, 1.0], 2)
        labels = (("a", "b", "c"), ("x", "y"))
        both = Cells(("tokens", "p"), labels, tuple(map(str, range(9))), y, 54, 0)
        means = y.reshape(9, 3, 2).mean(axis=2)
        one = Cells(("tokens",), labels[:1], both.subjects, means, 27, 0)
        found, alone = pilot_effect(both, "y", 0.05), pilot_effect(one, "y", 0.05)
        assert (found.F, found.sd_error) == pytest.approx((alone.F, alone.sd_error))
        rates = [pilot.design.rate(pilot.f) for pilot in (found, alone)]
        assert rates[0] == pytest.approx(rates[1])

    def test_impossible_effects_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"expected one of tokens, train\.precision"):
            power_document(PowerRequest(f=0.3, n=10, effect="precision"), self.spec())
        with pytest.raises(InputError, match="--effect tokens: expected a sweep file"):
            power_document(PowerRequest(f=0.3, n=10, effect="tokens", levels=3))
        request = PowerRequest(means=(1.0, 2.0), sd_error=1.0, effect="tokens:train.precision")
        with pytest.raises(InputError, match="expected --f for the interaction"):
            power_document(request, self.spec())
