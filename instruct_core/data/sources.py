"""
From what a person typed after --source to files that every task can read.

    source = resolve_source("vicgalle/alpaca-gpt4", Store("shards/alpaca"))
    source.files      # ['shards/alpaca/source/rows.parquet']

Paths, globs and URLs stay where they are. A Hugging Face dataset is downloaded once, here on the
submitting machine, and `builtin` is written out: both become one file below the shard set, so
tasks on nodes without internet read files and nothing else.
"""

from __future__ import annotations

import json
import mmap
import platform
import re
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import fsspec

from instruct_core.data.builtin import builtin_rows
from instruct_core.data.records import format_of
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.store import Store

BUILTIN = "builtin"
DATASET_ID = re.compile(r"[\w.-]+/[\w.-]+")
GLOB = re.compile(r"[*?[]")


class Source(NamedTuple):
    """What was asked for, what stands behind it now, and the files that hold its rows, in order."""

    name: str
    identity: str
    files: Sequence[str]


def resolve_source(name: str, out: Store) -> Source:
    """
    Return the files of a source; may download into, or write below, ``out``/source.

    Raises:
        MissingError: No such file, no match of a glob, or no dataset of that name can be had.
        ConfigError: A folder, or a kind of file that is not read.
    """
    if name == BUILTIN:
        return _builtin(out)
    files = _matching_files(name)
    if not files and DATASET_ID.fullmatch(name) and not _has_known_ending(name):
        return _downloaded(name, out)
    if not files:
        raise MissingError(
            f"Source {name} is not there: no file or dataset of that name. "
            "Give a path, a glob, a URL, a Hugging Face dataset id, or builtin."
        )
    for file in files:
        format_of(file)
    return Source(name, name, files)


def _matching_files(name: str) -> list[str]:
    try:
        fs, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"Source {name} cannot be read: {error}") from error
    if GLOB.search(name):
        return [str(fs.unstrip_protocol(p)).removeprefix("file://") for p in sorted(fs.glob(path))]
    if fs.isdir(path):
        raise ConfigError(f"Source {name} is a folder. Name its files: --source '{name}/*.jsonl'")
    return [name] if fs.exists(path) else []


def _has_known_ending(name: str) -> bool:
    return Path(name).suffix in (".json", ".jsonl", ".csv", ".parquet")


def _builtin(out: Store) -> Source:
    corpus = version("chatterbot-corpus")
    identity = f"builtin of Python {platform.python_version()}, chatterbot-corpus {corpus}"
    # The version is in the file's name: a file that is there is the right one.
    name = f"source/builtin-{platform.python_version()}-{corpus}.jsonl"
    if not out.exists(name):
        lines = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in builtin_rows()]
        out.replace(name, "".join(lines).encode())
    return Source(BUILTIN, identity, [out.where(name)])


def _downloaded(dataset_id: str, out: Store) -> Source:
    name = f"source/{dataset_id.replace('/', '--')}.parquet"
    if not out.exists(name):
        import datasets

        try:
            dataset = datasets.load_dataset(dataset_id, split="train")
        except Exception as error:  # datasets raises dozens of kinds: offline, private, no such id
            reason = str(error).strip().split("\n")[0]
            raise MissingError(
                f"Source {dataset_id} is no file here, and cannot be had as a Hugging Face dataset: "
                f"{type(error).__name__}: {reason}. On a machine without internet give a "
                "file, or --source builtin."
            ) from error
        with tempfile.TemporaryFile() as scratch:
            dataset.to_parquet(scratch)
            scratch.flush()
            mapped = mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ)
            with mapped, memoryview(mapped) as data:
                out.replace(name, data)
    return Source(dataset_id, f"Hugging Face dataset {dataset_id}", [out.where(name)])
