"""Budgets of a block that share a trunk (`train.share_prefix`): who starts from whose state, and what that saves.

A state lies in the cache of its node from the branch of one budget until the next larger one has its record. It is only
used on the same device, by the same settings, seed, data and software, and after its own trial was accepted; where
that fails, a trial trains all of its budget itself and its record says so. Either way the weights are the same.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.design import Plan, Trial, trunk_of
from rayscale.environment import cache_directory, versions
from rayscale.record import EnergyResult, Phase, PhaseEnergy, Reason, Record
from rayscale.segments import Segment, Sharing
from rayscale.spec import TRIAL_SECTIONS
from rayscale.training.optim import trunk_steps
from rayscale.training.order import Budget

if TYPE_CHECKING:
    from rayscale.energy.trace import Trace
    from rayscale.ledger import Ledger


@dataclass(frozen=True)
class TrunkLink:
    """What one attempt shares with the other budgets of its block.

    Attributes:
        identity: What all runs of the trunk have in common; a state of another run is refused.
        start: State that it goes on from; None: it begins at step 0.
        keep: Where it leaves its own for the next larger budget; None: no trial wants it.
        inherited: The measured parts that made `start`.
        reasons: Doubts about their energy, which is a part of this trial's.
        note: Why it begins at step 0 although a smaller budget was before it.
    """

    identity: str
    start: Path | None = None
    keep: Path | None = None
    inherited: tuple[Segment, ...] = field(default=())
    reasons: tuple[Reason, ...] = field(default=())
    note: str | None = None

    def release(self) -> None:
        """Delete the state that was used: the trial is done, and a larger one starts from its own."""
        if self.start is not None:
            self.start.unlink(missing_ok=True)


def trunk_group(plan: Plan | None, trial: Trial) -> list[Trial]:
    """List the budgets that share a trial's trunk.

    Args:
        plan: The plan; None knows of no other trial.
        trial: The trial.

    Returns:
        The trials of its block that differ in `tokens` only, itself included, ascending.
    """
    others = plan.trials if plan else (trial,)
    group = [t for t in others if t.block == trial.block and trunk_of(t.condition) == trunk_of(trial.condition)]
    return sorted(group, key=lambda one: one.tokens)


def branch_tokens(trial: Trial) -> int:
    """Count the targets of the trunk up to where a trial's own decay begins."""
    train = trial.spec.train
    budget = Budget(trial.tokens, trial.spec.data.sequence_length, train.batch_size, train.batch_size)
    return trunk_steps(train, budget) * budget.step_tokens


def run_tokens(plan: Plan) -> dict[str, int]:
    """Tell how many targets each trial will train itself.

    Args:
        plan: The plan.

    Returns:
        Trial key -> targets: the budget, less the trunk of the next smaller one where it is shared.
    """
    found = {}
    for block in plan.blocks():
        reached: dict[str, int] = {}
        for trial in block:  # budgets of one trunk are in ascending order
            found[trial.trial_key] = trial.tokens
            if trial.spec.train.share_prefix:
                trunk = json.dumps(trunk_of(trial.condition))
                found[trial.trial_key] -= reached.get(trunk, 0)
                reached[trunk] = branch_tokens(trial)
    return found


def link_trunk(ledger: Ledger, plan: Plan | None, trial: Trial, fingerprint: str, device: str) -> TrunkLink | None:
    """Find out what an attempt that begins now can share. States of the device's earlier blocks are deleted.

    Args:
        ledger: The sweep's ledger.
        plan: Its plan.
        trial: The trial.
        fingerprint: Of the corpus.
        device: UUID of the GPU, or name of the slot.

    Returns:
        The link; None without `train.share_prefix`.
    """
    if not trial.spec.train.share_prefix:
        return None
    place = _Place(cache_directory() / "trunks" / _digest(ledger.location), _digest([socket.gethostname(), device]))
    place.clear_other_blocks(trial.block)
    group = trunk_group(plan, trial)
    smaller = [one for one in group if one.tokens < trial.tokens and branch_tokens(one) > 0]
    larger = [one for one in group if one.tokens > trial.tokens and ledger.record(one.trial_key) is None]
    attempt = max(ledger.attempts(trial.trial_key), default=1)
    keep = place.state(trial, attempt) if larger and branch_tokens(trial) > 0 else None
    identity = _identity(trial, fingerprint, device)
    for one in reversed(smaller):
        record = ledger.record(one.trial_key)
        start = place.state(one, record.attempt) if record else None
        parts = _parts_until(record, branch_tokens(one)) if record and record.quality.verdict != "invalid" else ()
        if record and start and start.exists() and parts:
            return TrunkLink(identity, start, keep, parts, _doubts(record))
    note = "no smaller budget of the block left a state on this device" if smaller else None
    return TrunkLink(identity, keep=keep, note=note)


