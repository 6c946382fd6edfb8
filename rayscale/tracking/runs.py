"""The only module that talks to MLflow: find runs by their tags, and bring one to a wished content.

`MlflowClient` throughout, never the fluent API: that one follows MLFLOW_RUN_ID, an active run of this process and
system metrics (power of *all* GPUs of the node), none of which has a place here.
"""

from __future__ import annotations

import getpass
import itertools
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rayscale.errors import EnvironmentUnusableError
from rayscale.tracking.content import (
    DIGEST_TAG,
    KEY_TAGS,
    KIND_TAG,
    NOT_NEEDED_TAG,
    DataSource,
    Kind,
    Point,
    RunContent,
    StoredFile,
)
from rayscale.tracking.scheduled import copy_run, is_plain
from rayscale.tracking.store import database_file

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Change = Literal["created", "updated", "unchanged"]
BATCH = 1000
"""Most metrics that MLflow takes at once."""
REVISION_TAG = "rayscale.revision"


@dataclass
class KnownRun:
    """What we know of a run in the store. Units: ms since 1970."""

    run_id: str
    digest: str | None
    start_ms: int | None
    end_ms: int | None
    params: set[str] = field(default_factory=set)
    revision: int = -1
    not_needed: bool = False


class RunStore:
    """The runs of one sweep in MLflow. Every method needs `quiet.mlflow_in_use` around it."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None) -> None:
        """Connect, and read which runs there are; the experiment is made if it is not there.

        Args:
            uri: The tracking URI.
            experiment: Name of the experiment: the sweep's.
            artifacts: Where its files go; None lets the server decide.

        Raises:
            EnvironmentUnusableError: If the experiment was deleted in MLflow.
        """
        from mlflow.tracking import MlflowClient

        self.uri = uri
        self.artifacts = artifacts
        if database := database_file(uri):
            database.parent.mkdir(parents=True, exist_ok=True)
        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        self._experiment_id = self._open_experiment(experiment)
        self._runs: dict[tuple[str, str], KnownRun] = {}
        self.reload()

    def _open_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = (self.artifacts / name).as_uri() if self.artifacts else None
            tags = {"rayscale.sweep": name, "mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, artifact_location=location, tags=tags))
        if found.lifecycle_stage != "active":
            raise EnvironmentUnusableError(
                f"MLflow: experiment {name!r} was deleted there; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return str(found.experiment_id)

    def reload(self) -> None:
        """Read again which runs there are; of two with the same key (a writer died, or two wrote) the older counts."""
        self._runs = {}
        for run in self._search():
            kind = run.data.tags.get(KIND_TAG)
            key = run.data.tags.get(KEY_TAGS.get(kind, ""))
            if key is not None:
                known = KnownRun(
                    run.info.run_id,
                    run.data.tags.get(DIGEST_TAG),
                    run.info.start_time,
                    run.info.end_time,
                    set(run.data.params),
                    int(run.data.tags.get(REVISION_TAG, "-1")),
                    NOT_NEEDED_TAG in run.data.tags,
                )
                self._runs.setdefault((kind, key), known)

    def _search(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{KIND_TAG}` != ''",
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def run_id(self, kind: Kind, key: str) -> str | None:
        """Return the id of a run, None if there is none."""
        known = self._runs.get((kind, key))
        return known.run_id if known else None

    def digest(self, kind: Kind, key: str) -> str | None:
        """Return what a run was last made from, None if there is no complete one."""
        known = self._runs.get((kind, key))
        return known.digest if known else None

    def put(self, content: RunContent, parent: str | None = None) -> Change:
        """Bring one run to its content. The digest is written last, so that a death half-way is seen.

        Args:
            content: What it should hold.
            parent: Id of the parent run, for a new one.

        Returns:
            What was done.
        """
        known = self._runs.get((content.kind, content.key))
        change: Change = "updated"
        if known is None:
            change, known = "created", self._create(content, parent)
            self._runs[content.kind, content.key] = known
        elif known.digest == content.digest:
            return "unchanged"
        if content.kind == "summary":
            known.revision += 1
            content = _revised(content, known.revision)
        self._log(known, content)
        self._set_status(known, content)
        self._client.set_tag(known.run_id, DIGEST_TAG, content.digest)
        known.digest = content.digest
        return change

    def put_planned(self, contents: Sequence[RunContent], parent: str) -> None:
        """Make the runs of planned trials; those that are there already, or hold more than a plan, are left alone.

        Args:
            contents: The trials' contents.
            parent: Id of the parent run.
        """
        new = [one for one in contents if is_plain(one) and (one.kind, one.key) not in self._runs]
        file = database_file(self.uri)
        if file is None or len(new) < 2:
            return  # `put` makes them one by one
        self.put(new[0], parent)
        try:
            copies = copy_run(file, self._runs[new[0].kind, new[0].key].run_id, new[1:])
        except sqlite3.Error:
            return  # so it does where MLflow's tables have changed
        for content, copy in zip(new[1:], copies, strict=True):
            known = KnownRun(copy.run_id, content.digest, copy.start_ms, None, set(content.params))
            self._runs[content.kind, content.key] = known

    def attach(self, run_id: str, files: tuple[StoredFile, ...]) -> None:
        """Store files of a run; a file of the same name is replaced.

        Args:
            run_id: The run.
            files: The files.
        """
        with tempfile.TemporaryDirectory(prefix="rayscale-") as scratch:
            for file in files:
                target = Path(scratch, file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
            if files:
                self._client.log_artifacts(run_id, scratch)

    def _create(self, content: RunContent, parent: str | None) -> KnownRun:
        tags = {
            KIND_TAG: content.kind,
            KEY_TAGS[content.kind]: content.key,
            "mlflow.source.name": "rayscale",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
        }
        if parent:
            tags["mlflow.parentRunId"] = parent
        start = content.start_ms or content.end_ms or round(time.time() * 1000)
        run = self._client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=content.name)
        return KnownRun(run.info.run_id, None, start, None)

    def _log(self, known: KnownRun, content: RunContent) -> None:
        from mlflow.entities import Metric, Param, RunTag

        new = {name: value for name, value in content.params.items() if name not in known.params}
        params = [Param(name, value[:6000]) for name, value in new.items()]
        tags = [RunTag(name, value[:5000]) for name, value in content.tags.items()]
        self._client.log_batch(known.run_id, params=params, tags=tags)
        known.params.update(new)
        needed = NOT_NEEDED_TAG not in content.tags
        if known.not_needed and needed:
            self._client.delete_tag(known.run_id, NOT_NEEDED_TAG)
        known.not_needed = not needed
        for batch in _batched(content.points, BATCH):
            metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in batch]
            self._client.log_batch(known.run_id, metrics=metrics)
        self.attach(known.run_id, content.files)
        if content.data:
            self._log_data(known.run_id, content.data)

    def _log_data(self, run_id: str, data: DataSource) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(data.name, data.fingerprint, "rayscale", data.source)
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def _set_status(self, known: KnownRun, content: RunContent) -> None:
        if content.kind == "trial" and content.status == "KILLED":
            content = replace(content, end_ms=known.start_ms)  # it never ran: no duration
        if content.status in ("SCHEDULED", "RUNNING"):
            self._client.update_run(known.run_id, status=content.status)
        else:
            self._client.set_terminated(known.run_id, status=content.status, end_time=content.end_ms)
        start = content.start_ms if content.start_ms is not None else known.start_ms
        if (start, content.end_ms) != (known.start_ms, known.end_ms):
            set_times(self.uri, known.run_id, start, content.end_ms)
            known.start_ms, known.end_ms = start, content.end_ms


def set_times(uri: str, run_id: str, start_ms: int | None, end_ms: int | None) -> None:
    """Correct start and end of a run in a sqlite store.

    A run that was created as SCHEDULED keeps its creation as its start, since MLflow's API cannot change it: its
    duration would count the time it waited for its turn. In a sqlite file the two columns can be set; on a server the
    start stays, and tag `rayscale.started_at` and metric `duration_s` tell the truth.

    Args:
        uri: The tracking URI.
        run_id: The run.
        start_ms: Wall clock, ms since 1970.
        end_ms: Wall clock, ms since 1970; None for a run that is not over.
    """
    file = database_file(uri)
    if file is None:
        return
    try:
        with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
            connection.execute(
                "UPDATE runs SET start_time = ?, end_time = ? WHERE run_uuid = ?", (start_ms, end_ms, run_id)
            )
    except sqlite3.Error as error:
        raise EnvironmentUnusableError(f"MLflow at {uri}: cannot set the times of a run: {error}") from None


def _revised(content: RunContent, revision: int) -> RunContent:
    """Number the points of a summary: MLflow shows the highest step, and at equal steps the *largest* value."""
    points = tuple(replace(point, step=revision) for point in content.points)
    return replace(content, points=points, tags={**content.tags, REVISION_TAG: str(revision)})


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _batched(points: tuple[Point, ...], size: int) -> Iterator[tuple[Point, ...]]:
    iterator = iter(points)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
