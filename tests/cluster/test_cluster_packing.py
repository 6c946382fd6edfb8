"""What a submitted sweep takes along, and what never leaves the machine."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

from rayscale.cluster.packing import RAY_LIMIT_BYTES, TOP, collect, megabytes
from rayscale.errors import InputError

SYNTHETIC = "synthetic: {kind: markov, vocab_size: 64, tokens: 20_000, seed: 3}"


def sweep_in(directory: Path, *patterns: str, extra: str = "") -> Path:
    """Write a sweep that reads files."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "study.yaml"
    files = ", ".join(f'"{pattern}"' for pattern in patterns)
    path.write_text(TINY.replace(SYNTHETIC, f"files: [{files}]\n  tokenizer: bytes{extra}"), encoding="utf-8")
    return path


def put(path: Path, text: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(sweep: Path) -> list[str]:
    return [file.name.removeprefix(f"{TOP}/") for file in collect(sweep)[1].files]


def test_a_sweep_without_files_sends_itself_alone(tiny_file: Path) -> None:
    put(tiny_file.parent / "secret.txt")
    spec, package = collect(tiny_file)
    assert (spec.name, package.sweep) == ("tiny", f"{TOP}/tiny.yaml")
    assert [file.name for file in package.files] == [f"{TOP}/tiny.yaml"]
    assert package.size == tiny_file.stat().st_size


def test_exactly_the_matching_files_go_along(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, "corpus/**/*.txt")
    for name in ("corpus/a.txt", "corpus/deep/b.txt", "corpus/c.md", "other.txt", ".git/d.txt", "results/e.txt"):
        put(tmp_path / name)
    assert names(sweep) == ["corpus/a.txt", "corpus/deep/b.txt", "study.yaml"]


def test_files_beside_the_sweeps_directory_keep_their_place(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path / "sweeps", "../corpus/*.txt")
    put(tmp_path / "corpus" / "a.txt")
    assert names(sweep) == ["corpus/a.txt", "sweeps/study.yaml"]


def test_absolute_patterns_are_told_and_not_sent(tmp_path: Path) -> None:
    pattern = str(put(tmp_path / "shared" / "a.txt"))
    _, package = collect(sweep_in(tmp_path / "sweeps", pattern))
    assert len(package.files) == 1
    assert package.not_sent == (pattern,)


@pytest.mark.parametrize(
    "name",
    [
        ".git/config.txt",
        "results/tiny/log.txt",
        ".ssh/known.txt",
        ".aws/config.txt",
        "id_ed25519.txt",
        "credentials.txt",
        ".env",
        "tls.key",
        "sub/server.pem",
        "auth_token",
    ],
)
def test_results_repositories_and_credentials_are_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    with pytest.raises(InputError, match=r"never sent"):
        collect(sweep_in(tmp_path, name))


def test_a_link_to_a_credential_is_refused(tmp_path: Path) -> None:
    secret = put(tmp_path / "home" / ".ssh" / "id_rsa")
    (tmp_path / "sweeps" / "corpus").mkdir(parents=True)
    (tmp_path / "sweeps" / "corpus" / "innocent.txt").symlink_to(secret)
    with pytest.raises(InputError, match=r"corpus/innocent\.txt: results, repositories and credentials"):
        collect(sweep_in(tmp_path / "sweeps", "corpus/*.txt"))


def test_a_sweep_that_itself_lies_below_results_can_be_sent(tmp_path: Path) -> None:
    put(tmp_path / "results" / "mine" / "corpus" / "a.txt")
    assert names(sweep_in(tmp_path / "results" / "mine", "corpus/*.txt")) == ["corpus/a.txt", "study.yaml"]


def test_too_much_is_refused_with_the_numbers(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "a.txt", "x" * 300_000)
    sweep = sweep_in(tmp_path, "corpus/*.txt")
    with pytest.raises(InputError, match=r"2 files of 0\.3 MB would be sent, expected at most 0\.2 MB"):
        collect(sweep, 200_000)
    assert len(collect(sweep, 301_000)[1].files) == 2
    with pytest.raises(InputError, match=r"expected at most 500\.0 MB"):
        collect(sweep, RAY_LIMIT_BYTES + 1)


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "vocabulary.json")
    put(tmp_path / ".env")
    sweep = sweep_in(tmp_path, "nothing/*.txt", ".env")
    sweep.write_text(sweep.read_text().replace("tokenizer: bytes", "tokenizer: vocabulary.json"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        collect(sweep)
    assert len(caught.value.problems) == 3
    assert "data.tokenizer: vocabulary.json lies on this machine" in caught.value.problems[0]
    assert "`nothing/*.txt` matches no file" in caught.value.problems[1]


def test_the_package_holds_the_bytes_and_is_the_same_twice(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "json.py", "value = 1\n")
    _, package = collect(sweep_in(tmp_path, "corpus/*.py"))
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    package.write(first)
    (tmp_path / "corpus" / "json.py").touch()
    package.write(second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as unpacked:
        assert unpacked.read(f"{TOP}/corpus/json.py") == b"value = 1\n"
        assert {name.split("/")[0] for name in unpacked.namelist()} == {TOP}
    assert not TOP.isidentifier()  # nothing in it can be imported by name from the package's directory


def test_the_digest_tells_contents_and_names_apart(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, "corpus/*.txt")
    put(tmp_path / "corpus" / "a.txt", "1")
    before = collect(sweep)[1].digest()
    assert collect(sweep)[1].digest() == before
    put(tmp_path / "corpus" / "a.txt", "2")
    changed = collect(sweep)[1].digest()
    (tmp_path / "corpus" / "a.txt").rename(tmp_path / "corpus" / "b.txt")
    assert len({before, changed, collect(sweep)[1].digest()}) == 3


@given(st.integers(0, 10**12))
def test_sizes_are_written_to_a_tenth_of_their_unit(size: int) -> None:
    number, unit = megabytes(size).replace(",", "").split()
    scale = {"MB": 1e6, "kB": 1e3}[unit]
    assert abs(float(number) * scale - size) <= 0.0501 * scale
