"""
One row of a source, or what is wrong with it, and where the next one begins.

    record = Record("rows.jsonl", 3, 812, 4, value={"instruction": "Say hi.", "output": "Hi."})
    record.next                                   # Cursor(812, 4)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

READ_BYTES = 4 << 20
MAX_RECORD_BYTES = 64 << 20  # a longer one is taken for a broken file
TOO_LONG = "it is longer than 64 MB (is all of the file one line?)"


class Cursor(NamedTuple):
    """A place between two records: byte offset (parquet: row number) and line (or row), from 1."""

    offset: int
    line: int


FIRST = Cursor(0, 1)


class Record(NamedTuple):
    """One source row: its value, or what is wrong with it; never both."""

    url: str
    line: int
    next_offset: int
    next_line: int
    value: Any = None
    problem: str = ""
    is_typed: bool = False
    """Whether its file has one type for all objects of a column: see dialects/typed.py."""

    @property
    def next(self) -> Cursor:
        """Where the next one begins; asked of few."""
        return Cursor(self.next_offset, self.next_line)

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.url}:{self.line}"


def lines_in(file: Any) -> Iterator[bytes]:
    """Yield the lines of a binary file from where it stands; of one that is too long its beginning."""
    return iter(partial(file.readline, MAX_RECORD_BYTES + 1), b"")


def pass_line(file: Any, begun: bytes) -> int:
    """Go behind a line of which this was the beginning; return how many bytes that took."""
    num_bytes = 0
    while begun and not begun.endswith(b"\n"):
        begun = file.readline(READ_BYTES)
        num_bytes += len(begun)
    return num_bytes


class Cut(NamedTuple):
    """A place where some rows end: how many since the last one."""

    num_rows: int
    cursor: Cursor


def cut_records(records: Iterator[Record], first: int, every: int) -> Iterator[Cut]:
    """Yield where the first rows end, then every so many, then the last."""
    count, wanted, cursor = 0, first, FIRST
    for record in records:
        count, cursor = count + 1, record.next
        if count == wanted:
            yield Cut(count, cursor)
            count, wanted = 0, every
    if count:
        yield Cut(count, cursor)
