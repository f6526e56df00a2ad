"""
A source as ranges of rows that tasks can read by themselves.

    ranges = scan_ranges(source, limit_rows=None, block_rows=250, check=check)
    for record in records_from(source.files, ranges.starts[3], count=250): ...

One pass over the source, in constant memory, hashes the files and notes where every range begins;
after that a task reads its own range and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import fsspec
import xxhash

from instruct_core.data.record import FIRST, Cursor, Record
from instruct_core.data.records import read_cuts, read_records
from instruct_core.data.source_file import asked, open_source
from instruct_core.data.sources import Source
from instruct_core.errors import BadRowError, ConfigError

HASH_BYTES = 8 << 20
Start = tuple[int, int, int]  # file index, byte offset, line


@dataclass(frozen=True)
class SourceFile:
    """One file of a source as it was when the plan was made."""

    url: str
    bytes: int
    modified: str
    xxh3: str


class Ranges(NamedTuple):
    """The files of a source, how many rows they have, and where each block of rows begins."""

    files: list[SourceFile]
    num_rows: int
    starts: list[Start]


class Block(NamedTuple):
    """Rows that stand one after another: where they begin, and how many they are."""

    start: Start
    num_rows: int


def scan_ranges(
    source: Source,
    limit_rows: int | None,
    block_rows: int,
    check: Callable[[Record], None],
    progress: Callable[[int], None] = lambda num_rows: None,
) -> Ranges:
    """
    Read a source once.

    Args:
        limit_rows: Take only so many rows from the start.
        block_rows: Rows of a block.
        check: Called with every record.
        progress: Called with the rows read so far, every block.

    Raises:
        BadRowError: The source changed meanwhile.
    """
    stats = stat_files(source.files)
    starts: list[Start] = []
    num_rows = 0
    for file_index, url in enumerate(source.files):
        cursor = Cursor(0, 1)
        for record in read_records(url):
            if num_rows == limit_rows:
                break
            if num_rows % block_rows == 0:
                starts.append((file_index, *cursor))
                progress(num_rows)
            num_rows += 1
            cursor = record.next
            check(record)
    return Ranges(hashed_files(source, stats), num_rows, starts)


def cut_blocks(
    files: Sequence[str], block_rows: int, limit_rows: int | None = None
) -> Iterator[Block]:
    """Yield where each block of rows begins, and how many they are: as few as can be are parsed."""
    start, count, left = (0, *FIRST), 0, 1 << 62 if limit_rows is None else limit_rows
    for file_index, url in enumerate(files):
        if not count:
            start = (file_index, *FIRST)
        for num_rows, cursor in read_cuts(url, block_rows - count, block_rows):
            count += num_rows
            if count >= min(block_rows, left):
                yield Block(start, min(count, left))
                start, left, count = (file_index, *cursor), left - count, 0
                if left <= 0:
                    return
    if count:
        yield Block(start, count)


def hashed_files(source: Source, stats: Sequence[tuple[str, int, str]]) -> list[SourceFile]:
    """
    Return the files of a source with their hashes.

    Args:
        source: All of it was read.
        stats: Of its files before that.

    Raises:
        BadRowError: It changed meanwhile.
    """
    files = [SourceFile(*stat, _hash_file(stat[0])) for stat in stats]
    if stat_files(source.files) != list(stats):
        raise BadRowError(f"Source {source.name} changed while it was read. Try again.")
    return files


def records_from(files: Sequence[str], start: Start, count: int) -> Iterator[Record]:
    """Yield ``count`` records from a start on; fewer where the source ends."""
    file_index, offset, line = start
    cursor = Cursor(offset, line)
    for url in files[file_index:]:
        for record in read_records(url, cursor):
            if not count:
                return
            count -= 1
            yield record
        cursor = Cursor(0, 1)


def first_records(files: Sequence[str]) -> list[Record]:
    """Return the first hundred records of a source, or all."""
    records = (record for url in files for record in read_records(url))
    return list(islice(records, 100))


def stat_files(files: Sequence[str]) -> list[tuple[str, int, str]]:
    """
    Return (url, bytes, last change) of each file: cheap, and enough to know nothing changed.

    Raises:
        ConfigError: The server of one does not say how long it is.
        OSError: One cannot be asked.
    """
    stats = []
    for url in files:
        fs, path = fsspec.core.url_to_fs(url)
        info = asked(url, partial(fs.info, path))
        if info["size"] is None:
            raise ConfigError(
                f"Source {url} cannot be read from any row on: its server does not say how long it is. "
                "Fetch it, and give the file."
            )
        changed = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
        stats.append((url, int(info["size"]), str(changed)))
    return stats


def _hash_file(url: str) -> str:
    hasher = xxhash.xxh3_128()
    with open_source(url) as file:
        while data := file.read(HASH_BYTES):
            hasher.update(data)
    return str(hasher.hexdigest())
