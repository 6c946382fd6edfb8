"""What the numbers of this sweep cannot say: sentences that apply to it, and no others."""

from __future__ import annotations

from rayscale.report.gather import ReportData


def limits(data: ReportData) -> list[str]:
    """Name the limits of a sweep.

    Args:
        data: The sweep.

    Returns:
        Sentences, the weightiest first.
    """
    return [
        sentence
        for sentence in (
            *_energy(data),
            _unfinished(data),
            _stopped(data),
            _excluded(data),
            _order(data),
            _devices(data),
            _few(data),
            *_treatments(data),
            *_missing(data),
        )
        if sentence
    ]


def _energy(data: ReportData) -> list[str]:
    if not data.records:
        return []
    if all(record.energy.source == "none" for record in data.records):
        return ["No energy is known: every measure that needs it is n/a."]
    if not data.energy_estimated:
        return []
    return [
        "Energy is estimated: a model with declared constants, no sensor, stands behind every number marked "
        "“estimated”. Differences between conditions then show differences in processor time, not in measured "
        "electricity; do not compare them with other machines."
    ]


def _unfinished(data: ReportData) -> str:
    missing = data.status.planned - data.status.completed - data.status.not_needed
    if not missing:
        return ""
    one = missing == 1
    return (
        f"{missing} of {data.status.planned} planned trials {'has' if one else 'have'} no result. Repetitions with a "
        "missing trial cannot enter the comparison within repetitions."
    )


def _stopped(data: ReportData) -> str:
    status = data.status
    if not status.stopped:
        return ""
    return f"The stop rule ended the sweep: {status.stopped}. {status.not_needed} trials were not needed."


def _excluded(data: ReportData) -> str:
    count = len(data.excluded)
    if not count:
        return ""
    verdicts = " or ".join(data.spec.analysis.exclude)
    subject = "trial is" if count == 1 else "trials are"
    return f"{count} {subject} left out of the analysis because of a verdict: {verdicts}."


def _order(data: ReportData) -> str:
    if data.spec.design.order != "fixed":
        return ""
    return (
        "Conditions ran in the same order in every block: a drift of the machine cannot be told from an effect of the "
        "condition."
    )


def _devices(data: ReportData) -> str:
    devices = {record.device.uuid for record in data.records}
    if len(devices) < 2:
        return ""
    blocks: dict[int, set[str]] = {}
    for record in data.records:
        blocks.setdefault(record.block, set()).add(record.device.uuid)
    split = sum(len(uuids) > 1 for uuids in blocks.values())
    words = f"Trials ran on {len(devices)} devices, whose power sensors differ by some percent."
    if split:
        return f"{words} {split} of {len(blocks)} blocks moved between devices, so that part of this is in the effects."
    return f"{words} Every block stayed on one device."


def _few(data: ReportData) -> str:
    if data.spec.design.repetitions >= 10:
        return ""
    return (
        f"With {data.spec.design.repetitions} repetitions only large effects can be found, and assumptions such as "
        "normality can hardly be checked."
    )


def _treatments(data: ReportData) -> list[str]:
    """Say what pruning, simulated quantisation and models made beforehand leave out."""
    from rayscale.training.treatments.applying import treatment_notes

    notes = [note for trial in data.plan.blocks()[0] for note in treatment_notes(trial.spec)]
    return [f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys(notes)]


def _missing(data: ReportData) -> list[str]:
    """Name declared measures without any value."""
    return [
        f"{name}: n/a in every trial."
        for name in data.spec.analysis.dv
        if data.records and (name not in data.frame.columns or not data.frame[name].notna().any())
    ]
