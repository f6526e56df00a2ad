"""
    python launch/preprocess.py --source vicgalle/alpaca-gpt4 --out shards/alpaca --num-tasks 16

Turns a dataset into tokenized shards. The work is in preparing.py; this file is the flags, and
imports nothing that would make --help slow.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from launch.console import RARE, Cluster, guarded, parse_flags


@dataclass(frozen=True)
class Preprocess:
    """
    Turn a dataset into tokenized shards, as an array of tasks.

    Every row is checked first; then the tasks write. Run it again, and only what is missing or
    damaged is made.
    """

    source: str = "vicgalle/alpaca-gpt4"
    """A Hugging Face dataset id, a path, glob or URL of .json, .jsonl, .csv or .parquet files, or
    "builtin": real questions and answers that need no network."""
    out: str | None = None
    """Folder or URL of the shard set (default: shards/ and the last part of the source)."""
    num_tasks: int = 4
    """Tasks to share the work; the shards are the same for any number."""
    columns: str | None = None
    """Where the fields are, as instruction=NAME,output=NAME[,input=NAME] or messages=NAME
    (default: detected)."""
    limit_rows: int | None = None
    """Take only so many rows from the start."""
    skip_bad_rows: bool = False
    """Leave bad rows out and list them in the manifest, instead of stopping at the first."""
    cluster: Cluster = "auto"
    """Where the tasks run."""
    dry_run: bool = False
    """Show what would run, and stop."""
    tokenizer: Annotated[Literal["auto", "tiktoken", "fastokens"], RARE] = "auto"
    """What encodes; the ids are the same (auto: fastokens where it is installed)."""
    parallel: Annotated[int | None, RARE] = None
    """Local tasks at a time (default: one a core)."""


def main() -> int:
    flags = parse_flags(Preprocess, sys.argv[1:])
    from launch.preparing import prepare

    return prepare(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
