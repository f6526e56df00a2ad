"""
Source files read row by row from any row on, in memory that does not grow with the file.

    for record in read_records(file, start=Cursor(0, 1)):
        print(record.where, record.value or record.problem)

Every record tells where the next one begins, so a scan can note the start of each shard and a
task seeks there: a task of a thousand never reads the other 999 parts. Formats: .jsonl, .ndjson and
.json (lines or arrays), .csv and .tsv with a header, .parquet.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from instruct_core.data.csv_rows import read_csv
from instruct_core.data.json_rows import cut_json, read_json
from instruct_core.data.parquet_rows import cut_parquet, read_parquet, rows_at_once
from instruct_core.data.record import FIRST, Cursor, Cut, Record, cut_records
from instruct_core.data.source_file import open_source
from instruct_core.errors import BadRowError, ConfigError

ROWS_AT_ONCE = 2000

_READERS: dict[str, Callable[[Any, str, Cursor], Iterator[Record]]] = {
    "jsonl": read_json,
    "ndjson": read_json,
    "json": read_json,
    "csv": partial(read_csv, delimiters=",;\t|"),
    "tsv": partial(read_csv, delimiters="\t"),
    "parquet": read_parquet,
}
_CUTTERS: dict[str, Callable[[Any, str, int, int], Iterator[Cut]]] = {
    "jsonl": cut_json,
    "ndjson": cut_json,
    "json": cut_json,
    "parquet": cut_parquet,
}
FORMATS = tuple(_READERS)
_OTHER_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer. Fetch the file: git lfs pull",
    b"\x1f\x8b": "compressed with gzip. Give its name the ending .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Give its name the ending .zst",
    b"<!doctype html": "a web page. Give the URL of the file itself",
    b"<html": "a web page. Give the URL of the file itself",
}


def ending_of(url: str) -> str:
    """Return the ending of a file's name in small letters, without the dot; "" where it has none."""
    path = url.split("?", maxsplit=1)[0] if url.startswith(("http://", "https://")) else url
    _, dot, ending = path.rsplit("/", 1)[-1].rpartition(".")
    return ending.lower() if dot else ""


def format_of(url: str) -> str:
    """
    Return "jsonl", "ndjson", "json", "csv", "tsv" or "parquet" by the file's ending.

    Raises:
        ConfigError: Another ending.
    """
    ending = ending_of(url)
    if ending not in _READERS:
        *others, last = (f".{known}" for known in _READERS)
        found = f"got .{ending}. Convert it first." if ending else "and has no ending. Rename it."
        raise ConfigError(f"Source {url} must end in {', '.join(others)} or {last}, {found}")
    return ending


def has_types(urls: Iterable[str]) -> bool:
    """Return True if the records of any of these files are typed."""
    return any(format_of(url) == "parquet" for url in urls)


def read_records(url: str, start: Cursor = FIRST) -> Iterator[Record]:
    """
    Yield the records of a file from ``start`` on; blank lines are no records.

    Raises:
        BadRowError: The file is of another kind than its name says, or broken in a way that hides
            where its next row begins.
    """
    with _opened(url) as file:
        yield from _READERS[format_of(url)](file, url, start)


def read_cuts(url: str, first: int, every: int) -> Iterator[Cut]:
    """
    Yield where rows of a file end, for others to read them from there.

    Args:
        first: How many rows are before the first cut.
        every: How many are before each of the others; what is left ends with the file.

    Raises:
        BadRowError: As `read_records` does, where it is seen without parsing rows.
    """
    cutter = _CUTTERS.get(format_of(url))
    if cutter is None:
        yield from cut_records(read_records(url), first, every)
        return
    with _opened(url) as file:
        yield from cutter(file, url, first, every)


def rows_worth_entering(url: str) -> int:
    """Return for how many rows it is worth to enter a file in its middle."""
    if format_of(url) != "parquet":
        return ROWS_AT_ONCE
    with open_source(url) as file:
        return max(ROWS_AT_ONCE, rows_at_once(file))


@contextmanager
def _opened(url: str) -> Iterator[io.BufferedReader]:
    """Open a file that is of the kind that its name says, as far as its first bytes tell."""
    with open_source(url) as file:
        head = file.peek(32)[:32].lower()  # all that is buffered is given
        for magic, kind in _OTHER_KINDS.items():
            if head.startswith(magic):
                raise BadRowError(f"Source {url} is {kind}.")
        yield file
