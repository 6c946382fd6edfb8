"""Preparing data against the bare `tokenizers` library, and the memory that it takes.

1. `prepare` on 100 MB of real text in files (hash, split, tokenise, order, write, check: everything from the files to
   opened streams) against `encode_batch_fast` alone on the same documents, already cut and in memory, whose ids nobody
   takes. Both use all cores; they alternate in one process, the order changing from round to round.
2. Peak resident memory of a process that prepares 1 GB in a single text file, the hardest form.

    python -m benchmarks.data [--megabytes 100] [--rounds 3] [--large 1000] [--vocabulary 4096]

The text is what the machine has: installed Python sources and /usr/share/doc, repeated if that is too little.
Goals: >= 80 % of the library's speed; 1 GB within 2 GB.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import site
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rayscale.environment import cpu_name, versions
from rayscale.spec import SweepSpec
from rayscale.specfile import parse_spec
from rayscale.training.data import prepare

SWEEP = """\
name: data
design: {{factors: {{tokens: [1000]}}, repetitions: 1, seed: 1}}
model: {{config: {{hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 1}}}}
data: {{files: ["{files}"], tokenizer: {tokenizer}, sequence_length: 128}}
"""
_KINDS = {".py", ".txt", ".md", ".rst"}
_BARE_BYTES = 8_000_000
"""Text per call of the bare library: large enough that its cores are busy to the end, small enough for the memory."""


@dataclass(frozen=True)
class Span:
    """What a piece of work took. Units: s.

    Attributes:
        wall: On the clock.
        cpu: Of all threads of this process; hardly depends on who else uses the machine.
    """

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} (cpu {self.cpu:.1f})"


@dataclass(frozen=True)
class Round:
    """One pair of measurements.

    Attributes:
        bare: The library alone.
        ours: `prepare`.
    """

    bare: Span
    ours: Span


@dataclass(frozen=True)
class Preparation:
    """What a process of its own saw.

    Attributes:
        seconds: Wall time of `prepare`. Units: s.
        before: Peak resident memory before it. Units: B.
        peak: Peak resident memory at its end. Units: B.
        tokens: Tokens written.
    """

    seconds: float
    before: int
    peak: int
    tokens: int


def machine_texts() -> Iterator[str]:
    """Yield the texts that the machine has, in a fixed order."""
    roots = [Path(sysconfig.get_paths()["stdlib"]), *map(Path, site.getsitepackages()), Path("/usr/share/doc")]
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in _KINDS and path.is_file():
                try:
                    yield path.read_text(encoding="utf-8")
                except (UnicodeDecodeError, OSError):
                    continue


def texts_of(size: int) -> Iterator[str]:
    """Yield texts up to a size, from the start again if the machine has too few.

    Args:
        size: How much. Units: B.

    Yields:
        Texts.
    """
    done = 0
    for text in itertools.chain.from_iterable(machine_texts() for _ in itertools.count()):
        yield text
        done += len(text.encode())
        if done >= size:
            return


def write_files(directory: Path, size: int) -> SweepSpec:
    """Write a corpus of many files and train its tokenizer.

    Args:
        directory: Where to write.
        size: How much text. Units: B.

    Returns:
        The sweep that reads it.
    """
    (directory / "text").mkdir(parents=True)
    for number, text in enumerate(texts_of(size)):
        (directory / "text" / f"{number:06}.txt").write_text(text, encoding="utf-8", newline="")
    return parse_spec(
        SWEEP.format(files=directory / "text" / "*.txt", tokenizer=directory / "tokenizer.json"), "benchmark"
    )


def write_tokenizer(path: Path, vocabulary: int) -> None:
    """Train a byte-level BPE as a sweep with `tokenizer: {bpe: N}` does.

    Args:
        path: The tokenizer.json.
        vocabulary: Its size.
    """
    from rayscale.training.tokenizer import SAMPLE_BYTES, train_bpe

    train_bpe(vocabulary, texts_of(SAMPLE_BYTES)).save(str(path))


def bare_batches(spec: SweepSpec) -> list[list[str]]:
    """Read the documents that `prepare` will see, cut as it cuts them, into batches in memory.

    Args:
        spec: The sweep.

    Returns:
        Batches of texts.
    """
    from rayscale.training.documents import open_files
    from rayscale.training.encoding import batched

    documents = open_files(spec.data.files or [], spec.data.text_column).documents()
    rows = ((index, text, len(text.encode())) for index, text in enumerate(documents))
    return [batch.texts for batch in batched(rows, _BARE_BYTES)]


def timed(work: Callable[[], None]) -> Span:
    """Time a piece of work.

    Args:
        work: The work.

    Returns:
        What it took.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Span(time.perf_counter() - wall, time.process_time() - cpu)


