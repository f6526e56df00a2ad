"""What can be typed after launch/preprocess.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from instruct_core.recipe import RARE
from launch.flags.array import ArrayFlags
from launch.flags.slurm import SlurmFlags
from launch.flags.values import PATH, TEXT


@dataclass(frozen=True)
class Preprocess:
    """
    Turn a dataset into tokenized shards, as an array of tasks.

    Every row is checked first; then shards are written. Run it again, and only what is missing or
    damaged is made.
    """

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, PATH] = ()
    """A Hugging Face dataset id (or a part of it: org/name:config@revision[split]), a path, glob, folder
    or URL of .json, .jsonl, .csv, .tsv or .parquet files (or their .gz), or "builtin": real questions
    and answers that need no network. Several sources: the flag several times (default:
    vicgalle/alpaca-gpt4)."""
    weights: Annotated[str | None, TEXT] = None
    """With several sources: the part of each in what is read, as in 0.7,0.3 (default: every row once
    an epoch)."""
    val_source: Annotated[str | None, PATH] = None
    """Rows to validate with, of a source of their own (default: 5 in 100 of --source)."""
    val_rows: int | None = None
    """How many rows validate; which ones is decided by what they say."""
    out: Annotated[str | None, PATH] = None
    """Folder or URL of the shard set (default: shards/ and the last part of the source)."""
    columns: Annotated[str | None, TEXT] = None
    """Where the fields are, as instruction=NAME,output=NAME[,input=NAME][,history=NAME] or
    messages=NAME, each with [,system=NAME][,tools=NAME] (default: detected)."""
    tokenizer: Annotated[str, PATH] = "gpt2"
    """The tokenizer of the model to be trained: gpt2, or the folder, URL or Hugging Face id of a model
    that has a tokenizer.json."""
    template: Annotated[str, PATH] = "alpaca"
    """How rows are written: alpaca (headings), chatml, base (the chat template among the tokenizer's
    files), or a .jinja file. Every answer is learnt, and ended by a special token."""
    long_rows: Literal["auto", "cut", "truncate", "drop"] = "auto"
    """What a run does with rows that are longer than its --seq-len: cut makes pieces, of which the
    later ones have no question; truncate leaves the end out; drop leaves out the row (auto: cut for
    the template alpaca, else truncate)."""
    inspect: int | None = None
    """Show so many rows as a model will see them, and write nothing: of the finished shard set --out, or
    the first of --source. Learnt tokens are marked, and each line begins with a position."""
    json: bool = False
    """With --inspect: print one JSON object a line for every row, for programs."""
    limit_rows: int | None = None
    """Take only so many rows from the start."""
    skip_bad_rows: bool = False
    """Leave bad rows out and list them in the manifest (the first thousand), instead of stopping at
    the first."""
    array: Annotated[ArrayFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ArrayFlags)
    """How the tasks run; what they make is the same for any number of them."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What every task asks of Slurm."""
    encoder: Annotated[Literal["auto", "tiktoken", "fastokens"], RARE] = "auto"
    """What encodes for GPT-2; the ids are the same (auto: fastokens where it is installed)."""
    rows_per_shard: Annotated[int | None, RARE] = None
    """Source rows in a shard (default: 1/64 of the source, at least 250 and at most 10,000); more
    tasks than shards find no work."""
