"""Many planned trials at once, where MLflow keeps its runs in a sqlite file.

Through MLflow's client a run takes nine transactions, each of which waits for the disk: a quarter of an hour for 10,000
trials. Here the client makes the first run, and its rows are copied for the others in one transaction: every column as
MLflow wrote it, but for the run's id and what a trial's content says. On a server there is no such way.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rayscale.tracking.content import DIGEST_TAG, KEY_TAGS, RunContent

RUN_NAME_TAG = "mlflow.runName"


@dataclass(frozen=True)
class Copied:
    """A run made from another one: its id, and when MLflow says that it began (ms since 1970)."""

    run_id: str
    start_ms: int | None


def is_plain(content: RunContent) -> bool:
    """Tell whether a content is that of a trial nobody has begun: no metrics, files or times of its own."""
    return (content.kind, content.status) == ("trial", "SCHEDULED") and not (
        content.points or content.files or content.data or content.start_ms or content.end_ms
    )


def copy_run(database: Path, template: str, contents: Sequence[RunContent]) -> list[Copied]:
    """Make runs with the rows of one that MLflow has made, all of them or none.

    Args:
        database: MLflow's sqlite file.
        template: Id of that run; it is a planned trial's too, so that status, user, parent and source are right.
        contents: What the new ones hold; each is plain.

    Returns:
        One new run per content.

    Raises:
        sqlite3.Error: If the file is locked, or its tables are not as known here.
    """
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        cursor = connection.execute("SELECT * FROM runs WHERE run_uuid = ?", (template,))
        columns = [str(column[0]) for column in cursor.description]
        found = cursor.fetchone()
        if found is None:
            raise sqlite3.IntegrityError(f"no run {template}")
        row = dict(zip(columns, found, strict=True))
        tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (template,)))
        copies = [Copied(uuid.uuid4().hex, row["start_time"]) for _ in contents]
        rows = [_run_row(row, template, copy, content) for copy, content in zip(copies, contents, strict=True)]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO runs ({names}) VALUES ({marks})", rows)
        _insert_pairs(connection, "params", copies, [dict(content.params) for content in contents])
        _insert_pairs(connection, "tags", copies, [_tags(tags, content) for content in contents])
    return copies


def _run_row(row: dict[str, object], template: str, copy: Copied, content: RunContent) -> list[object]:
    """Change what is a run's own; its artifacts lie under its id."""
    place = str(row["artifact_uri"]).replace(template, copy.run_id)
    return list((row | {"run_uuid": copy.run_id, "name": content.name, "artifact_uri": place}).values())


def _tags(template: dict[str, str], content: RunContent) -> dict[str, str]:
    own = {KEY_TAGS[content.kind]: content.key, RUN_NAME_TAG: content.name, DIGEST_TAG: content.digest}
    return {**template, **{name: value[:5000] for name, value in content.tags.items()}, **own}


def _insert_pairs(
    connection: sqlite3.Connection, table: str, copies: Sequence[Copied], pairs: Sequence[dict[str, str]]
) -> None:
    rows = [
        (name, value, copy.run_id) for copy, found in zip(copies, pairs, strict=True) for name, value in found.items()
    ]
    connection.executemany(f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)", rows)
