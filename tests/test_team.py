"""The processes of one trial: what happens to all of them when one ends, and one whole trial without Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import TINY

from rayscale.processtree import children_of
from rayscale.record import Record

SCRIPT = [sys.executable, str(Path(__file__).parent / "team_process.py")]


def run(*words: str) -> tuple[subprocess.CompletedProcess[str], list[int]]:
    start = time.monotonic()
    done = subprocess.run([*SCRIPT, *words], capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - start < 30
    return done, [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("rank ")]


def gone(pids: list[int], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_all_end_when_the_work_is_done() -> None:
    done, ranks = run("free", "work", "work")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["trained", "ended"]
    assert len(ranks) == 2
    assert gone(ranks)


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        (["die"], "killed: rank 1 (process"),
        (["raise"], "out_of_memory: rank 1: no memory"),
        (["raise", "lost"], "out_of_memory: rank 1: no memory"),  # not what the others saw of it
        (["die", "hang"], "killed: rank 1 (process"),
    ],
)
def test_the_first_cause_is_the_reason_and_nobody_stays(acts: list[str], words: str) -> None:
    done, ranks = run("free", *acts)
    assert done.returncode == 1
    assert f"RankFailed: {words}" in done.stderr
    assert "trained" not in done.stdout
    assert gone(ranks)


def test_a_trial_that_never_comes_back_is_ended_by_force() -> None:
    """As with NCCL, whose operations do not notice that the other side is gone."""
    done, ranks = run("stuck", "die", "hang")
    assert done.returncode == 1
    assert "gave up killed rank 1 (process" in done.stdout
    assert "ended" not in done.stdout
    assert gone(ranks)


# -- a whole trial ----------------------------------------------------------------------------------------------------


def start_alone(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    (tmp_path / "two.yaml").write_text(text.replace("gpus: 0, cpus: 1", "gpus: 0, ranks: 2, cpus: 2"), encoding="utf-8")
    command = [sys.executable, "-m", "rayscale.trial", "--sweep", str(tmp_path / "two.yaml"), "--tokens", "1024"]
    out = ["--out", str(tmp_path / "out")]
    return subprocess.Popen([*command, *out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def listening(pids: list[int]) -> set[str]:
    """Addresses on which processes accept connections, as /proc/net/tcp writes them."""
    links = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended, or closed one
            links |= {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add(fields[1].partition(":")[0])
    return found


def test_two_ranks_without_ray_listen_on_loopback_only_and_leave_one_record(tmp_path: Path) -> None:
    process, seen = start_alone(tmp_path, TINY.replace("idle: 40ms", "idle: 400ms")), set()
    log = tmp_path / "out" / "log.jsonl"
    while process.poll() is None:
        if log.exists() and '"context_idle"' in log.read_text(encoding="utf-8"):
            seen |= listening([process.pid, *children_of(process.pid)])
        time.sleep(0.02)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "1024 tokens" in stdout
    assert seen == {"0100007F"}  # 127.0.0.1: the ranks do meet there, and nowhere else
    record = Record.from_json((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert (record.training.world_size, record.training.trained_tokens, len(record.device.ranks)) == (2, 1024, 2)


def test_a_rank_in_an_interpreter_of_its_own_ends_with_its_trial() -> None:
    code = "import time\nfrom rayscale.ranked import spawned_rank\nrank, pipe = spawned_rank()\n"
    code += "print(rank.pid, flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rank = int(process.stdout.readline())
        deadline = time.monotonic() + 30
        while "libc" not in Path(f"/proc/{rank}/maps").read_text(encoding="utf-8") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Path(f"/proc/{rank}").exists()
        process.send_signal(signal.SIGKILL)
    assert gone([rank], within_s=30)
