"""
One row of a source, or what is wrong with it, and where the next one begins.

    Record("rows.jsonl", line=3, next=Cursor(812, 4), value={"instruction": "Say hi.", "output": "Hi."})
"""

from __future__ import annotations

from typing import Any, NamedTuple

READ_BYTES = 4 << 20
MAX_RECORD_BYTES = 64 << 20  # a longer one is taken for a broken file


class Cursor(NamedTuple):
    """A place between two records: byte offset (parquet: row number) and line (or row), from 1."""

    offset: int
    line: int


FIRST = Cursor(0, 1)


class Record(NamedTuple):
    """One source row: its value, or what is wrong with it; never both."""

    url: str
    line: int
    next: Cursor
    value: Any = None
    problem: str = ""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.url}:{self.line}"
