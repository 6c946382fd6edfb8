"""The head of the report: what was run on what, how far it got, and how far its energy can be trusted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from rayscale.quantities import format_count, format_duration
from rayscale.record import VERDICTS, PhaseEnergy, Record, Verdict
from rayscale.report.gather import ReportData
from rayscale.report.numerals import number
from rayscale.spec import TREATMENT, DataSpec, SweepSpec


@dataclass(frozen=True)
class Fact:
    """One line of the head: a term and what is to be said of it."""

    term: str
    text: str


@dataclass(frozen=True)
class ReasonCount:
    """Why verdicts are not clean: a code, how many trials carry it, and the sentence of the first of them."""

    code: str
    detail: str
    verdict: Verdict
    trials: int


@dataclass(frozen=True)
class Trust:
    """How far the energy can be trusted.

    Attributes:
        estimated: True when any trial's energy comes from a model instead of a sensor.
        badge: The same in words, shown prominently.
        facts: Method, coverage, bound, idle.
        verdicts: How many trials got each verdict.
        reasons: Why they are not clean, the most frequent first.
    """

    estimated: bool
    badge: str
    facts: list[Fact]
    verdicts: dict[Verdict, int]
    reasons: list[ReasonCount] = field(default_factory=list)


def facts(data: ReportData) -> list[Fact]:
    """Say what was run on what.

    Args:
        data: The sweep.

    Returns:
        Model, data, design, devices, dates, versions; only what is known.
    """
    spec = data.spec
    lines = [
        Fact("Model", _model(spec, data.records)),
        Fact("Data", _data(spec.data)),
        Fact("Design", _design(spec)),
        Fact("Treatments", _treatments(spec)),
        Fact("Device", _device(data.records)),
        Fact("When", _dates(data.records)),
        Fact("Made with", _versions(data)),
    ]
    return [line for line in lines if line.text]


def state(data: ReportData) -> str:
    """Say how far the sweep is, e.g. `15 of 15 trials completed`.

    Args:
        data: The sweep.

    Returns:
        One phrase; failed, running and pending trials are named where there are any.
    """
    status = data.status
    parts = [f"{status.completed} of {status.planned} trials completed"]
    for count, word in (
        (status.failed, "failed"),
        (status.running, "running"),
        (status.pending, "not yet run"),
        (status.not_needed, "not needed"),
    ):
        if count:
            parts.append(f"{count} {word}")
    return ", ".join(parts)


def trust(data: ReportData) -> Trust:
    """Judge the energy of the whole sweep.

    Args:
        data: The sweep.

    Returns:
        The judgement in words and counts.
    """
    sources = {record.energy.source for record in data.records}
    estimated = data.energy_estimated
    if not sources - {"none"}:
        badge = "energy not available"
    elif estimated and any(not record.energy.estimated for record in data.records):
        badge = "energy partly estimated"
    else:
        badge = "energy estimated" if estimated else "energy measured"
    verdicts = Counter(record.quality.verdict for record in data.records)
    return Trust(estimated, badge, _trust_facts(data), {name: verdicts[name] for name in VERDICTS}, _reasons(data))


def _model(spec: SweepSpec, records: tuple[Record, ...]) -> str:
    made = spec.model.pretrain
    start = f"weights trained beforehand on {format_count(made.tokens)} tokens" if made else "random weights"
    origin = spec.model.pretrained or f"{(spec.model.fields or {}).get('model_type', 'llama')}, {start}"
    params = sorted({record.training.params for record in records})
    if not params:
        return origin
    return f"{origin}; {' / '.join(format_count(count) for count in params)} parameters"


def _data(data: DataSpec) -> str:
    if data.corpus:
        source = f"{data.corpus} (text of the running Python installation)"
    elif data.dataset:
        source = " / ".join(part for part in (data.dataset, data.subset, data.split) if part)
    elif data.synthetic:
        source = f"synthetic {data.synthetic.kind} source, {data.synthetic.vocab_size} symbols"
    else:
        source = ", ".join(pattern.rsplit("/", 1)[-1] for pattern in data.files or [])
    return f"{source}; sequences of {data.sequence_length} tokens"


def _design(spec: SweepSpec) -> str:
    factors = []
    for name, levels in spec.design.factors.items():
        words = [format_count(int(level)) if name == "tokens" else str(level) for level in levels]
        factors.append(f"{name} {' / '.join(words)}")
    order = spec.design.order.replace("_", " ")
    return f"{' × '.join(factors)}; {spec.design.repetitions} repetitions; {order}, seed {spec.design.seed}"


def _treatments(spec: SweepSpec) -> str:
    """Say what each treatment sets: `full: as the file; lora: train.lora_rank 8`; empty if there are none."""
    levels = spec.design.factors.get(TREATMENT, [])
    words = {
        str(name): ", ".join(f"{path} {_word(level)}" for path, level in spec.design.treatments[str(name)].items())
        for name in levels
    }
    return "; ".join(f"{name}: {settings or 'nothing further'}" for name, settings in words.items())


def _word(level: object) -> str:
    return "null" if level is None else str(level)


def _device(records: tuple[Record, ...]) -> str:
    """Name the devices: `3 × NVIDIA A100 on gpu-box (36 trials)`, the most used first."""
    trials = Counter((record.device.name, record.device.host) for record in records)
    uuids: dict[tuple[str, str], set[str]] = {}
    for record in records:
        uuids.setdefault((record.device.name, record.device.host), set()).add(record.device.uuid)
    return "; ".join(
        f"{f'{len(uuids[key])} × ' if len(uuids[key]) > 1 else ''}{key[0]} on {key[1]}"
        + (f" ({count} trials)" if len(trials) > 1 else "")
        for key, count in trials.most_common()
    )


def _counted(texts: object) -> str:
    """List distinct texts, the most frequent first, with counts where there are several."""
    counts = Counter(texts)  # type: ignore[call-overload]
    if len(counts) == 1:
        return str(next(iter(counts)))
    return "; ".join(f"{text} ({count} trials)" for text, count in counts.most_common())


def _dates(records: tuple[Record, ...]) -> str:
    if not records:
        return ""
    first, last = (datetime.fromisoformat(edge) for edge in _edges([record.started_at for record in records]))
    span = (last - first).total_seconds()
    zone = first.strftime("%Z")
    return (
        f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} {zone} ({format_duration(span)} between first and last start)"
    )


def _edges(stamps: list[str]) -> tuple[str, str]:
    ordered = sorted(stamps, key=datetime.fromisoformat)
    return ordered[0], ordered[-1]


def _versions(data: ReportData) -> str:
    """Name rayscale and the main libraries, as stored with the plan or else with the first record."""
    known = {**(data.records[0].environment if data.records else {}), **data.environment}
    nested = known.get("versions")
    versions = {**known, **(nested if isinstance(nested, dict) else {})}
    names = ("rayscale", "python", "torch", "transformers", "ray", "mlflow")
    return ", ".join(f"{name} {versions[name]}" for name in names if isinstance(versions.get(name), str))


_MODEL_ERROR = "unknown: the estimate's constants are declared, not measured; compare levels, do not quote joules"


def _trust_facts(data: ReportData) -> list[Fact]:
    trains = [record.energy.phases["train"] for record in data.records if "train" in record.energy.phases]
    idle = [record.energy.idle_w for record in data.records if record.energy.idle_w is not None]
    lines = [
        Fact("Method", _counted(record.energy.method for record in data.records) if data.records else ""),
        Fact("Coverage", _coverage(trains)),
        Fact("Bound", _bound(trains)),
        Fact("Sensor error", _sensor_error(trains)),
        Fact("Model error", _MODEL_ERROR if any(record.energy.estimated for record in data.records) else ""),
        Fact("Idle power", f"{_range(idle, 'W')}, subtracted for net energy" if idle else ""),
    ]
    return [line for line in lines if line.text]


def _coverage(trains: list[PhaseEnergy]) -> str:
    if not trains:
        return ""
    shares = sorted(phase.coverage for phase in trains)
    samples = sorted(phase.samples for phase in trains)
    low, high = (f"{100 * share:.4g}" for share in (shares[0], shares[-1]))
    share = high if low == high else f"{low} to {high}"
    count = f"{samples[0]} to {samples[-1]}" if samples[0] != samples[-1] else str(samples[0])
    return f"power samples cover {share} % of the training phases ({count} samples each)"


def _bound(trains: list[PhaseEnergy]) -> str:
    """Say what edges, gaps and sampling leave open, relative to the energy; the sensor's own error aside."""
    shares = sorted(
        100 * (phase.bound_j - (phase.sensor_bound_j or 0)) / phase.energy_j
        for phase in trains
        if phase.bound_j is not None and phase.energy_j
    )
    if not shares:
        return ""
    median = shares[len(shares) // 2]
    return f"edges and gaps of sampling leave ±{number(median, 2)} % open (median; at most ±{number(shares[-1], 2)} %)"


def _sensor_error(trains: list[PhaseEnergy]) -> str:
    """State the sensor's accuracy class, which is an error per device, not per trial."""
    shares = [100 * p.sensor_bound_j / p.energy_j for p in trains if p.sensor_bound_j and p.energy_j]
    if not shares:
        return ""
    return f"accuracy class ±{number(max(shares), 2)} %, constant within one device: it cancels between levels"


def _range(values: list[float], unit: str) -> str:
    low, high = number(min(values), 3), number(max(values), 3)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _reasons(data: ReportData) -> list[ReasonCount]:
    found: dict[str, ReasonCount] = {}
    for record in data.records:
        for reason in {reason.code: reason for reason in record.quality.reasons}.values():
            before = found.get(reason.code)
            count = (before.trials if before else 0) + 1
            first = before.detail if before else reason.detail
            found[reason.code] = ReasonCount(reason.code, first, reason.verdict, count)
    return sorted(found.values(), key=lambda reason: (-VERDICTS.index(reason.verdict), -reason.trials, reason.code))
