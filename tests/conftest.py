"""Fixtures that all tests share. Nothing here needs a GPU, a network or a hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from tiny import TINY

from rayscale.spec import SweepSpec
from rayscale.specfile import parse_spec

# Timings of single examples say nothing on a shared machine; the suite has its own time limit.
settings.register_profile("rayscale", deadline=None)
settings.load_profile("rayscale")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Keep prepared data in one place for the session, away from the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSCALE_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()


@pytest.fixture
def tiny_text() -> str:
    """The tiny sweep as YAML text."""
    return TINY


@pytest.fixture
def tiny_spec() -> SweepSpec:
    """The tiny sweep."""
    return parse_spec(TINY, "tiny.yaml")


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The tiny sweep as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path
