"""
Rows of JSON, in whatever way they stand in the file: one a line, in arrays, or as plain values.

    for record in read_json(file, "rows.json", start=FIRST): ...

What a file begins with decides, not its name. `{"data": [...]}` around an array is looked through;
what follows an array is another one, or an error. No array is ever whole in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from instruct_core.data.record import (
    FIRST,
    MAX_RECORD_BYTES,
    READ_BYTES,
    TOO_LONG,
    Cursor,
    Cut,
    Record,
    cut_records,
    lines_in,
    pass_line,
)
from instruct_core.errors import BadRowError
from instruct_core.storage.json_text import NestedError, RepeatedKeyError, parse_json

_TEXTS = {str}
HEAD_BYTES = 64 << 10  # decides how the rows stand
MANY_DIGITS = re.compile(rb"\d{19}")  # of a number that may not fit 64 bits

_OPENS = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*(\{\s*"(?:data|rows|examples|train|instances)"\s*:\s*)?\['
)
_OPENS_A_VALUE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?=\{\s*\n)")
_BETWEEN = re.compile(rb"[\s,]*")
# Only these matter for nesting; in UTF-8 their bytes never occur inside another character.
_STRUCTURE = re.compile(rb'\\.|["{}\[\],]', re.DOTALL)


def read_json(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    """
    Yield the records of an open binary file from ``start`` on.

    Raises:
        BadRowError: An array or a value is broken in a way that hides where the next row begins.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    layout = _layout_of(head)
    if layout is None:
        yield from _read_lines(file, url, start)
        return
    if start == FIRST:
        start = Cursor(layout.begin, 1 + head.count(b"\n", 0, layout.begin))
    yield from _Values(file, url, start, layout).records()


def cut_json(file: Any, url: str, first: int, every: int) -> Iterator[Cut]:
    """Yield where rows end; see `read_cuts`. Of rows that stand one a line none is parsed."""
    head = file.read(HEAD_BYTES)
    if _layout_of(head) is not None:
        yield from cut_records(read_json(file, url, FIRST), first, every)
        return
    file.seek(0)
    offset, line, count, wanted = *FIRST, 0, first
    for raw in lines_in(file):
        offset += len(raw)
        line += 1
        is_long = len(raw) > MAX_RECORD_BYTES
        if is_long:
            offset += pass_line(file, raw)
        if is_long or not raw.isspace():
            count += 1
            if count == wanted:
                yield Cut(count, Cursor(offset, line))
                count, wanted = 0, every
    if count:
        yield Cut(count, Cursor(offset, line))


class _Layout(NamedTuple):
    """Rows that stand otherwise than one a line."""

    begin: int  # behind the bracket that opens the first array
    in_array: bool
    in_object: bool  # which has the array as its only entry


def _layout_of(head: bytes) -> _Layout | None:
    """Return how the values of a file stand; None for one a line."""
    match = _OPENS.match(head)
    if match and not (match.group(1) and _is_a_row(head)):
        return _Layout(match.end(), in_array=True, in_object=bool(match.group(1)))
    match = _OPENS_A_VALUE.match(head)
    return _Layout(match.end(), in_array=False, in_object=False) if match else None


def _is_a_row(head: bytes) -> bool:
    """Return True if the object in the first line is more than what stands around an array."""
    first, _, others = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    try:
        return len(orjson.loads(first)) > 1 or not (others == b"" or others.isspace())
    except orjson.JSONDecodeError:
        return False


