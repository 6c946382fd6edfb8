"""Ray's Jobs API in terms of sweeps, against a client that behaves as Ray's does."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from rayscale.cluster.jobs import DIGEST_KEY, SWEEP_KEY, Jobs, JobView
from rayscale.cluster.token import Token
from rayscale.errors import EnvironmentUnusableError, InputError

TOKEN = Token("canary", "RAY_AUTH_TOKEN")


def details(job: str, status: str, start: int | None = 1_000, **more: Any) -> SimpleNamespace:
    """A job as Ray's client gives it."""
    given: dict[str, Any] = {
        "submission_id": job,
        "status": SimpleNamespace(value=status),
        "message": None,
        "start_time": start,
        "end_time": None,
        "metadata": {SWEEP_KEY: "tiny", DIGEST_KEY: "d"},
        "driver_exit_code": None,
    }
    return SimpleNamespace(**given | more)


@dataclass
class Client:
    """What the methods answer, one after the other; the last answer stays. Exceptions are raised."""

    infos: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    _server_ray_version: str = "2.60.0"

    @staticmethod
    def _next(answers: list[Any]) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_job_info(self, job: str) -> Any:
        return self._next(self.infos)

    def get_job_logs(self, job: str) -> str:
        return self._next(self.texts)

    def list_jobs(self) -> list[Any]:
        return list(self.infos)

    def stop_job(self, job: str) -> bool:
        self.stopped.append(job)
        return True


def jobs(client: Client, token: Token | None = TOKEN) -> Jobs:
    return Jobs(client, "http://127.0.0.1:1", token)


def rest(seconds: float) -> None:
    """Wait for nothing."""


def test_a_job_is_told_in_words_of_sweeps() -> None:
    ended = details("j", "FAILED", message="failed with exit code 2\nlogs", driver_exit_code=2, end_time=61_000)
    assert jobs(Client([ended])).view("j") == JobView(
        "j",
        "tiny",
        "d",
        "FAILED",
        "failed with exit code 2",
        "1970-01-01T00:00:01+00:00",
        "1970-01-01T00:01:01+00:00",
        2,
    )


def test_the_newest_job_comes_first_and_strangers_without_an_id_are_left_out() -> None:
    client = Client([details("old", "SUCCEEDED", 1_000), details("new", "PENDING", 5_000), details("", "RUNNING")])
    assert [view.job for view in jobs(client).list()] == ["new", "old"]


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1)],
)
def test_exit_codes_of_waiting(status: str, driver: int | None, code: int) -> None:
    assert jobs(Client([details("j", status, driver_exit_code=driver)])).view("j").code == code


def test_following_shows_every_character_once_to_the_end() -> None:
    client = Client(
        [details("j", "PENDING"), details("j", "RUNNING"), details("j", "RUNNING"), details("j", "SUCCEEDED")],
        ["", "one\ntw", "one\ntw", "one\ntwo\nlast\n"],
    )
    said: list[str] = []
    assert jobs(client).follow("j", said.append, rest).status == "SUCCEEDED"
    assert said == ["one\ntw", "o\nlast\n"]


def test_following_bears_a_short_outage_and_says_so_after_a_long_one() -> None:
    gone = ConnectionError("refused")
    said: list[str] = []
    short = Client([details("j", "RUNNING"), gone, gone, details("j", "SUCCEEDED")], ["a", "ab"])
    assert jobs(short).follow("j", said.append, rest).code == 0
    assert "".join(said) == "ab"
    with pytest.raises(EnvironmentUnusableError, match="the job goes on, look again with: rayscale cluster logs j"):
        jobs(Client([details("j", "RUNNING"), gone], ["a"])).follow("j", said.append, rest)


def test_stopping_waits_until_it_has_ended() -> None:
    client = Client([details("j", "RUNNING"), details("j", "RUNNING"), details("j", "STOPPED")])
    assert jobs(client).stop("j", rest).status == "STOPPED"
    assert client.stopped == ["j"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("long\ntext"), "the cluster refuses the token from RAY_AUTH_TOKEN"),
        (ConnectionError("refused"), "no Ray dashboard answers"),
        (OSError("read timed out"), "does not answer in time"),
        (RuntimeError("Request failed with status code 500: Traceback\n  line"), "status code 500: Traceback line$"),
    ],
)
def test_every_failure_is_one_line_without_the_token(error: Exception, message: str) -> None:
    with pytest.raises(EnvironmentUnusableError, match=message) as caught:
        jobs(Client([error])).view("j")
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_missing_token_and_an_unknown_job_are_told() -> None:
    with pytest.raises(EnvironmentUnusableError, match="the cluster wants a token; expected RAY_AUTH_TOKEN"):
        jobs(Client([AuthenticationError("x")]), None).view("j")
    with pytest.raises(InputError, match="j: no such job on this cluster"):
        jobs(Client([RuntimeError("Request failed with status code 404: Job j does not exist")])).view("j")
