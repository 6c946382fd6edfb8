"""Ledgers for the report's tests, made once."""

from __future__ import annotations

import pytest
from ledgers import make_ledger

from rayscale.ledger import Ledger


@pytest.fixture(scope="session")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """3 token counts x 5 repetitions on a CPU: energy is estimated."""
    return make_ledger(tmp_path_factory.mktemp("laptop"))


@pytest.fixture(scope="session")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """3 token counts x 5 repetitions on an A100: energy is measured."""
    return make_ledger(tmp_path_factory.mktemp("gpu"), estimated=False)
