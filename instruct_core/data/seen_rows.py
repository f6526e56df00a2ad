"""
What a scan notes of the rows of a source: their columns and texts, and which of them are bad.

    seen = SeenRows(source, columns=None, template=BY_HEADINGS)
    seen.take(record)                          # of every record
    seen.check_usable(skip_bad_rows=False)     # BadRowError names the first, and counts the others
"""

from __future__ import annotations

from typing import Any, NamedTuple

from instruct_core.data.columns import Columns
from instruct_core.data.record import Record
from instruct_core.data.sources import Source
from instruct_core.data.split import Texts
from instruct_core.data.template import Template, text_of
from instruct_core.data.templates import exchanges_name
from instruct_core.data.unread import ColumnCheck
from instruct_core.errors import BadRowError, ConfigError

MAX_BAD_ROWS = 1000  # that are listed: a plan is read whole, by every task
MAX_PROBLEM_CHARS = 500


class Noted(NamedTuple):
    """What was noted of some rows, for those who note the others."""

    num_rows: int
    hashes: bytes
    names: list[str]  # of columns that were met for the first time
    refused: list[str]  # of them, columns that must be empty
    bad_rows: list[dict[str, str]]
    num_bad_rows: int
    num_open_ends: int
    num_open_starts: int
    has_chats: bool


class SeenRows:
    """What a scan notes of the rows: columns, texts, how many are bad, and the first of these."""

    def __init__(
        self,
        source: Source,
        columns: Columns | None,
        template: Template,
        texts: Texts | None = None,
    ) -> None:
        self.check, self._source, self._template = ColumnCheck(source, columns), source, template
        self._is_chat = bool(self.check.columns.messages)
        self.begin_anew(texts)

    def begin_anew(self, texts: Texts | None = None) -> None:
        """Forget the rows, and no column that was met; ``texts`` takes what the next ones say."""
        self.texts, self.num_rows = Texts() if texts is None else texts, 0
        self.bad_rows: list[dict[str, str]] = []
        self.num_bad_rows = self.num_open_ends = self.num_open_starts = 0
        self._has_chats = self._is_chat
        self._num_known = len(self.check.names), len(self.check.refused)

    @property
    def noted(self) -> Noted:
        """What was noted since the beginning, for `merge`."""
        known, refused = self._num_known
        return Noted(
            self.num_rows, self.texts.hashes, self.check.names[known:], self.check.refused[refused:],
            self.bad_rows, self.num_bad_rows, self.num_open_ends, self.num_open_starts,
            self._has_chats,
        )  # fmt: skip

    def merge(self, noted: Noted) -> None:
        """Take what another has noted of the next rows."""
        self.num_rows += noted.num_rows
        self.texts.merge(noted.hashes)
        self.check.merge(noted.names, noted.refused)
        self.bad_rows += noted.bad_rows[: MAX_BAD_ROWS - len(self.bad_rows)]
        self.num_bad_rows += noted.num_bad_rows
        self.num_open_ends += noted.num_open_ends
        self.num_open_starts += noted.num_open_starts
        self._has_chats = self._has_chats or noted.has_chats

    @property
    def facts(self) -> dict[str, Any]:
        """What a plan says of the rows, under the names of its fields."""
        template = self._template
        return {
            "columns": str(self.check.columns),
            "bad_rows": self.bad_rows,
            "more_bad_rows": self.num_bad_rows - len(self.bad_rows),
            "refused": self.check.refused,
            "unread": self.check.unread,
            "template": template.name if self._has_chats else exchanges_name(template),
            "template_text": template.text,
            "num_open_ends": self.num_open_ends,
            "num_open_starts": self.num_open_starts,
        }

    def take(self, record: Record) -> None:
        """Take the next row."""
        self.num_rows += 1
        try:
            chat = self.check.chat(record)
            self.texts.add(text_of(self._template.segments(chat.turns)))
        except ValueError as error:
            self.num_bad_rows += 1
            if len(self.bad_rows) < MAX_BAD_ROWS:
                problem = str(error)[:MAX_PROBLEM_CHARS]
                self.bad_rows.append({"where": record.where, "problem": problem})
            return
        self.num_open_ends += chat.has_open_end
        self.num_open_starts += chat.has_open_start
        self._has_chats = self._has_chats or not chat.is_exchange or chat.has_open_end

    def check_usable(self, skip_bad_rows: bool) -> None:
        """
        Refuse a source that no shards can be made of.

        Raises:
            BadRowError: A row is bad, and none may be.
            ConfigError: There is no row, or none that is good.
        """
        if self.num_bad_rows and not skip_bad_rows:
            first, others = self.bad_rows[0], self.num_bad_rows - 1
            more = f" ({others:,} more bad rows follow)" if others else ""
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
