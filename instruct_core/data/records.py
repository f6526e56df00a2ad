"""
Source files read row by row from any row on, in memory that does not grow with the file.

    for record in read_records(file, start=Cursor(0, 1)):
        print(record.where, record.value or record.problem)

Every record tells where the next one begins, so a scan can note the start of each shard and a
task seeks there: a task of a thousand never reads the other 999 parts. Formats: .jsonl, .json
(an array, or lines in disguise), .csv with a header, .parquet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import fsspec
import orjson

from instruct_core.data.csv_rows import read_csv
from instruct_core.data.record import FIRST, MAX_RECORD_BYTES, READ_BYTES, Cursor, Record
from instruct_core.errors import BadRowError, ConfigError


def format_of(url: str) -> str:
    """
    Return "jsonl", "json", "csv" or "parquet" by the file's ending.

    Raises:
        ConfigError: Another ending.
    """
    ending = url.rsplit(".", 1)[-1].lower()
    if ending not in _READERS:
        raise ConfigError(
            f"Source {url} must end in .json, .jsonl, .csv or .parquet, got .{ending}. Convert it first."
        )
    return ending


def read_records(url: str, start: Cursor = FIRST) -> Iterator[Record]:
    """
    Yield the records of a file from ``start`` on; blank lines are no records.

    Raises:
        BadRowError: The file is broken in a way that hides where its next row begins.
    """
    with fsspec.open(url, "rb") as file:
        yield from _READERS[format_of(url)](file, url, start)


def _read_jsonl(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    file.seek(start.offset)
    offset, line = start
    for raw in file:
        offset += len(raw)
        line += 1
        if not raw.isspace():
            yield _parse_line(raw, url, line - 1, Cursor(offset, line))


def _parse_line(raw: bytes, url: str, line: int, following: Cursor) -> Record:
    try:
        return Record(url, line, following, orjson.loads(raw))
    except orjson.JSONDecodeError:
        return _parse_patiently(raw, url, line, following)


def _parse_patiently(raw: bytes, url: str, line: int, following: Cursor) -> Record:
    """Parse what the fast parser refuses, such as NaN, or find out what is wrong with it."""
    try:
        return Record(url, line, following, value=json.loads(raw.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return Record(
            url, line, following, problem=f"not valid UTF-8 at byte {error.start} of the line"
        )
    except (ValueError, RecursionError) as error:
        return Record(url, line, following, problem=f"not JSON: {error}")


def _read_json(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    """Read the values of an array one by one; the array is never whole in memory."""
    offset, line = start
    head = file.read(READ_BYTES)
    opening = _ARRAY_OPENS.match(head)
    if opening is None:  # one object a line, in spite of the name
        yield from _read_jsonl(file, url, start)
        return
    if not offset:
        offset, line = opening.end(), line + head.count(b"\n", 0, opening.end())
    file.seek(offset)
    buffer, position = b"", 0
    while True:
        between = _BETWEEN.match(buffer, position)
        assert between is not None, "matches the empty string too"
        line += buffer.count(b"\n", position, between.end())
        position = between.end()
        if buffer[position : position + 1] == b"]":
            return
        end = _value_end(buffer, position)
        if end == position:
            raise BadRowError(f"Row {url}:{line} is not JSON: a value is missing before it.")
        if end < 0:
            more = file.read(READ_BYTES)
            if not more or len(buffer) - position > MAX_RECORD_BYTES:
                raise BadRowError(
                    f"Row {url}:{line} is not JSON: the array is broken or cut off here."
                )
            offset += position
            buffer, position = buffer[position:] + more, 0
            continue
        raw, first_line = buffer[position:end], line
        line += raw.count(b"\n")
        position = end
        yield _parse_line(raw, url, first_line, Cursor(offset + end, line))


def _value_end(buffer: bytes, start: int) -> int:
    """Return where the value at ``start`` ends; -1 where the buffer ends first."""
    depth, in_text = 0, False
    for match in _STRUCTURE.finditer(buffer, start):
        character = match.group()
        if in_text:
            in_text = character != b'"'
        elif character == b'"':
            in_text = True
        elif character in (b"{", b"["):
            depth += 1
        elif depth == 0:
            return match.start()  # the comma or bracket after a plain value
        elif character != b",":
            depth -= 1
            if depth == 0:
                return match.end()
    return -1


def _read_parquet(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first_group, first_row = 0, 0
        while first_group < len(sizes) and first_row + sizes[first_group] <= start.offset:
            first_row += sizes[first_group]
            first_group += 1
        groups = range(first_group, len(sizes))
        for batch in parquet.iter_batches(batch_size=1024, row_groups=groups) if groups else ():
            for value in batch.to_pylist():
                if first_row >= start.offset:
                    cursor = Cursor(first_row + 1, first_row + 2)
                    yield Record(url, first_row + 1, cursor, value=value)
                first_row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadRowError(f"Source {url} is no readable parquet file: {error}.") from error


_ARRAY_OPENS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
_BETWEEN = re.compile(rb"[\s,]*")
# Only these matter for nesting; in UTF-8 their bytes never occur inside another character.
_STRUCTURE = re.compile(rb'\\.|["{}\[\],]', re.DOTALL)
_READERS: dict[str, Callable[[Any, str, Cursor], Iterator[Record]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": partial(read_csv, delimiters=",;\t|"),
    "tsv": partial(read_csv, delimiters="\t"),
    "parquet": _read_parquet,
}
