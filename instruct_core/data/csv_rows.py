"""
Rows of a .csv or .tsv file, and how reading goes on behind one that is broken.

    for record in read_csv(file, "rows.csv", start=FIRST, delimiters=",;\\t|"): ...

To a parser an unclosed quote is one long field: it takes every line up to the next quote, or to the
end of the file. Rows that were swallowed in this way are told from a long text by their lines, which
are rows by themselves; then only the line with the quote is bad, and reading goes on behind it. A row
that is broken otherwise ends before the next line that can begin one. Every record begins with a
parser that knows nothing of the lines before, so it is the same wherever a task enters the file.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from instruct_core.data.record import FIRST, MAX_RECORD_BYTES, TOO_LONG, Cursor, Record
from instruct_core.errors import BadRowError

# A row without a mistake is suspected only if its quote spans so many lines that are rows.
MANY_LINES = 100


def read_csv(file: Any, url: str, start: Cursor, delimiters: str) -> Iterator[Record]:
    """
    Yield the records of an open binary file from ``start`` on.

    Args:
        delimiters: Of these the one that cuts the header into most columns is taken; the first
            among equals.

    Raises:
        BadRowError: There is no header that can be used, or a line that is longer than any row.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    lines = _Lines(file, url)
    header, delimiter = _read_header(lines, url, delimiters)
    if start != FIRST:
        lines.enter(start)
    if header:
        yield from _Table(lines, url, header, delimiter).records()