def encode_bare(engine: Any, batches: list[list[str]]) -> None:
    """Run the library alone.

    Args:
        engine: The `tokenizers` tokenizer.
        batches: The texts.
    """
    for batch in batches:
        engine.encode_batch_fast(batch, add_special_tokens=False)


def prepare_afresh(spec: SweepSpec) -> None:
    """Run `prepare` into an empty cache.

    Args:
        spec: The sweep.
    """
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as cache:
        prepare(spec, Path(cache))


def compare(spec: SweepSpec, rounds: int) -> list[Round]:
    """Measure both in turn.

    Args:
        spec: The sweep.
        rounds: Number of pairs.

    Returns:
        The pairs.
    """
    from tokenizers import Tokenizer

    engine, batches = Tokenizer.from_file(str(spec.data.tokenizer)), bare_batches(spec)
    engine.encode_special_tokens = True
    encode_bare(engine, batches[:1])  # starts the library's threads
    parts: dict[str, Callable[[], None]] = {
        "bare": lambda: encode_bare(engine, batches),
        "ours": lambda: prepare_afresh(spec),
    }
    found = []
    for number in range(rounds):
        order = list(parts) if number % 2 == 0 else list(parts)[::-1]
        found.append(Round(**{name: timed(parts[name]) for name in order}))
        print(f"  round {number + 1}: {found[-1].bare} s bare, {found[-1].ours} s prepare", flush=True)
    return found


def prepare_watched(spec: SweepSpec, cache: Path) -> Preparation:
    """Prepare and tell the memory; for a process that does nothing else.

    Args:
        spec: The sweep.
        cache: An empty cache.

    Returns:
        Time and memory.
    """
    before, start = _peak(), time.perf_counter()
    data = prepare(spec, cache)
    return Preparation(time.perf_counter() - start, before, _peak(), data.train_tokens + data.eval_tokens)


def _peak() -> int:
    # Not ru_maxrss: that includes what the parent had when it started this process.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_large(directory: Path, size: int, tokenizer: str) -> Preparation:
    """Prepare one text file in a process of its own.

    Args:
        directory: Holds tokenizer.json; the file and the cache are written here.
        size: How much text. Units: B.
        tokenizer: `bytes` or a tokenizer.json.

    Returns:
        Time and memory.
    """
    path = directory / "one.txt"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(texts_of(size))
    spec = parse_spec(SWEEP.format(files=path, tokenizer=tokenizer), "benchmark")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(prepare_watched, spec, directory / "cache").result()


def report_rounds(rounds: list[Round], megabytes: float) -> None:
    """Print the comparison.

    Args:
        rounds: The pairs.
        megabytes: Text per measurement.
    """
    for name in ("wall", "cpu"):
        bare = [getattr(pair.bare, name) for pair in rounds]
        ours = [getattr(pair.ours, name) for pair in rounds]
        shares = [b / o for b, o in zip(bare, ours, strict=True)]
        print(
            f"{name}: encode_batch_fast alone {statistics.median(bare):.1f} s, prepare {statistics.median(ours):.1f} s "
            f"({megabytes / statistics.median(ours):.2f} MB/s): {statistics.median(shares):.0%} of the library's speed "
            f"({min(shares):.0%} to {max(shares):.0%}; goal 80 %)"
        )


def report_large(found: Preparation, megabytes: float, tokenizer: str) -> None:
    """Print the memory.

    Args:
        found: What was measured.
        megabytes: Size of the file.
        tokenizer: What cut it.
    """
    print(
        f"{megabytes:.0f} MB in one file ({tokenizer}): {found.tokens / 1e6:.0f} M tokens in {found.seconds:.0f} s, "
        f"peak {found.peak / 1e6:.0f} MB resident ({found.before / 1e6:.0f} MB before it began; goal 2000)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves the comparison out")
    parser.add_argument("--large", type=float, default=1000, help="MB of the single file; 0 leaves it out")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument(
        "--large-tokenizer", choices=["bpe", "bytes"], default="bpe", help="bytes: 1 token a byte, fast"
    )
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    machine = f"{cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"{date.today()}  {machine}, tokenizers {versions()['tokenizers']}, BPE of {options.vocabulary}")
    with tempfile.TemporaryDirectory(prefix="rayscale-bench-") as name:
        directory = Path(name)
        write_tokenizer(directory / "tokenizer.json", options.vocabulary)
        if options.rounds:
            rounds = compare(write_files(directory, int(options.megabytes * 1e6)), options.rounds)
            report_rounds(rounds, options.megabytes)
        if options.large:
            choice = "bytes" if options.large_tokenizer == "bytes" else str(directory / "tokenizer.json")
            report_large(
                measure_large(directory, int(options.large * 1e6), choice), options.large, options.large_tokenizer
            )
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