class _Values:
    """
    The values of arrays, or one after another, from a place between two of them on.

    Args:
        start: Behind a value, or behind the bracket that opens the first array.
    """

    def __init__(self, file: Any, url: str, start: Cursor, layout: _Layout) -> None:
        self._file, self._url, self._layout = file, url, layout
        self._offset, self._line = start
        self._buffer, self._position = b"", 0

    def records(self) -> Iterator[Record]:
        self._file.seek(self._offset)
        in_array, may_close = self._layout.in_array, self._layout.in_object
        while following := self._next_byte():
            if in_array and following == b"]":
                self._position += 1
                in_array = False
            elif in_array or not self._layout.in_array:
                yield self._value()
            elif following == b"[" and not self._layout.in_object:
                self._position += 1
                in_array = True
            elif following == b"}" and may_close:
                self._position += 1
                may_close = False
            else:
                raise BadRowError(
                    f"Row {self._url}:{self._line} follows the array, which ends before it. Put all "
                    "rows into one array, or one object on each line."
                )
        if in_array or may_close:
            raise self._cut_off()

    def _next_byte(self) -> bytes:
        """Go behind blanks and commas; return what stands there, nothing at the end of the file."""
        while True:
            between = _BETWEEN.match(self._buffer, self._position)
            assert between is not None, "matches the empty string too"
            self._line += self._buffer.count(b"\n", self._position, between.end())
            self._position = between.end()
            if self._position < len(self._buffer) or not self._read_more():
                return self._buffer[self._position : self._position + 1]

    def _value(self) -> Record:
        while (end := _value_end(self._buffer, self._position)) < 0:
            if len(self._buffer) - self._position > MAX_RECORD_BYTES or not self._read_more():
                raise self._cut_off()
        if end == self._position:
            raise BadRowError(
                f"Row {self._url}:{self._line} is not JSON: a value is missing before it."
            )
        raw, line = self._buffer[self._position : end], self._line
        self._line += raw.count(b"\n")
        self._position = end
        return _parse_line(raw, self._url, line, self._offset + end, self._line)

    def _read_more(self) -> bool:
        more = self._file.read(READ_BYTES)
        self._offset += self._position
        self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)

    def _cut_off(self) -> BadRowError:
        what = "array" if self._layout.in_array else "object"
        return BadRowError(
            f"Row {self._url}:{self._line} is not JSON: the {what} is broken or cut off here."
        )


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


def _read_lines(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    file.seek(start.offset)
    offset, line = start
    for raw in lines_in(file):
        offset += len(raw)
        line += 1
        if len(raw) > MAX_RECORD_BYTES:
            offset += pass_line(file, raw)
            yield Record(url, line - 1, offset, line, problem=TOO_LONG)
        elif not raw.isspace():
            yield _parse_line(raw, url, line - 1, offset, line)


def _parse_line(raw: bytes, url: str, line: int, next_offset: int, next_line: int) -> Record:
    """Return the record of one value's bytes."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parse_patiently(raw, Record(url, line, next_offset, next_line))
    # orjson makes a float of a number with more than 64 bits, and takes the last of two keys that are
    # the same; to look for either in all text takes longer than to parse it.
    if type(value) is dict and _TEXTS.issuperset(map(type, value.values())):  # as most
        has_float, num_texts = False, 2 * len(value)
    else:
        has_float, num_texts = _look_at(value)
    is_rounded = has_float and MANY_DIGITS.search(raw)
    if is_rounded or _has_more_texts(raw, num_texts):
        return _parse_patiently(raw, Record(url, line, next_offset, next_line))
    return Record(url, line, next_offset, next_line, value)


def _look_at(value: Any) -> tuple[bool, int]:
    """Return whether a float is anywhere in a value, and how many texts it has, keys among them."""
    has_float, num_texts = False, 0
    waiting = [[value]]  # no recursion: a row may be nested deeper than Python goes
    while waiting:
        inside = waiting.pop()
        kinds = list(map(type, inside))
        num_texts += kinds.count(str)
        has_float = has_float or float in kinds
        if list in kinds:
            waiting += [v for v in inside if type(v) is list]
        if dict in kinds:
            objects = [v for v in inside if type(v) is dict]
            num_texts += sum(map(len, objects))
            waiting += [list(v.values()) for v in objects]
    return has_float, num_texts


def _has_more_texts(raw: bytes, num_texts: int) -> bool:
    """Return True if the JSON of a value has more texts than the value, as a key that is dropped."""
    num_others = raw.count(b'"') - 2 * num_texts
    if not num_others:
        return False
    if b'\\\\"' in raw:  # two of them are one letter, which escapes no quote
        raw = raw.replace(b"\\\\", b"")
    return num_others != raw.count(b'\\"')


def _parse_patiently(raw: bytes, place: Record) -> Record:
    """Parse what the fast parser refuses, rounds or drops, or find out what is wrong with it."""
    try:
        return place._replace(value=parse_json(raw.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        hint = " (it looks like UTF-16)" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        problem = f"not valid UTF-8 at byte {error.start} of the line{hint}"
        return place._replace(problem=problem)
    except (json.JSONDecodeError, NestedError) as error:
        return place._replace(problem=f"not JSON: {error}")
    except RepeatedKeyError as error:
        return place._replace(problem=str(error))
    except ValueError:  # Python's limit, which keeps a number from taking minutes
        return place._replace(problem="a number has too many digits")