class _Lines:
    """Decoded lines of a binary file: those of the row at hand, and a way back to each of them."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url
        self._given_back: deque[bytes] = deque()
        self._offset, self.line = FIRST
        self.begin_row()

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._offset, self.line)

    def enter(self, start: Cursor) -> None:
        """Go on from another place of the file."""
        self._file.seek(start.offset)
        self._given_back.clear()
        self._offset, self.line = start
        self.begin_row()

    def begin_row(self) -> None:
        self.first_line = self.line
        self.row: list[bytes] = []
        self.flaw = ""

    def keep(self, num_lines: int) -> None:
        """Give all but the first lines of the row back, to be read again."""
        for raw in reversed(self.row[num_lines:]):
            self._given_back.appendleft(raw)
            self._offset, self.line = self._offset - len(raw), self.line - 1
        del self.row[num_lines:]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._given_back.popleft() if self._given_back else self._read_line()
        if not raw:
            raise StopIteration
        encoding = "utf-8-sig"  # in any line: files were joined
        self._offset, self.line = self._offset + len(raw), self.line + 1
        self.row.append(raw)
        if b"\0" in raw:  # read as UTF-8, UTF-16 has one behind every letter
            self.flaw = "no UTF-8 but has zero bytes in it, as UTF-16 has"
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            self.flaw = self.flaw or "not valid UTF-8"
            return raw.decode(encoding, "surrogateescape")  # the parser must see its quotes

    def _read_line(self) -> bytes:
        raw: bytes = self._file.readline(MAX_RECORD_BYTES + 1)
        if len(raw) > MAX_RECORD_BYTES:
            raise BadRowError(f"Row {self._url}:{self.line} cannot be used: {TOO_LONG}. Fix it.")
        return raw


class _Parsed(NamedTuple):
    """What a strict parser made of the next lines: fields, or an error; neither at the end."""

    fields: list[str] | None
    error: str = ""

    @property
    def is_blank(self) -> bool:
        return self.fields is not None and len(self.fields) < 2 and not "".join(self.fields).strip()


class _Parser:
    """A strict parser that can begin anew at any line."""

    def __init__(self, lines: _Lines, delimiter: str) -> None:
        self._lines, self._delimiter = lines, delimiter
        self._begin()

    def _begin(self) -> None:
        self._rows = csv.reader(self._lines, strict=True, delimiter=self._delimiter)

    def next_row(self) -> _Parsed:
        self._lines.begin_row()
        try:
            return _Parsed(next(self._rows, None))
        except csv.Error as error:
            self._begin()  # the old one is still inside of the quote
            return _Parsed(None, str(error))


_SEP = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=([!-~\t])\"?\r?\n")  # what Excel takes for no row


def _read_header(lines: _Lines, url: str, delimiters: str) -> tuple[list[str], str]:
    """Return the names of the columns, none in a file without rows, and what stands between them."""
    parsed = _Parser(lines, delimiters[0]).next_row()
    while parsed.is_blank:
        parsed = _Parser(lines, delimiters[0]).next_row()
    if named := _SEP.fullmatch(b"".join(lines.row)):
        delimiters = named[1].decode()
        parsed = _Parser(lines, delimiters).next_row()
    where = f"Row {url}:{lines.first_line} is no CSV header"
    if lines.flaw:
        raise BadRowError(f"{where}: it is {lines.flaw}. Save the file as UTF-8.")
    if not lines.row:
        return [], delimiters[0]
    num_columns = {}
    for delimiter in delimiters:
        lines.keep(0)
        num_columns[delimiter] = len(_Parser(lines, delimiter).next_row().fields or ())
    most = max(delimiters, key=lambda delimiter: num_columns[delimiter])
    delimiter = most if num_columns[most] > 1 else delimiters[0]
    lines.keep(0)
    parsed = _Parser(lines, delimiter).next_row()
    if parsed.fields is None:
        raise BadRowError(f"{where}: {_problem_of(parsed.error, lines, delimiter)}.")
    if len(lines.row) > MANY_LINES:
        raise BadRowError(f"{where}: a quote in it is closed only in line {lines.line - 1}.")
    twice = [name for name in parsed.fields if parsed.fields.count(name) > 1]
    if twice:
        raise BadRowError(f"{where}: every column needs a name of its own, got {twice[0]!r} twice.")
    return parsed.fields, delimiter


class _Quote(NamedTuple):
    """The quoted field of a row that swallowed most lines, or could have."""

    first_line: int  # in the file: where it opens
    last_line: int
    opening: str  # what follows it in its first line


def _longest_quote(error: str, lines: _Lines, delimiter: str) -> _Quote | None:
    text = b"".join(lines.row).decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
    field = re.compile(rf'"[^"]*(?:""[^"]*)*"?|[^{re.escape(delimiter)}\r\n]+')
    quotes = [match for match in field.finditer(text) if match.group().startswith('"')]
    if not quotes:
        return None
    if error.startswith(_STILL_OPEN):
        quote = quotes[-1]
    else:
        quote = max(quotes, key=lambda match: match.group().count("\n"))
    first_line = lines.first_line + text.count("\n", 0, quote.start())
    opening, *others = quote.group()[1:].split("\n")
    return _Quote(first_line, first_line + len(others), opening)


def _problem_of(error: str, lines: _Lines, delimiter: str) -> str:
    """Say what is wrong with the row at hand, in which the parser found an error."""
    quote = _longest_quote(error, lines, delimiter)
    if quote and error.startswith("unexpected end of data"):
        return f"a quote opened in line {quote.first_line} is never closed"
    if quote and error.startswith(_STILL_OPEN):
        return f"a quote opened in line {quote.first_line} is not closed within 64 MB"
    if quote and quote.last_line > quote.first_line:
        return (
            f"a quote opened in line {quote.first_line} is closed in line {quote.last_line}, with "
            "more text behind it"
        )
    if error.startswith("new-line character"):
        return "lines end with \\r alone, as on an old Mac: save the file with \\n or \\r\\n"
    return f"not CSV: {error}"


_STILL_OPEN = ("unexpected end of data", "field larger than field limit")


class _Table:
    """The rows below a header."""

    def __init__(self, lines: _Lines, url: str, header: list[str], delimiter: str) -> None:
        self._lines, self._url, self._header, self._delimiter = lines, url, header, delimiter
        self._parser = _Parser(lines, delimiter)

    def records(self) -> Iterator[Record]:
        lines = self._lines
        while (row := self._parser.next_row()) != _END:
            line = lines.first_line
            if problem := self._problem_of(row):
                last = lines.line - 1
                problem += f" (lines {line} to {last})" if last > line else ""
                yield Record(self._url, line, *lines.cursor, problem=problem)
            elif row.fields and not row.is_blank:
                value = dict(zip(self._header, row.fields, strict=True))
                yield Record(self._url, line, *lines.cursor, value=value)

    def _problem_of(self, row: _Parsed) -> str:
        """Return what is wrong with a row, if anything, and go to where the next one begins."""
        lines = self._lines
        num_fields = len(row.fields or ())
        if num_fields == len(self._header) and not lines.flaw and len(lines.row) <= MANY_LINES:
            is_header = num_fields > 1 and row.fields == self._header
            return "it is the header again, as where files were joined" if is_header else ""
        quote = _longest_quote(row.error, lines, self._delimiter) if len(lines.row) > 1 else None
        problem = lines.flaw
        if row.error:
            problem = _problem_of(row.error, lines, self._delimiter)
        elif not problem and num_fields != len(self._header) and not row.is_blank:
            fields = f"{num_fields} field{'' if num_fields == 1 else 's'}"
            problem = f"it has {fields}, the header has {len(self._header)}"
        if quote and self._has_swallowed_rows(quote, row):
            lines.keep(quote.first_line - lines.first_line + 1)
            if not row.error:
                return (
                    f"a quote opened in line {quote.first_line} is closed only in line "
                    f"{quote.last_line}, and the lines between are rows"
                )
        elif row.error:
            self._skip_the_rest(row.error)
        return problem

    def _has_swallowed_rows(self, quote: _Quote, row: _Parsed) -> bool:
        """Tell a quote over many rows from a text of many lines."""
        is_open = row.error.startswith(_STILL_OPEN)
        taken = [raw.decode("utf-8", "surrogateescape") for raw in self._lines.row]
        inside = taken[quote.first_line - self._lines.first_line + 1 :]
        closing = "" if is_open else inside.pop()
        num_rows = sum(map(self._is_row, inside))
        if row.error or len(row.fields or ()) != len(self._header):
            is_behind = is_open or len(inside) >= MANY_LINES or self._is_row(closing)
            return is_behind and 2 * num_rows >= len(inside) > 0
        return (
            len(inside) >= MANY_LINES
            and len(self._header) > 1
            and num_rows >= 0.9 * len(inside)
            and self._is_row(closing)
            and not self._is_row(quote.opening)  # a table, like the lines that follow it
        )

    def _is_row(self, line: str) -> bool:
        try:
            fields = next(csv.reader([line], delimiter=self._delimiter), [])
        except csv.Error:
            return False
        return len(fields) == len(self._header)

    def _skip_the_rest(self, error: str) -> None:
        """Go behind what is left of a broken row: lines that are no rows, or close its quotes."""
        lines = self._lines
        if not error.startswith(_STILL_OPEN):
            lines.keep(max(1, len(lines.row) - 1))  # the last line may well begin the next row
        while (row := self._parser.next_row()) != _END:
            is_whole = b"".join(lines.row).count(b'"') % 2 == 0
            is_row = len(row.fields or ()) == len(self._header)
            if row.error or len(lines.row) > 1 or (is_row and is_whole):
                lines.keep(0)
                return


_END = _Parsed(None)
