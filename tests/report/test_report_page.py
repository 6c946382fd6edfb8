"""The report in a real browser without a network: everything is drawn, nothing is asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import pytest
from ledgers import make_ledger

from rayscale.analyzing import analyze_ledger
from rayscale.report.build import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (.ci/run installs it)")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ledger = make_ledger(tmp_path_factory.mktemp("page") / "made")
    return build_report(ledger, analyze_ledger(ledger, ledger.read_plan()), ledger.root / "report.html")


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def test_the_page_is_drawn_without_a_network_or_a_complaint(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    result = browse(page, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1100,3000")
    assert not re.findall(r"CONSOLE.*", result.stderr)
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (3000, 1100)
    thirds = [pixels[start : start + 1000, :, :3].std() for start in (0, 1000, 2000)]
    assert min(thirds) > 0.02  # text and figures everywhere, no blank part


def test_the_browsers_document_has_every_figure_and_table(page: Path, tmp_path: Path) -> None:
    document = browse(page, tmp_path / "profile", "--dump-dom").stdout
    assert document.count("<svg") >= 8
    assert document.count("<figcaption") >= 8
    assert document.count("<table") >= 10
    assert "estimated" in document
