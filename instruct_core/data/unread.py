"""
Every column of a source is read, stops its row, or is named as not read.

    check = ColumnCheck(source, given=None)     # detects the columns
    chat = check.chat(record)                   # ValueError where a field is filled that nobody reads
    columns, unread = check.columns, check.unread

A column that looks like a field (a context, a history, a system prompt, images...) belongs to what
the row says: without it the answer would be learnt for another question. Who names the columns by
hand has seen the others, so these are only listed then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from instruct_core.data.columns import (
    ANSWERS,
    CHATS,
    QUESTIONS,
    SYSTEMS,
    Columns,
    detect_columns,
    detect_questions,
    plain_name,
    shown_names,
)
from instruct_core.data.dialects.typed import without_fill
from instruct_core.data.ranges import first_records
from instruct_core.data.record import Record
from instruct_core.data.sources import Source
from instruct_core.data.turns import Chat
from instruct_core.data.values import is_filled
from instruct_core.errors import BadRowError, ConfigError

CONTEXTS = {
    "audio", "audios", "choices", "context", "document", "documents", "functions", "history",
    "image", "images", "input", "options", "passage", "system", "system_message", "system_prompt",
    "tools", "video", "videos",
}  # fmt: skip
_NOTHING = (None, "")
LABEL = "label"  # false: an answer that was rated as bad (KTO)
MAX_NAMES = 1000  # that are remembered: a row may have its own


class News(NamedTuple):
    """What a reader has met in its rows, and others may not have."""

    names: list[str]  # of columns
    keys: Counter[str]  # that nobody reads: in how many messages each is


class ColumnCheck:
    """
    Reads the records of a source for the first time, and notes which columns they have.

    Args:
        source: Its first hundred rows are looked at where no columns are given.
        given: The columns that were named by hand; None detects them.
        is_answered: Whether rows end with the answer, or with the question.

    Raises:
        BadRowError: No row has columns that are known, and the first bad one may be why.
        ConfigError: No row at all, or columns that are not known.
    """

    def __init__(self, source: Source, given: Columns | None, is_answered: bool = True) -> None:
        self._given, self._is_answered = given, is_answered
        self._columns = given or _detected(source, is_answered)
        self._fields = _fields_beside(self._columns, is_answered) if given is None else set[str]()
        self._names, others = self._columns[:3], self._columns[3:]
        self._has_exchanges = is_answered and not any(others)
        self._seen = dict[str, None]()
        self._keys = Counter[str]()  # of messages
        self._news = News([], Counter())
        self.refused: list[str] = []
        """Columns of the source that look like a field and are not read: where filled, the row is bad."""

    def chat(self, record: Record) -> Chat:
        """
        Return the chat of a record.

        Raises:
            ValueError: What is wrong with the record, without its place.
        """
        if isinstance(record.value, dict) and not record.value.keys() <= self._seen.keys():
            self.note(name for name in record.value if name not in self._seen)
        chat = chat_of(record, self._columns, self.refused, self._is_answered)
        if chat.unread:
            self._news.keys.update(chat.unread)
        return chat

    def exchange(self, record: Record) -> tuple[str, str, str] | None:
        """
        Return the question, the input and the answer of a record that has nothing else to look at.

        None leaves it to `chat`, which sees more and takes five times as long.
        """
        value = record.value
        if not (self._has_exchanges and type(value) is dict and value.keys() <= self._seen.keys()):
            return None
        for name in self.refused:
            if value.get(name) not in _NOTHING:
                return None
        question, context, answer = self._names
        asked, answered = value.get(question), value.get(answer)
        said = value.get(context) if context else ""
        if said is None:
            said = ""
        if type(asked) is type(said) is type(answered) is str:
            return asked, said, answered
        return None

    def note(self, names: Iterable[str]) -> None:
        """Note columns that were met, in the order in which they were."""
        for name in list(names):
            looks_like_field = name.lower() in self._fields and name not in self.refused
            if looks_like_field:
                self.refused.append(name)
            is_kept = len(self._seen) < MAX_NAMES or name == self._columns.input
            if is_kept:
                self._seen.setdefault(name)
            if is_kept or looks_like_field:
                self._news.names.append(name)

    def news(self) -> News:
        """Return what was noted since this was asked, for who reads other rows."""
        news, self._news = self._news, News([], Counter())
        return news

    def add(self, news: News) -> None:
        """Note what was met in other rows."""
        self.note(news.names)
        for name, number in news.keys.items():
            if name in self._keys or len(self._keys) < MAX_NAMES:
                self._keys[name] += number

    @property
    def columns(self) -> Columns:
        """
        The columns that are read and that the source has.

        Raises:
            ConfigError: One was given for the input that no row has.
        """
        name = self._columns.input
        if not name or name in self._seen:
            return self._columns
        if self._given is not None and self._seen:
            raise ConfigError(
                f"--columns has input={name}, and no row has a column of that name, found: "
                f"{shown_names(self._seen)}."
            )
        return self._columns._replace(input="")

    @property
    def unread(self) -> list[str]:
        """The columns that are not read, in the order in which they were met; then keys of messages."""
        columns = self._columns
        names = [plain_name(n) for n in self._seen if n not in {read for read in columns if read}]
        chats = columns.messages or columns.history or columns.instruction
        keys = [
            f"{chats}.{plain_name(name)} (in {number:,})"
            for name, number in (self._keys + self._news.keys).items()
        ]
        return names + keys


def chat_of(
    record: Record, columns: Columns, refused: Iterable[str], is_answered: bool = True
) -> Chat:
    """
    Return the chat of a record.

    Args:
        refused: Columns that must be empty.

    Raises:
        ValueError: What is wrong with the record, without its place.
    """
    if record.problem:
        raise ValueError(record.problem)
    chat = _said(record, columns.to_chat if is_answered else columns.to_question, columns)
    # Most rows have nothing there, so the rule is asked of few.
    filled = [n for n in refused if (v := record.value.get(n)) not in _NOTHING and _is_filled(n, v)]
    if filled:
        # The first in the row, wherever reading began.
        name = min(filled, key=list(record.value).index)
        state = "false" if record.value[name] is False else "filled"
        named = columns if columns.messages else f"{columns._replace(input='')}[,input=NAME]"
        more = "[,system=NAME]" if name.lower() in SYSTEMS and not columns.system else ""
        raise ValueError(
            f"column {name} is {state}, and is not read (name the columns to leave it out: "
            f"--columns {named}{more})"
        )
    return chat


def _said(record: Record, read: Callable[[Any], Chat], columns: Columns) -> Chat:
    """Return what a record says, without what the types of its file have filled in."""
    if not record.is_typed:
        return read(record.value)
    bare = without_fill(record.value, columns)
    chat = read(bare)
    if bare is record.value:
        return chat
    try:
        had_fill = read(record.value).turns != chat.turns
    except ValueError:
        had_fill = True
    return chat._replace(had_fill=had_fill)


def _is_filled(name: str, value: Any) -> bool:
    return value is False if name.lower() == LABEL else is_filled(value)


def _fields_beside(columns: Columns, is_answered: bool) -> set[str]:
    """Return the names that belong to what a row says, besides the columns that are read."""
    if columns.messages:
        fields = {*CONTEXTS, *CHATS}  # a prompt beside a chat is a part of it
    elif is_answered:
        fields = {*CONTEXTS, *CHATS, *QUESTIONS, *ANSWERS, LABEL}
    else:
        fields = {*CONTEXTS, *CHATS, *QUESTIONS}  # answers beside questions are there to compare
    return fields - set(columns)


def _detected(source: Source, is_answered: bool) -> Columns:
    records = first_records(source.files)
    if not records:
        raise ConfigError(f"Source {source.name} has no rows.")
    try:
        values = [record.value for record in records if not record.problem]
        return detect_columns(values) if is_answered else detect_questions(values)
    except ConfigError:
        for record in records:
            if record.problem or not isinstance(record.value, dict):
                _refuse(record)
        raise


def _refuse(record: Record) -> None:
    """Say what is wrong with a record that can be no row, whatever its columns are."""
    try:
        chat_of(record, Columns(), ())
    except ValueError as error:
        raise BadRowError(f"Row {record.where} cannot be used: {error}. Fix it.") from None
