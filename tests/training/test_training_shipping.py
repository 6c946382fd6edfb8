"""Bundles of compiled kernels: from one node's cache beside the ledger, into another node's cache, once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from training_compiled import train_compiled
from training_helpers import tiny_spec

from rayscale.environment import cache_directory
from rayscale.storage import LocalStorage
from rayscale.sweep.forkserver import ForkServer
from rayscale.training.preload import PRELOAD
from rayscale.training.shipping import bundle_name, fetch_bundles, load_bundle, pack_bundle, send_bundle

NAME = bundle_name(tiny_spec(), "0123456789abcdef")


class Compiler:
    """Stands for torch's compiler: what it has made, and what it was given."""

    def __init__(self, made: bytes | None) -> None:
        self.made, self.given = made, list[bytes]()

    def save(self) -> tuple[bytes, object] | None:
        return None if self.made is None else (self.made, object())

    def load(self, content: bytes) -> object:
        self.given.append(content)
        return object()


def test_a_bundle_goes_from_node_to_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, first, second = LocalStorage(tmp_path / "ledger"), Compiler(b"kernels"), Compiler(None)
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "a"))
    assert fetch_bundles(ledger) == 0
    assert load_bundle(NAME, first.load) is False
    assert pack_bundle(NAME, first.save) == cache_directory() / "inductor" / NAME
    assert load_bundle(NAME, first.load) is False  # the node that compiled has it in its cache
    assert send_bundle(ledger, NAME) is True
    assert send_bundle(ledger, NAME) is False
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "b"))
    assert fetch_bundles(ledger) == 1
    assert fetch_bundles(ledger) == 0
    assert load_bundle(NAME, second.load) is True
    assert load_bundle(NAME, second.load) is False
    assert second.given == [b"kernels"]
    assert first.given == []


def test_nothing_is_kept_of_a_process_that_compiled_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "a"))
    assert pack_bundle(NAME, Compiler(None).save) is None
    assert send_bundle(LocalStorage(tmp_path / "ledger"), NAME) is False
    assert send_bundle(LocalStorage(tmp_path / "ledger"), None) is False
    assert not (tmp_path / "ledger").exists()


def test_other_models_and_versions_have_other_bundles() -> None:
    specs = [tiny_spec(), tiny_spec(train={"batch_size": 8}), tiny_spec(data={"sequence_length": 32})]
    names = {bundle_name(spec, key) for spec in specs for key in ("a" * 16, "b" * 16)}
    assert len(names) == 6
    assert bundle_name(tiny_spec(design={"repetitions": 9}), "a" * 16) in names  # not of the design


def test_a_name_cannot_lead_out_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_CACHE", str(tmp_path / "a"))
    ledger = LocalStorage(tmp_path / "ledger")
    ledger.write("inductor/notes.txt", b"no bundle")
    ledger.write("inductor/x.bin", b"kernels")
    assert fetch_bundles(ledger) == 1
    assert [path.name for path in (tmp_path / "a" / "inductor").iterdir()] == ["x.bin"]


@pytest.mark.skipif(
    "RAYSCALE_COMPILE_TEST" not in os.environ, reason="compiling takes a minute: RAYSCALE_COMPILE_TEST=1"
)
def test_what_one_node_compiled_is_found_by_another(tmp_path: Path) -> None:
    forks = ForkServer(["rayscale.trial", *PRELOAD])
    first, second = (forks.call(train_compiled, str(tmp_path / node), str(tmp_path / "ledger")) for node in "ab")
    assert (first["fetched"], first["sent"], second["fetched"], second["sent"]) == (0, True, 1, False)
    assert first["cache_misses"] > 0  # in a cache of this node's own, not in one that a preloaded import has named
    assert (second["cache_hits"], second["cache_misses"]) == (first["cache_hits"] + first["cache_misses"], 0)
    assert second["loss_digest"] == first["loss_digest"]
