from __future__ import annotations

from pathlib import Path

import pytest

from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.tracking.store import artifact_root, database_file, default_uri, is_server, resolve_uri, shown


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "a sweep")


def test_default_lies_beside_the_ledger(ledger, tmp_path):
    assert default_uri(ledger) == f"sqlite:///{tmp_path}/mlflow.db"
    assert database_file(default_uri(ledger)) == tmp_path / "mlflow.db"
    assert artifact_root(ledger, default_uri(ledger)) == tmp_path / "mlartifacts"


def test_relative_storage_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_uri(Ledger("results/s")) == f"sqlite:///{tmp_path}/results/mlflow.db"


def test_sweep_file_wins_over_environment_over_default(ledger):
    env = {"MLFLOW_TRACKING_URI": "http://b:1"}
    assert resolve_uri(ledger, "http://a:1", env) == "http://a:1"
    assert resolve_uri(ledger, None, env) == "http://b:1"
    assert resolve_uri(ledger, None, {}) == default_uri(ledger)
    assert resolve_uri(ledger, None, {"MLFLOW_TRACKING_URI": ""}) == default_uri(ledger)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns", "mlruns", "ftp://host/x"])
def test_file_stores_and_strangers_are_refused_in_one_line(ledger, uri):
    with pytest.raises(InputError) as caught:
        resolve_uri(ledger, uri, {})
    assert str(caught.value).startswith("tracking.uri: ")
    assert "expected http" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI: "):
        resolve_uri(ledger, None, {"MLFLOW_TRACKING_URI": uri})


@pytest.mark.parametrize("uri", ["https://h/x", "sqlite:////x/m.db", "postgresql+psycopg2://u:p@h/d", "mysql://h/d"])
def test_servers_and_databases_are_taken(ledger, uri):
    assert resolve_uri(ledger, uri, {}) == uri
    assert is_server(uri) == uri.startswith("https")


def test_artifacts_go_beside_the_database_or_to_the_server(ledger, tmp_path):
    assert artifact_root(ledger, "sqlite:////data/m.db") == Path("/data/mlartifacts")
    assert artifact_root(ledger, "postgresql://h/d") == tmp_path / "mlartifacts"
    assert artifact_root(ledger, "http://h") is None


def test_passwords_are_not_shown():
    assert shown("postgresql://ann:s3cret@host/db") == "postgresql://ann:***@host/db"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
