"""
    python -m bench.preprocess

Rows as JSON lines on disk to finished shards, against one thread of bare tiktoken on text in
memory. All contenders encode the same text, in one run, in turn. Peak memory is that of the
largest process of ours, at two sizes of the source.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken

from bench.common import machine, parser, report, seconds_of
from instruct_core.data import gpt2_tokenizer as module
from instruct_core.data.builtin import builtin_rows
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID
from instruct_core.data.shards import load_manifest
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Exchange
from instruct_core.storage.store import Store
from jobs.process import peak_bytes

REPO = Path(__file__).resolve().parent.parent
NUM_ROWS = int(os.environ.get("BENCH_ROWS", "300000"))
PARTS = 5  # builtin answers in one of ours: rows of about 200 tokens, as Alpaca's are


def encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=module.PATTERN,
        mergeable_ranks=module.read_merges(module.merges_path()),
        special_tokens={module.END_OF_TEXT: END_OF_TEXT_ID},
    )


def write_source(path: Path, num_rows: int) -> list[str]:
    """Write rows of Alpaca's length, made of several real answers each, and return their texts."""
    texts = []
    rows = list(builtin_rows())
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            parts = draw.sample(rows, PARTS)
            answer = "\n".join(part.output for part in parts)
            fresh = Exchange(f"{parts[0].instruction} ({number})", "", answer)
            file.write(json.dumps(fresh._asdict()) + "\n")
            texts.append(text_of(BY_HEADINGS.segments(fresh.turns)))
    return texts


def run_launcher(source: Path, out: Path, tokenizer: str) -> int:
    """Run the whole command in fresh processes; return the peak memory of the largest, bytes."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, str(REPO / "launch" / "preprocess.py"), f"--source={source}",
        f"--out={out}", "--num-tasks=2", f"--encoder={tokenizer}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = []
    while process.poll() is None:
        peaks.append(peak_bytes(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    tasks = [
        json.loads(p.read_text(encoding="utf-8"))["peak_bytes"]
        for p in out.glob("job/0000/*/progress-*.json")
    ]
    return max([*peaks, *tasks])


def nanogpt_style(texts: list[str], path: Path) -> None:
    """A pool of two processes over single rows, Python lists, one array at the end."""
    with multiprocessing.Pool(2, initializer=_init_worker) as pool:
        rows = pool.map(_encode_row, texts, chunksize=500)
    np.concatenate([np.array(row, np.uint16) for row in rows]).tofile(path)


def _init_worker() -> None:
    global _worker_encoding  # noqa: PLW0603  one a process, as pools want it
    _worker_encoding = encoding()


def _encode_row(text: str) -> list[int]:
    return [*_worker_encoding.encode_ordinary(text), END_OF_TEXT_ID]


def datasets_map(source: Path, out: Path) -> None:
    """datasets.map with two processes, as most tutorials do it."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=cache)
        rows.map(_map_batch, batched=True, num_proc=2, remove_columns=rows.column_names)


def _map_batch(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
    if "_worker_encoding" not in globals():
        _init_worker()
    texts = [
        text_of(BY_HEADINGS.segments(Exchange(i, n, o).turns))
        for i, n, o in zip(batch["instruction"], batch["input"], batch["output"], strict=True)
    ]
    return {"ids": _worker_encoding.encode_ordinary_batch(texts, num_threads=1)}


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder)
        texts = write_source(desk / "rows.jsonl", NUM_ROWS)
        bare = encoding()
        run_launcher(desk / "rows.jsonl", desk / "out", "tiktoken")
        manifest = load_manifest(Store(desk / "out"))
        num_tokens = manifest["train_tokens"] + manifest["val_tokens"]
        contenders: dict[str, Callable[[], object]] = {
            "tiktoken, one thread": lambda: bare.encode_ordinary_batch(texts, num_threads=1),
            "ours, 2 tasks": lambda: run_launcher(desk / "rows.jsonl", desk / "out", "tiktoken"),
            "ours with fastokens, 2 tasks": lambda: run_launcher(
                desk / "rows.jsonl", desk / "out", "fastokens"
            ),
            "nanoGPT-style pool of 2": lambda: nanogpt_style(texts, desk / "all.bin"),
            "datasets.map, 2 processes": lambda: datasets_map(desk / "rows.jsonl", desk / "out"),
        }
        report(
            "preprocess",
            {
                name: lambda run=run: num_tokens / seconds_of(run)  # type: ignore[misc]
                for name, run in contenders.items()
            },
            baseline="tiktoken, one thread",
            unit="tokens_per_second",
        )
        for num_rows in (NUM_ROWS // 4, NUM_ROWS):
            write_source(desk / "rows.jsonl", num_rows)
            started_at = time.perf_counter()
            peak = run_launcher(desk / "rows.jsonl", desk / "out", "tiktoken")
            line = {
                "bench": "preprocess memory",
                "source_bytes": (desk / "rows.jsonl").stat().st_size,
                "peak_megabytes": round(peak / 1e6),
                "seconds": round(time.perf_counter() - started_at, 1),
                "machine": machine(),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
