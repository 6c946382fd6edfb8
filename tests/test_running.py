"""What a run tells the user to type next, at home and on a cluster's head."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayscale.ledger import Ledger
from rayscale.running import Advice, advise, run_to_report
from rayscale.spec import SweepSpec

SWEEP = Path("studies/tiny.yaml")


def test_at_home_the_same_command_continues() -> None:
    assert advise(SWEEP, None, None, {}) == Advice(
        "rayscale run studies/tiny.yaml", "rayscale analyze studies/tiny.yaml", "rayscale ui studies/tiny.yaml"
    )
    attached = advise(SWEEP, "/shared/my results", "auto", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert attached.again == "rayscale run studies/tiny.yaml --storage '/shared/my results' --address auto"
    assert attached.ui == "rayscale ui studies/tiny.yaml --storage '/shared/my results'"


def test_a_job_names_commands_for_home_and_no_path_of_the_head() -> None:
    place = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0/rayscale-sweep/tiny.yaml")
    job = {"RAYSCALE_JOB": "tiny-1"}
    assert advise(place, "s3://lab/x", "auto", job) == Advice(
        "rayscale cluster resume tiny-1",
        "rayscale analyze tiny.yaml --storage s3://lab/x",
        "rayscale ui tiny.yaml --storage s3://lab/x",
    )
    head = job | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert advise(place, "s3://lab/x", "auto", head).ui == "rayscale ui --cluster FILE"


class Impatient(dict[str, str]):
    """An environment during whose reading, where MLflow is looked for, somebody stops the run."""

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        if name == "MLFLOW_TRACKING_URI":
            signal.raise_signal(signal.SIGTERM)
        return super().get(name, default)


@pytest.fixture
def _own_signals() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("_own_signals")
def test_a_stop_before_the_first_trial_is_an_end_like_any_other(
    tiny_spec: SweepSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", Impatient(os.environ))
    advice = advise(SWEEP, None, None, {})
    result = run_to_report(tiny_spec, Ledger(tmp_path / "tiny"), advice=advice, with_report=False)
    assert (result.exit_code, result.summary.completed) == (130, 0)
    said = capsys.readouterr().err
    assert "stopped: 0 of 4 trials are completed and kept. Continue with: rayscale run studies/tiny.yaml\n" in said
