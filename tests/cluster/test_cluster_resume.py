"""Going on with a stopped sweep: the same files, command and variables, as long as the cluster has them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from test_cluster_jobs import details

from rayscale.cluster.jobs import DIGEST_KEY, SWEEP_KEY, Jobs
from rayscale.cluster.resume import keep_files, newest, package_of, resume
from rayscale.errors import InputError

PACKAGE = "gcs://_ray_pkg_0123.zip"
RUNTIME = {"working_dir": PACKAGE, "env_vars": {"RAYSCALE_STORAGE": "/shared"}}


def ended(job: str, status: str, sweep: str | None = "tiny", start: int = 1_000, **more: Any) -> SimpleNamespace:
    metadata = {SWEEP_KEY: sweep, DIGEST_KEY: "d"} if sweep else {}
    return details(job, status, start, metadata=metadata, entrypoint="exec rayscale", runtime_env=RUNTIME, **more)


@dataclass
class Cluster:
    """A cluster's client with some jobs and packages."""

    there: list[SimpleNamespace]
    packages: tuple[str, ...] = (PACKAGE,)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.there

    def get_job_info(self, job: str) -> SimpleNamespace:
        return next(one for one in self.there if one.submission_id == job)

    def _package_exists(self, package: str) -> bool:
        return package in self.packages

    def submit_job(self, **given: Any) -> str:
        self.sent.append(given)
        return str(given["submission_id"])


@pytest.mark.parametrize("name", ["tiny-1", "tiny"])
def test_a_stopped_sweep_goes_on_with_exactly_what_was_sent(name: str) -> None:
    cluster = Cluster([ended("tiny-1", "STOPPED"), ended("other-1", "FAILED", "other", 2_000)])
    sent = resume(name, Jobs(cluster, "here", None))
    [call] = cluster.sent
    assert (sent.job, sent.already) == (call["submission_id"], False)
    assert sent.job.startswith("tiny-")
    assert sent.job != "tiny-1"
    assert (call["entrypoint"], call["runtime_env"]) == ("exec rayscale", RUNTIME)
    assert call["metadata"] == {SWEEP_KEY: "tiny", DIGEST_KEY: "d"}


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_what_runs_or_is_done_is_left_alone(status: str) -> None:
    cluster = Cluster([ended("tiny-1", "STOPPED"), ended("tiny-2", status, start=2_000)])
    sent = resume("tiny", Jobs(cluster, "here", None))
    assert (sent.job, sent.already, cluster.sent) == ("tiny-2", True, [])


def test_files_that_are_gone_are_told_and_what_to_do() -> None:
    cluster = Cluster([ended("tiny-1", "FAILED")], packages=())
    with pytest.raises(InputError, match=r"tiny-1: the cluster has its files no more.*rayscale submit"):
        resume("tiny-1", Jobs(cluster, "here", None))
    assert cluster.sent == []


def test_only_sweeps_are_found() -> None:
    with pytest.raises(InputError, match="ghost: no such submitted sweep"):
        newest("ghost", Jobs(Cluster([ended("tiny-1", "STOPPED")]), "here", None).list())
    with pytest.raises(InputError, match="no such submitted sweep"):
        newest("stranger", Jobs(Cluster([ended("stranger", "STOPPED", None)]), "here", None).list())


def test_a_driver_knows_its_package() -> None:
    config = {"runtime_env": {"working_dir": PACKAGE}, "metadata": {}}
    assert package_of({"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(config)}) == PACKAGE
    for text in ("{}", "no json", "[]", '{"runtime_env": null}'):
        assert package_of({"RAY_JOB_CONFIG_JSON_ENV_VAR": text}) is None
    assert package_of({}) is None


def test_a_cluster_that_does_not_keep_them_is_told_and_no_reason_to_stop() -> None:
    said: list[str] = []
    keep_files(PACKAGE, "no address", said.append)
    assert len(said) == 1
    assert said[0].startswith("the cluster does not keep the files for `rayscale cluster resume`: ")
