"""What a sweep's records say about how they were made: the facts behind the methods paragraph, as a part of the tree.

Only what the records hold is in it; what is not known is null. Energy comes with all that says how far to trust it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from rayscale.analysis.jsonable import Tree
from rayscale.record import VERDICTS, PhaseEnergy, Record
from rayscale.spec import TREATMENT, DataSpec, SweepSpec

VERSIONS = ("rayscale", "python", "torch", "transformers", "tokenizers", "datasets", "ray", "numpy", "nvidia-ml-py")
"""Versions that a methods paragraph names, if the records know them."""


def provenance(records: Sequence[Record], spec: SweepSpec) -> Tree:
    """Gather how the records were made.

    Args:
        records: The records that the analysis uses.
        spec: The sweep.

    Returns:
        `design, model, data, training, devices, energy, versions, exclude`; counts are of trials, powers in W, times
        in s, shares between 0 and 1.
    """
    return {
        "design": _design(spec),
        "model": {
            "name": spec.model.pretrained or (spec.model.fields or {}).get("model_type", "llama"),
            "pretrained": spec.model.pretrained is not None,
            "pretrain_tokens": spec.model.pretrain.tokens if spec.model.pretrain else None,
            "params": sorted({record.training.params for record in records}),
        },
        "data": {
            "source": _source(spec.data),
            "sequence_length": _fixed(spec, "data.sequence_length", spec.data.sequence_length),
        },
        "training": {
            "batch_size": _fixed(spec, "train.batch_size", spec.train.batch_size),
            "precision": _distinct(record.training.precision for record in records),
            "eval_tokens": sorted({record.evaluation.tokens for record in records}),
        },
        "devices": _devices(records),
        "energy": {"period_s": spec.energy.period, **_energy(records)},
        "versions": _versions(records),
        "exclude": list(spec.analysis.exclude),
    }


def _design(spec: SweepSpec) -> Tree:
    design = spec.design
    return {
        "repetitions": design.repetitions,
        "order": design.order,
        "seed": design.seed,
        "conditions": _product(len(levels) for levels in design.factors.values()),
        "treatments": {str(name): design.treatments[str(name)] for name in design.factors.get(TREATMENT, [])},
        "stop": design.stop.model_dump(mode="json") if design.stop else None,
    }


def _fixed(spec: SweepSpec, name: str, value: int) -> int | None:
    """A setting that is the same for all trials; None where a factor or treatment sets it, which is named anyway."""
    varied = name in spec.design.factors or any(name in settings for settings in spec.design.treatments.values())
    return None if varied else value


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _source(data: DataSpec) -> str:
    if data.corpus:
        return data.corpus
    if data.dataset:
        return "/".join(part for part in (data.dataset, data.subset, data.split) if part)
    if data.synthetic:
        return f"a synthetic {data.synthetic.kind} source"
    return ", ".join(pattern.rsplit("/", 1)[-1] for pattern in data.files or [])


def _devices(records: Sequence[Record]) -> Tree:
    names: dict[str, set[str]] = {}
    blocks: dict[int, set[str]] = {}
    for record in records:
        names.setdefault(record.device.name, set()).add(record.device.uuid)
        blocks.setdefault(record.block, set()).add(record.device.uuid)
    return {
        "names": {name: len(uuids) for name, uuids in names.items()},
        "hosts": len({record.device.host for record in records}),
        "blocks": len(blocks),
        "blocks_on_several_devices": sum(len(uuids) > 1 for uuids in blocks.values()),
    }


def _energy(records: Sequence[Record]) -> Tree:
    trains = [record.energy.phases["train"] for record in records if "train" in record.energy.phases]
    verdicts = Counter(record.quality.verdict for record in records)
    coverage = [phase.coverage for phase in trains]
    return {
        "methods": dict(Counter(record.energy.method for record in records if record.energy.source != "none")),
        "estimated_trials": sum(record.energy.estimated for record in records),
        "coverage": {"lo": min(coverage), "hi": max(coverage)} if coverage else None,
        "open_share_median": _median(_open_share(phase) for phase in trains),
        "sensor_share": _largest(
            phase.sensor_bound_j / phase.energy_j for phase in trains if phase.sensor_bound_j and phase.energy_j
        ),
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "reasons": dict(
            Counter(code for record in records for code in sorted({r.code for r in record.quality.reasons}))
        ),
    }


def _open_share(phase: PhaseEnergy) -> float | None:
    """What edges, gaps and sampling leave open, relative to the energy; the sensor's own error aside."""
    if phase.bound_j is None or not phase.energy_j:
        return None
    return (phase.bound_j - (phase.sensor_bound_j or 0.0)) / phase.energy_j


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _versions(records: Sequence[Record]) -> dict[str, list[str]]:
    """Versions by library, each with all values that occur: a sweep may have been continued after an update."""
    found: dict[str, list[str]] = {}
    for record in records:
        nested = record.environment.get("versions")
        known = record.environment | (nested if isinstance(nested, dict) else {})
        for name in VERSIONS:
            text = known.get(name)
            if isinstance(text, str) and text not in found.setdefault(name, []):
                found[name].append(text)
    return {name: versions for name, versions in found.items() if versions}
