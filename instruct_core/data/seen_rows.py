"""
What a scan notes of the rows of a source: their columns and texts, and which of them are bad.

    seen = SeenRows(source, columns=None, template=BY_HEADINGS)
    seen.take(record)                          # of every record
    seen.check_usable(skip_bad_rows=False)     # BadRowError names the first, and counts the others
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.columns import Columns
from instruct_core.data.record import Record
from instruct_core.data.sources import Source
from instruct_core.data.split import Texts
from instruct_core.data.template import Template, text_of
from instruct_core.data.templates import name_of_rows
from instruct_core.data.unread import ColumnCheck
from instruct_core.errors import BadRowError, ConfigError

MAX_BAD_ROWS = 1000  # that are listed: a plan is read whole, by every task
MAX_PROBLEM_CHARS = 500


class SeenRows:
    """What a scan notes of the rows: columns, texts, how many are bad, and the first of these."""

    def __init__(
        self,
        source: Source,
        columns: Columns | None,
        template: Template,
        texts: Texts | None = None,
    ) -> None:
        self.check, self.texts = ColumnCheck(source, columns), Texts() if texts is None else texts
        self._source, self._template, self.num_rows = source, template, 0
        self.bad_rows: list[dict[str, str]] = []
        self.num_bad_rows = self.num_open_ends = self.num_open_starts = 0
        self._has_chats, self._is_anew = bool(self.check.columns.messages), False

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
            "template": name_of_rows(template, self._is_anew, self._has_chats),
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
        except ConfigError:  # the template's fault: every row would show it, and take its time
            raise
        except ValueError as error:
            self.num_bad_rows += 1
            if len(self.bad_rows) < MAX_BAD_ROWS:
                problem = str(error)[:MAX_PROBLEM_CHARS]
                self.bad_rows.append({"where": record.where, "problem": problem})
            return
        self.num_open_ends += chat.has_open_end
        self.num_open_starts += chat.has_open_start
        self._is_anew = self._is_anew or self._template.writes_anew(chat.turns)
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
