"""
What a scan notes of the rows of a source: their columns and texts, and which of them are bad.

    check = ColumnCheck(source, given=None)
    reader = RowReader(check, template=BY_HEADINGS)
    reader.take(record)                        # of every record, or of every record of a part
    seen = SeenRows(source, check, template=BY_HEADINGS)
    seen.add(reader.notes())                   # of the parts, in the order of the rows
    seen.check_usable(skip_bad_rows=False)     # BadRowError names the first, and counts the others

Parts may be read side by side, each reader in a process of its own: what a row is found to be does not
depend on the rows before it.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from instruct_core.data.drafts import BLOCK_ROWS, Draft, DraftWriter
from instruct_core.data.record import Record
from instruct_core.data.records import has_types
from instruct_core.data.sources import Source
from instruct_core.data.split import Texts, hash_of
from instruct_core.data.template import Segment, Template, text_of
from instruct_core.data.templates import name_of_rows
from instruct_core.data.turns import Turn
from instruct_core.data.unread import ColumnCheck, News
from instruct_core.data.unwritten import unwritten
from instruct_core.errors import BadRowError, ConfigError

MAX_BAD_ROWS = 1000  # that are listed: a plan is read whole, by every task
MAX_PROBLEM_CHARS = 500
# What stands in a text where a picture, film or sound goes: <image>, <image_1>, <|video_pad|>...
MARKER = re.compile(r"<\|?(?:image|video|audio)(?:_pad|_?\d{1,3})?\|?>")


@dataclass
class Notes:
    """What was noted of rows that stand one after another."""

    num_rows: int = 0
    news: News = field(default_factory=lambda: News([], Counter()))
    """What this reader had not met before."""
    bad_rows: list[dict[str, str]] = field(default_factory=list)
    num_bad_rows: int = 0
    num_open_ends: int = 0
    num_open_starts: int = 0
    num_markers: int = 0
    num_filled: int = 0  # that had keys of tools or calls which only other rows have
    num_text_calls: int = 0  # that have calls of tools which stand in a text
    num_lossy: int = 0  # that have characters which no token says
    unwritten: Counter[str] = field(default_factory=Counter)
    """Whose words the template does not write as they stand: in how many rows each."""
    is_anew: bool = False  # whether the template of the version before wrote one of them otherwise
    has_chats: bool = False
    hashes: array[int] = field(default_factory=lambda: array("Q"))  # of the texts of the good ones
    drafts: list[Draft] = field(default_factory=list)  # of each block, where tokens were made


class RowReader:
    """
    Reads rows: each is good or bad, whatever stands before it.

    Args:
        check: Knows the columns.
        template: Writes the rows.
        writer: Keeps their tokens; None where tasks will make them.
        loses: Tells whether a text has characters that no token says; None where none has.
    """

    def __init__(
        self,
        check: ColumnCheck,
        template: Template,
        writer: DraftWriter | None = None,
        loses: Callable[[str], bool] | None = None,
    ) -> None:
        self._check, self._template, self._writer, self._loses = check, template, writer, loses
        self._notes, self._block = Notes(), list[list[Segment]]()

    def take(self, record: Record) -> None:
        """Take the next row; the first one begins a block."""
        notes = self._notes
        notes.num_rows += 1
        segments = self._take_exchange(record) or self._take_chat(record)
        if self._writer is not None:
            if segments is not None:
                self._block.append(segments)
            if notes.num_rows % BLOCK_ROWS == 0:
                self._end_block()

    def _take_exchange(self, record: Record) -> list[Segment] | None:
        """Take a row as most are, of which nothing else is to be noted; leave others, and return None."""
        fields = self._check.exchange(record)
        segments = self._template.exchange(*fields) if fields else None
        if segments is None:
            return None
        text = text_of(segments)
        if self._loses and self._loses(text):
            return None
        if "<" in text and MARKER.search(text):
            return None
        try:
            self._notes.hashes.append(hash_of(text))
        except UnicodeEncodeError:  # a lone surrogate: `chat` says where
            return None
        return segments

    def _take_chat(self, record: Record) -> list[Segment] | None:
        """Take any row, and note all there is to note of it; None for a bad one."""
        notes = self._notes
        try:
            chat = self._check.chat(record)
            segments = self._template.segments(chat.turns)
            text = text_of(segments)
            notes.hashes.append(hash_of(text))
        except ConfigError:  # the template's fault: every row would show it, and take its time
            raise
        except ValueError as error:
            notes.num_bad_rows += 1
            if len(notes.bad_rows) < MAX_BAD_ROWS:
                problem = str(error)[:MAX_PROBLEM_CHARS]
                notes.bad_rows.append({"where": record.where, "problem": problem})
            return None
        notes.num_open_ends += chat.has_open_end
        notes.num_open_starts += chat.has_open_start
        notes.has_chats = notes.has_chats or not chat.is_exchange or chat.has_open_end
        notes.num_markers += any(map(_has_marker, chat.turns))
        notes.num_filled += chat.had_fill
        notes.num_text_calls += chat.had_text_calls
        notes.num_lossy += self._loses is not None and self._loses(text)
        if self._template.text:  # the code's own leave nothing out
            notes.unwritten.update(unwritten(chat.turns, segments))
        notes.is_anew = notes.is_anew or self._template.writes_anew(chat.turns)
        return segments

    def _end_block(self) -> None:
        assert self._writer is not None
        block, self._block = self._block, []
        hashes = self._notes.hashes[len(self._notes.hashes) - len(block) :]
        self._notes.drafts.append(self._writer.write(block, hashes))

    def notes(self) -> Notes:
        """Return what was noted of the rows since this was asked."""
        if self._writer is not None and self._notes.num_rows % BLOCK_ROWS:
            self._end_block()
        notes, self._notes = self._notes, Notes()
        notes.news = self._check.news()
        return notes


def _has_marker(turn: Turn) -> bool:
    """Return True if a row itself has a marker; a template may write some of its own."""
    text = f"{turn.text}\n{turn.input}" if turn.input else turn.text
    return "<" in text and MARKER.search(text) is not None


class SeenRows:
    """What was noted of all rows of a source."""

    def __init__(
        self, source: Source, check: ColumnCheck, template: Template, texts: Texts | None = None
    ) -> None:
        self._source, self._check, self._template = source, check, template
        self.texts = Texts() if texts is None else texts
        self.drafts: list[Draft] = []
        self.bad_rows: list[dict[str, str]] = []
        self.num_rows = self.num_bad_rows = self.num_open_ends = self.num_open_starts = 0
        self.num_markers = self.num_filled = self.num_text_calls = self.num_lossy = 0
        self._unwritten = Counter[str]()
        self._has_chats, self._is_anew = bool(check.columns.messages), False

    def add(self, notes: Notes) -> None:
        """Add what was noted of the next rows."""
        self._check.add(notes.news)
        self.texts.extend(notes.hashes)
        self.drafts += notes.drafts
        self.num_rows += notes.num_rows
        self.num_bad_rows += notes.num_bad_rows
        for bad in notes.bad_rows[: MAX_BAD_ROWS - len(self.bad_rows)]:
            self.bad_rows.append(bad | {"where": self._source.shown(bad["where"])})
        self.num_open_ends += notes.num_open_ends
        self.num_open_starts += notes.num_open_starts
        self.num_markers += notes.num_markers
        self.num_filled += notes.num_filled
        self.num_text_calls += notes.num_text_calls
        self.num_lossy += notes.num_lossy
        self._unwritten += notes.unwritten
        self._is_anew = self._is_anew or notes.is_anew
        self._has_chats = self._has_chats or notes.has_chats

    @property
    def facts(self) -> dict[str, Any]:
        """What a plan says of the rows, under the names of its fields."""
        check, template = self._check, self._template
        return {
            "columns": str(check.columns),
            "bad_rows": self.bad_rows,
            "more_bad_rows": self.num_bad_rows - len(self.bad_rows),
            "refused": check.refused,
            "unread": check.unread,
            "template": name_of_rows(template, self._is_anew, self._has_chats),
            "template_text": template.text,
            "num_open_ends": self.num_open_ends,
            "num_open_starts": self.num_open_starts,
            "num_markers": self.num_markers or None,
            "num_text_calls": self.num_text_calls or None,
            "num_lossy": self.num_lossy or None,
            "unwritten": dict(sorted(self._unwritten.items())) or None,
            "num_filled": self.num_filled if has_types(self._source.files) else None,
        }

    def check_usable(self, skip_bad_rows: bool) -> None:
        """
        Refuse a source that no shards can be made of.

        Raises:
            BadRowError: A row is bad, and none may be.
            ConfigError: There is no row, or none that is good.
        """
        if self.num_bad_rows and not skip_bad_rows:
            first, others = self.bad_rows[0], self.num_bad_rows - 1
            more = (
                f" ({others:,} more bad {'row follows' if others == 1 else 'rows follow'})"
                if others
                else ""
            )
            raise BadRowError(bad_row(first["where"], first["problem"], more))
        if not self.num_rows:
            raise ConfigError(f"Source {self._source.name} has no rows.")
        if self.num_bad_rows == self.num_rows:
            first = self.bad_rows[0]
            raise ConfigError(
                f"Source {self._source.name} has no usable row: {self.num_rows:,} read, the first "
                f"({first['where']}) is bad: {first['problem']}."
            )


def bad_row(where: str, problem: str, more: str = "") -> str:
    """Return the message about a row that stops the command."""
    return f"Row {where} cannot be used: {problem}{more}. Fix it, or pass --skip-bad-rows."
