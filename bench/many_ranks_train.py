"""
A run of many ranks on this machine, for real: three steps, a save after each, with few open files.

    python -m bench.many_ranks_train                     # 64 ranks under `ulimit -n 256`
    python -m bench.many_ranks_train --ranks 32

The launcher, its controller and forks of that train a tiny model with 400 words. What ranks need
of memory is not estimated here, but measured: the launcher would refuse so many on a small machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from launch.flags.finetune import Finetune
from launch.flags.parse import parse_flags
from launch.flags.preprocess import Preprocess
from launch.training import micro_batch
from tests.small_tokenizers import write_byte_level

SEQ_LEN, STEPS = 32, 3


@dataclass(frozen=True)
class Flags:
    """What is tried."""

    ranks: int = 64
    """Number of ranks."""
    files: int = 256
    """Limit of open files, soft and hard."""


@dataclass
class Seen:
    """The most that was seen at once."""

    ranks: int = 0
    memory_mb: int = 0  # of all ranks; what they share counts once
    files: int = 0  # of the rank that has most open


def look(run: Path, seen: Seen) -> None:
    """Look at the ranks of a run once."""
    pids = [pid for path in run.glob("attempt-*.jsonl") for pid in _pids(path)]
    kilobytes, files, alive = 0, [0], 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
            files.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            kilobytes += int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0])
            alive += 1
    seen.ranks = max(seen.ranks, alive)
    seen.memory_mb = max(seen.memory_mb, kilobytes // 1024)
    seen.files = max(seen.files, *files)


def _pids(ledger: Path) -> list[int]:
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    return [pid for line in lines if line["event"] == "started" for pid in line["pids"]]


@contextlib.contextmanager
def watching(run: Path) -> Iterator[Seen]:
    """Look at the ranks of a run every second."""
    seen, over = Seen(), threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            look(run, seen)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def make_shards(folder: Path) -> None:
    """Make shards of a few rows."""
    from launch.arrays.shards import prepare as preprocess

    write_byte_level(folder / "base")
    rows = [{"instruction": f"Say {n}.", "output": f"{n} it is. " * 5} for n in range(600)]
    text = "\n".join(map(json.dumps, rows))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    words = ["--source=rows.jsonl", "--out=shards", "--num-tasks=1", "--tokenizer=base"]
    assert preprocess(parse_flags(Preprocess, [*words, "--cluster=local"])) == 0


def train(ranks: int) -> int:
    """Train in the current folder; return the launcher's exit code."""
    from launch.training.start import finetune

    micro_batch.rank_bytes = lambda *arguments: 0
    words = [
        "--shards=shards", "--run=many", "--cluster=local", f"--gpus={ranks}", "--model=tiny",
        "--init=random", f"--max-steps={STEPS}", f"--seq-len={SEQ_LEN}", "--micro-batch-size=1",
        f"--tokens-per-step={ranks * SEQ_LEN}", "--warmup-steps=1", "--save-every=1",
        "--eval-every=1000", "--precision=fp32",
    ]  # fmt: skip
    return finetune(parse_flags(Finetune, words), words)


def main(flags: Flags) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (flags.files, flags.files))
    with tempfile.TemporaryDirectory(prefix="many") as folder:
        os.chdir(folder)
        make_shards(Path(folder))
        before, began_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with watching(Path(folder, "runs_instruct", "many")) as seen:
            code = train(flags.ranks)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
        kept = len(list(Path("checkpoints_instruct", "many").glob("step-*")))
        os.chdir("/")
    print(
        f"{flags.ranks} ranks, limit of {flags.files} open files: exit code {code}, {kept} steps kept, "
        f"{time.monotonic() - began_at:.0f} s, {seconds:.0f} s of processor time, {seen}"
    )


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
