"""The methods paragraph of a sweep: devices, energy and its trust, exclusions, the stop rule, versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayscale import __version__
from rayscale.analysis.methods import methods_paragraph
from rayscale.analysis.run import analyze_records
from rayscale.record import Quality, Record
from rayscale.spec import SweepSpec

MakeSpec = Callable[..., SweepSpec]
MakeRecords = Callable[..., list[Record]]
ANALYSIS = {"dv": ["joules_per_token", "perplexity"]}
SEQUENTIAL: dict[str, Any] = {
    "n_used": 10,
    "repetitions": 20,
    "looks": [{}],
    "decision": "efficacy",
    "log10_p_adjusted": -3.0,
}


def test_measured_energy_comes_with_method_and_coverage(make_spec: MakeSpec, make_records: MakeRecords) -> None:
    spec = make_spec(analysis=ANALYSIS)
    text = methods_paragraph(analyze_records(make_records(spec), spec))
    assert "The energy of the training phase was measured (counter)." in text
    assert "Power was sampled every 100 ms; the samples cover 100% of the training phases" in text
    assert "edges and gaps leave ±" in text
    assert "estimated" not in text
    assert "All runs were executed on one device (cpu)" in text
    assert "flagged" not in text
    assert "looks" not in text


def test_estimated_energy_is_never_called_measured(make_spec: MakeSpec, make_records: MakeRecords) -> None:
    spec = make_spec(analysis=ANALYSIS)
    text = methods_paragraph(analyze_records(make_records(spec, estimated=True), spec))
    assert "Energy was not measured but estimated from processor time (5 W + 10 W per busy CPU)." in text
    assert "the error of the estimate itself is unknown" in text
    assert "was measured" not in text


def test_excluded_and_flagged_runs_are_counted_with_their_reasons(
    make_spec: MakeSpec, make_records: MakeRecords
) -> None:
    spec = make_spec(analysis=ANALYSIS)
    records = make_records(spec)
    for index, verdict, code in ((1, "invalid", "coverage"), (5, "suspect", "counter_reset")):
        reason = {"code": code, "detail": "why", "verdict": verdict}
        quality = Quality.model_validate({"verdict": verdict, "reasons": [reason]})
        records[index] = records[index].model_copy(update={"quality": quality})
    text = methods_paragraph(analyze_records(records[:-1], spec))
    assert "Of 12 planned runs 11 were completed; 1 of these was excluded" in text
    assert "declared beforehand (coverage)" in text
    assert "1 run in the analysis is flagged as suspect by the quality rules (counter reset in 1)" in text
    assert "were left out listwise: 2 of 4 for joules_per_token, 2 of 4 for perplexity" in text


@pytest.mark.parametrize("split", [False, True])
def test_several_devices_are_named_with_the_blocks_they_split(
    make_spec: MakeSpec, make_records: MakeRecords, split: bool
) -> None:
    spec = make_spec(analysis=ANALYSIS)
    records = [
        record.model_copy(
            update={
                "device": record.device.model_copy(update={"uuid": f"gpu-{(index if split else record.block) % 2}"})
            }
        )
        for index, record in enumerate(make_records(spec))
    ]
    text = methods_paragraph(analyze_records(records, spec))
    assert "on 2 devices (2 x cpu)" in text
    assert ("every block on one device" in text) == (not split)
    assert ("4 of 4 blocks on more than one" in text) == split


def test_the_stop_rule_is_told_with_what_it_did(make_spec: MakeSpec, make_records: MakeRecords) -> None:
    spec = make_spec(repetitions=20, analysis=ANALYSIS)
    design = spec.design.model_dump() | {"stop": {"dv": "perplexity", "after": [10], "spending": "pocock"}}
    spec = SweepSpec.model_validate(spec.model_dump() | {"design": design})
    tree = analyze_records(make_records(spec), spec)
    planned = methods_paragraph(tree)
    assert "looks at perplexity were planned after 10 complete blocks and at the end" in planned
    assert "alpha spent after Pocock" in planned
    assert "ended after" not in planned
    ended = methods_paragraph(tree | {"sequential": SEQUENTIAL})
    assert "The sweep ended after 10 of 20 blocks at look 1; its p is adjusted for the looks" in ended


def test_versions_are_those_of_the_runs_all_of_them(make_spec: MakeSpec, make_records: MakeRecords) -> None:
    spec = make_spec(analysis=ANALYSIS)
    records = [
        record.model_copy(update={"environment": {"versions": {"rayscale": "0.0.9", "torch": f"2.{index % 2}"}}})
        for index, record in enumerate(make_records(spec))
    ]
    text = methods_paragraph(analyze_records(records, spec))
    assert "The runs used rayscale 0.0.9, torch 2.0 and 2.1; " in text
    assert text.endswith(f"all analyses were made with rayscale {__version__}.")


def test_a_setting_that_is_a_factor_is_not_named_as_if_it_were_fixed(
    make_spec: MakeSpec, make_records: MakeRecords
) -> None:
    spec = make_spec({"tokens": [1000, 2000], "train.batch_size": [1, 2]}, analysis=ANALYSIS)
    text = methods_paragraph(analyze_records(make_records(spec), spec))
    assert "train.batch_size (1, 2)" in text
    assert "in batches of" not in text
