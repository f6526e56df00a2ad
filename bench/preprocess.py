"""
    python -m bench.preprocess

Rows on disk (JSON lines, the same with gzip, parquet) to finished shards, against one thread of bare
tiktoken on text in memory; then with the tokenizer.json of another base, against the batches of its
own library on all cores. All contenders encode the same text, in one run, in turn. Peak memory is that
of the largest process of ours, at two sizes of the source.
"""

from __future__ import annotations

import functools
import gzip
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
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.json
import pyarrow.parquet
import tiktoken
import tokenizers

from bench.common import machine, parser, report, seconds_of
from instruct_core.data import gpt2_tokenizer as module
from instruct_core.data.builtin import builtin_rows
from instruct_core.data.fast_tokenizer import gpt2_as_json
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID, VOCAB_SIZE
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Exchange
from instruct_core.storage.store import Store
from jobs.process import peak_bytes

REPO = Path(__file__).resolve().parent.parent
NUM_ROWS = int(os.environ.get("BENCH_ROWS", "300000"))
BATCH_ROWS = 10_000  # given to the library at once: all would take gigabytes
TIKTOKEN, FASTOKENS = "--encoder=tiktoken", "--encoder=fastokens"
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


def write_other_formats(lines: Path) -> None:
    """Write the same rows with gzip, and as parquet, beside a file of JSON lines."""
    with lines.open("rb") as plain, gzip.open(f"{lines}.gz", "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)
    pyarrow.parquet.write_table(pyarrow.json.read_json(lines), lines.with_suffix(".parquet"))


def write_other_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Write GPT-2's pieces with an end of their own, as a base's folder has a tokenizer; return it."""
    end = {"id": VOCAB_SIZE, "content": "<|im_end|>", "special": True, "normalized": False}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    document = json.dumps(json.loads(gpt2_as_json()) | {"added_tokens": [end]})
    folder.mkdir()
    (folder / "tokenizer.json").write_text(document, encoding="utf-8")
    settings = json.dumps({"eos_token": end["content"]})
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    return tokenizers.Tokenizer.from_str(document)


def encode_in_batches(engine: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Encode as the library does by itself: a batch on all cores, lists of ids."""
    for start in range(0, len(texts), BATCH_ROWS):
        for row in engine.encode_batch_fast(texts[start : start + BATCH_ROWS]):
            row.ids  # noqa: B018  made when it is asked for


def run_launcher(source: Path, out: Path, *flags: str) -> int:
    """Run the whole command in fresh processes; return the peak memory of the largest, bytes."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, str(REPO / "launch" / "preprocess.py"), f"--source={source}",
        f"--out={out}", "--num-tasks=2", "--cluster=local", *flags,
    ]  # fmt: skip
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            forks = [fork.pid for fork in process.children(recursive=True)]
            peak = max([peak, *map(peak_bytes, [process.pid, *forks])])
        time.sleep(0.05)
    assert process.returncode == 0
    return peak


def nanogpt_style(texts: list[str], path: Path) -> None:
    """A pool of two processes over single rows, Python lists, one array at the end."""
    with multiprocessing.Pool(2, initializer=_worker_encoding) as pool:
        rows = pool.map(_encode_row, texts, chunksize=500)
    np.concatenate([np.array(row, np.uint16) for row in rows]).tofile(path)


_worker_encoding = functools.cache(encoding)  # one a process


def _encode_row(text: str) -> list[int]:
    return [*_worker_encoding().encode_ordinary(text), END_OF_TEXT_ID]


def datasets_map(source: Path, out: Path) -> None:
    """datasets.map with two processes, as most tutorials do it."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=cache)
        rows.map(_map_batch, batched=True, num_proc=2, remove_columns=rows.column_names)


def _map_batch(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
    texts = [
        text_of(BY_HEADINGS.segments(Exchange(i, n, o).turns))
        for i, n, o in zip(batch["instruction"], batch["input"], batch["output"], strict=True)
    ]
    return {"ids": _worker_encoding().encode_ordinary_batch(texts, num_threads=1)}


def tokens_per_second(
    name: str, num_tokens: int, contenders: dict[str, Callable[[], object]], baseline: str
) -> None:
    def speed(run: Callable[[], object]) -> float:
        return num_tokens / seconds_of(run)

    report(
        name,
        {contender: functools.partial(speed, run) for contender, run in contenders.items()},
        baseline=baseline,
        unit="tokens_per_second",
    )


def num_tokens_of(out: Path) -> int:
    manifest = load_manifest(Store(out))
    return manifest.train_tokens + manifest.val_tokens


def bench_gpt2(desk: Path, texts: list[str]) -> None:
    lines, out, bare = desk / "rows.jsonl", desk / "out", encoding()
    write_other_formats(lines)
    run_launcher(lines, out, TIKTOKEN)
    contenders: dict[str, Callable[[], object]] = {
        "tiktoken, one thread": lambda: bare.encode_ordinary_batch(texts, num_threads=1),
        "ours, 2 processes": lambda: run_launcher(lines, out, TIKTOKEN),
        "ours with fastokens, 2 processes": lambda: run_launcher(lines, out, FASTOKENS),
        "ours with fastokens, .jsonl.gz": lambda: run_launcher(
            lines.with_suffix(".jsonl.gz"), out, FASTOKENS
        ),
        "ours with fastokens, .parquet": lambda: run_launcher(
            lines.with_suffix(".parquet"), out, FASTOKENS
        ),
        "nanoGPT-style pool of 2": lambda: nanogpt_style(texts, desk / "all.bin"),
        "datasets.map, 2 processes": lambda: datasets_map(lines, out),
    }
    tokens_per_second("preprocess", num_tokens_of(out), contenders, "tiktoken, one thread")


def bench_other_tokenizer(desk: Path, texts: list[str]) -> None:
    lines, out = desk / "rows.jsonl", desk / "out"
    engine = write_other_tokenizer(desk / "base")
    flag = f"--tokenizer={desk / 'base'}"
    run_launcher(lines, out, flag)
    baseline = "encode_batch_fast, all cores"
    contenders: dict[str, Callable[[], object]] = {
        baseline: lambda: encode_in_batches(engine, texts),
        "ours, 2 processes": lambda: run_launcher(lines, out, flag),
    }
    tokens_per_second("preprocess, tokenizer.json", num_tokens_of(out), contenders, baseline)


def bench_memory(desk: Path) -> None:
    for num_rows in (NUM_ROWS // 4, NUM_ROWS):
        write_source(desk / "rows.jsonl", num_rows)
        started_at = time.perf_counter()
        peak = run_launcher(desk / "rows.jsonl", desk / "out", TIKTOKEN)
        line = {
            "bench": "preprocess memory",
            "source_bytes": (desk / "rows.jsonl").stat().st_size,
            "peak_megabytes": round(peak / 1e6),
            "seconds": round(time.perf_counter() - started_at, 1),
            "machine": machine(),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder)
        texts = write_source(desk / "rows.jsonl", NUM_ROWS)
        bench_gpt2(desk, texts)
        bench_other_tokenizer(desk, texts)
        bench_memory(desk)


if __name__ == "__main__":
    main()
