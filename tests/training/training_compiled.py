"""A compiled trial on one node, run in a process of its own by test_training_shipping."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from training_helpers import tiny_session, tiny_spec

from rayscale.environment import cache_directory
from rayscale.storage import LocalStorage
from rayscale.training.shipping import fetch_bundles, send_bundle


def train_compiled(node: str, ledger: str) -> dict[str, Any]:
    """Fetch, train, send, as a slot and its trial do on a node whose cache is `node`."""
    os.environ["RAYSCALE_CACHE"] = node
    storage = LocalStorage(Path(ledger))
    fetched = fetch_bundles(storage)
    session = tiny_session(cache_directory(), tiny_spec(train={"compile": "on", "warmup_steps": 0}))
    session.warmup()
    result = session.train(lambda _: None)
    facts = session.setup.settings()["compile"]
    sent = send_bundle(storage, facts["bundle"])
    return facts | {"fetched": fetched, "sent": sent, "loss_digest": result.loss_digest, "compile_s": session.compile_s}
