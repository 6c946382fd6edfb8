"""Live views and their estimates, from a made ledger and made events."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.spec import SweepSpec
from rayscale.sweep.events import AttemptEnd, SweepCallback
from rayscale.sweep.live import LineView, TableView, open_view, render
from rayscale.sweep.progress import SHOWN, Progress
from rayscale.sweep.searcher import POSTPONED
from rayscale.sweep.watch import log_event


@pytest.fixture
def plan(tiny_spec: SweepSpec) -> Plan:
    return plan_sweep(tiny_spec)


@pytest.fixture
def progress(plan: Plan, tmp_path: Path) -> Progress:
    return Progress.from_ledger(plan, Ledger(tmp_path / "tiny"))


def end_of(plan: Plan, index: int, **changes: object) -> AttemptEnd:
    values: dict[str, object] = {
        "trial_key": plan.trials[index].trial_key,
        "device": "cpu:0",
        "completed": True,
        "verdict": "suspect",
        "perplexity": 12.34,
        "train_s": 1.5,
        "energy_j": 30.0,
        "energy_estimated": True,
    }
    return AttemptEnd(**(values | changes))  # type: ignore[arg-type]


def text_of(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_where_stderr_is_no_terminal(plan: Plan, progress: Progress) -> None:
    console = Console(file=io.StringIO())
    view = open_view(progress, console)
    assert type(view) is LineView
    view.started(plan.trials[0].trial_key, "cpu:0")
    view.ended(end_of(plan, 0))
    view.ended(end_of(plan, 1, completed=False, reason="diverged", detail="loss is nan at step 3"))
    view.close()
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.startswith("[1/4] tokens=")
    assert "perplexity 12.34  1.50 s  30 J estimated  suspect" in first
    assert "failed: diverged: loss is nan at step 3" in second


def test_unavailable_energy_is_not_zero(plan: Plan, progress: Progress) -> None:
    console = Console(file=io.StringIO())
    LineView(progress, console).ended(end_of(plan, 0, energy_j=None, energy_estimated=None))
    assert "energy n/a" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_what_the_running_attempt_writes(plan: Plan, progress: Progress) -> None:
    trial = plan.trials[0]
    progress.started_attempt(trial.trial_key, "cpu:0")
    attempt = progress.ledger.new_attempt(trial.trial_key)
    directory = progress.ledger.attempt_directory(trial.trial_key, attempt)
    lines = [
        {"event": "phase", "name": "train"},
        {"event": "step", "tokens": 256, "loss": 3.21, "tokens_per_s": 5000.0},
    ]
    (directory / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "st', encoding="utf-8")
    progress.refresh()
    text = text_of(render(progress))
    for word in ("cpu:0", "train", "256", "5000", "3.210", "0 of 4 done, 1 running, 0 failed"):
        assert word in text


def test_the_table_says_settling_while_the_slot_waits_for_the_device(plan: Plan, progress: Progress) -> None:
    trial = plan.trials[0]
    progress.started_attempt(trial.trial_key, "cpu:0")
    attempt = progress.ledger.new_attempt(trial.trial_key)
    directory = progress.ledger.attempt_directory(trial.trial_key, attempt)
    log_event(directory, "phase", name="settling")
    progress.refresh()
    assert "settling" in text_of(render(progress))
    log_event(directory, "phase", name="idle")
    log_event(directory, "sampler_lost", last_sample=None)
    progress.refresh()
    assert "settling" not in text_of(render(progress))
    assert "idle" in text_of(render(progress))


def test_an_attempt_that_was_handed_back_unbegun_is_not_told_as_ended(plan: Plan) -> None:
    ends: list[AttemptEnd] = []

    class Listener:
        def started(self, trial_key: str, device: str) -> None:
            pass

        def ended(self, end: AttemptEnd) -> None:
            ends.append(end)

    config = {"trial_key": plan.trials[0].trial_key, "device": "cpu:0"}
    callback, trial = SweepCallback([Listener()]), SimpleNamespace(config=config, last_result={"outcome": POSTPONED})
    callback.on_trial_complete(0, [], trial)
    assert ends == []
    trial.last_result = {"outcome": "failed", "reason": "diverged", "detail": "nan"}
    callback.on_trial_complete(0, [], trial)
    assert [end.reason for end in ends] == ["diverged"]


def test_the_remaining_time_follows_tokens(plan: Plan, progress: Progress) -> None:
    assert progress.remaining_s() is None
    for index in (0, 1):  # 0.2 s and 1 ms per token
        trial = plan.trials[index]
        progress.started_attempt(trial.trial_key, "cpu:0")
        progress.running["cpu:0"].since = time.monotonic() - (0.2 + trial.tokens / 1000)
        progress.ended_attempt(end_of(plan, index))
    left = sum(0.2 + trial.tokens / 1000 for trial in plan.trials[2:])
    assert progress.remaining_s() == pytest.approx(left, rel=0.02)
    assert progress.energy_j == 60.0
    assert progress.estimated


def test_the_table_goes_away_and_the_lines_stay(plan: Plan, progress: Progress) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    view = open_view(progress, console)
    assert type(view) is TableView
    view.started(plan.trials[0].trial_key, "cpu:0")
    view.ended(end_of(plan, 0))
    view.close()
    assert "perplexity 12.34" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_listener_that_raises_does_not_reach_tune(plan: Plan) -> None:
    class Broken:
        def started(self, trial_key: str, device: str) -> None:
            raise RuntimeError("broken")

        def ended(self, end: AttemptEnd) -> None:
            raise RuntimeError("broken")

    class Heard:
        ends: list[AttemptEnd]

        def __init__(self) -> None:
            self.ends = []

        def started(self, trial_key: str, device: str) -> None:
            pass

        def ended(self, end: AttemptEnd) -> None:
            self.ends.append(end)

    class TuneTrial:
        config = {"trial_key": "k", "device": "cpu:0"}  # noqa: RUF012
        last_result = {"outcome": "completed", "verdict": "clean", "pid": 3}  # noqa: RUF012

        def get_error(self) -> Exception:
            return RuntimeError("first\nthe last line")

    heard = Heard()
    callback = SweepCallback([Broken(), heard])
    callback.on_trial_start(0, [], TuneTrial())
    callback.on_trial_complete(0, [], TuneTrial())
    callback.on_trial_error(0, [], TuneTrial())
    assert [end.completed for end in heard.ends] == [True, False]
    assert heard.ends[1].reason == "slot_died"
    assert heard.ends[1].detail == "the last line"


def test_a_table_of_hundreds_shows_the_first_and_their_number(progress: Progress, plan: Plan) -> None:
    for index in range(SHOWN + 8):
        progress.started_attempt(plan.trials[0].trial_key, f"gpu:{index:03d}")
    table = text_of(render(progress))
    assert f"gpu:{SHOWN - 1:03d}" in table
    assert f"gpu:{SHOWN:03d}" not in table
    assert "and 8 more" in table
    assert f"{SHOWN + 8} running" in table