def sharing_of(
    link: TrunkLink, trial: Trial, trace: Trace | None, phases: Sequence[Phase], energy: EnergyResult
) -> Sharing:
    """Measure the parts of a training one by one and put those of other trials before them.

    Args:
        link: What the attempt shared.
        trial: The trial.
        trace: Its power trace; None if it cannot be read.
        phases: Its phases.
        energy: Its energy.

    Returns:
        All parts from the first target to the last.
    """
    own = [_measured(trial, trace, phase, phases, energy) for phase in phases if phase.name == "train" and phase.tokens]
    first = own[0].first_token
    inherited = [part for part in link.inherited if part.last_token <= first]
    note = link.note
    if link.start is not None and first == 0:
        note = "the state of the smaller budget could not be used (log.jsonl says why)"
    return Sharing(segments=[*inherited, *own], segment_tokens=trial.tokens - first, note=note)


def _measured(
    trial: Trial, trace: Trace | None, phase: Phase, phases: Sequence[Phase], energy: EnergyResult
) -> Segment:
    from rayscale.energy.integrate import choose_estimate, integrate_windows, phase_energy

    found = PhaseEnergy(duration_s=phase.duration_s, energy_j=None)
    if trace is not None and energy.source != "none":
        train = [(one.start, one.end) for one in phases if one.name == "train"]
        estimate = choose_estimate(trace, integrate_windows(trace, train), trial.spec.energy)
        found = phase_energy(trace, [(phase.start, phase.end)], estimate)
    first, last = phase.tokens or (0, trial.tokens)
    known = found.model_dump(include=set(Segment.model_fields) & set(PhaseEnergy.model_fields))
    return Segment(trial_key=trial.trial_key, first_token=first, last_token=last, idle_w=energy.idle_w, **known)


def _parts_until(record: Record, tokens: int) -> tuple[Segment, ...]:
    """Take the parts that made a state; none if they do not add up to it."""
    parts = [part for part in record.sharing.segments if part.last_token <= tokens] if record.sharing else []
    return tuple(parts) if sum(part.tokens for part in parts) == tokens else ()


def _doubts(record: Record) -> tuple[Reason, ...]:
    if record.quality.verdict == "clean":
        return ()
    detail = f"the trunk was trained by {record.trial_key}, whose energy is {record.quality.verdict}"
    return (Reason(code="trunk_suspect", detail=detail),)


@dataclass(frozen=True)
class _Place:
    """Where the states of one device and ledger lie."""

    directory: Path
    device: str

    def state(self, trial: Trial, attempt: int) -> Path:
        return self.directory / f"{self.device}.{trial.block}.{trial.trial_key}.{attempt}.pt"

    def clear_other_blocks(self, block: int) -> None:
        """A device works on one block at a time; what failed trials of the others left takes gigabytes."""
        for path in self.directory.glob(f"{self.device}.*.pt"):
            if path.name.split(".")[1] != str(block):
                path.unlink(missing_ok=True)


def _identity(trial: Trial, fingerprint: str, device: str) -> str:
    spec = trial.spec
    settings = {name: getattr(spec, name).model_dump(mode="json") for name in TRIAL_SECTIONS}
    where = [socket.gethostname(), device, dict(versions())]
    return _digest([settings, spec.threads, spec.design.seed, trial.seed, trial.repetition, fingerprint, where])


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
