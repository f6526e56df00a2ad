"""
Which columns of a dataset hold the instruction, the input and the output.

    columns = detect_columns(records)          # or parse_columns("instruction=question,output=answer")
    row = columns.to_row(record)               # ValueError says what is wrong with the record
    row = columns.to_question(record)          # the same, of a record that has no output yet

Known are a question (instruction, prompt, question or input) with its answer (output, response,
completion or answer) and, beside them, an input or context; and chat `messages`, a list of {"role",
"content"}. Anything else is named by hand. What else a row has, and nobody reads: see unread.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from instruct_core.data.template import Row, with_history
from instruct_core.errors import ConfigError

FIELDS = ("instruction", "input", "output")
# Names that are known for each, the first before the others.
QUESTIONS = ("instruction", "prompt", "question", "input")
INPUTS = ("input", "context")
ANSWERS = ("output", "response", "completion", "answer")
SHOWN_NAMES = 20
MAX_NAME_CHARS = 80


class EmptyQuestionError(ValueError):
    """The question says nothing; all else may be well."""


class Columns(NamedTuple):
    """Names of a dataset's columns; with ``messages`` set, the other three are not used."""

    instruction: str = ""
    input: str = ""
    output: str = ""
    messages: str = ""

    def __str__(self) -> str:
        return ",".join(f"{field}={name}" for field, name in self._asdict().items() if name)

    def to_row(self, record: Any) -> Row:
        """
        Return the row of one source record.

        Raises:
            ValueError: What is wrong with the record, without its place.
        """
        row = self.to_question(record, is_answered=True)
        if not self.messages:
            row = row._replace(output=_text(record, self.output))
        if not row.output or row.output.isspace():
            column = self.output or self.messages
            raise ValueError(f"column {column} is empty: no response to learn")
        return row

    def to_question(self, record: Any, is_answered: bool = False) -> Row:
        """
        Return the instruction and input of one record.

        Args:
            is_answered: Whether messages end with the answer, or with the question.

        Raises:
            ValueError: What is wrong with the record, without its place.
        """
        if not isinstance(record, dict):
            raise ValueError(f"the row is a {_json_type(record)}, expected an object")
        if self.messages:
            row = _from_messages(record, self.messages, is_answered)
        else:
            context = record.get(self.input) if self.input else None
            is_empty = context is None or context == "" or _is_nan(context)
            row = Row(
                _text(record, self.instruction), "" if is_empty else _text(record, self.input), ""
            )
        if not row.instruction or row.instruction.isspace():
            raise EmptyQuestionError(f"column {self.instruction or self.messages} is empty")
        return row


ALPACA = Columns(instruction="instruction", input="input", output="output")
DOLLY = Columns(instruction="instruction", input="context", output="response")
CHAT = Columns(messages="messages")


def detect_columns(records: Sequence[Any]) -> Columns:
    """
    Return the shape of the first record that has a known one.

    The input is the column of that kind that is filled most often; a shape that has none of its own
    keeps its usual name for it, for rows to come.

    Raises:
        ConfigError: None has; the message names the columns of the first.
    """
    for names in _names_by_row(records):
        question, answer = _first(QUESTIONS, names), _first(ANSWERS, names)
        if "messages" in names and not (question == "instruction" and answer):
            return CHAT
        if question and answer:
            return Columns(question, _input_beside(question, answer, records), answer)
    raise ConfigError(
        "Columns must be those of Alpaca (instruction, input, output), Dolly (instruction, context, "
        f"response), chat (messages), or a question and its answer, found: {_found(records)}. "
        "Name them: --columns instruction=NAME,output=NAME[,input=NAME]"
    )


def detect_questions(records: Sequence[Any]) -> Columns:
    """
    Return the shape of the first record that has a known one; an output is not needed.

    Raises:
        ConfigError: None has; the message names the columns of the first.
    """
    for names in _names_by_row(records):
        question = _first(QUESTIONS, names)
        if "messages" in names and question != "instruction":
            return CHAT
        if question:
            return Columns(question, _input_beside(question, "", records))
    raise ConfigError(
        "Columns must have instruction, prompt, question or messages among them, found: "
        f"{_found(records)}. Name them: --columns instruction=NAME[,input=NAME]"
    )


def is_filled(value: Any) -> bool:
    """Return True if a column's value says something: NaN, as tables write no value, does not."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}")
    return value is not None and value not in ([], {}) and not _is_nan(value)


def _objects(records: Sequence[Any]) -> Iterator[dict[str, Any]]:
    return (record for record in records if isinstance(record, dict))


def _names_by_row(records: Sequence[Any]) -> Iterator[Collection[str]]:
    """Yield the columns of each row; first those that are not null, as in a table of many shapes."""
    for record in _objects(records):
        yield {name for name, value in record.items() if value is not None}
    for record in _objects(records):
        yield record.keys()


def _first(known: Sequence[str], names: Collection[str]) -> str:
    return next((name for name in known if name in names), "")


def _input_beside(question: str, answer: str, records: Sequence[Any]) -> str:
    """Return which column is the input: the one filled most often, else one that is there."""
    order = INPUTS[::-1] if answer == DOLLY.output else INPUTS

    def weight(name: str) -> tuple[int, int]:
        values = [record[name] for record in _objects(records) if name in record]
        return sum(map(is_filled, values)), len(values)

    return max((name for name in order if name != question), key=weight)


def _found(records: Sequence[Any]) -> str:
    return shown_names(next(_objects(records), {})) or "none"


def shown_names(names: Iterable[str]) -> str:
    """Return the names of columns for a message."""
    plain = [plain_name(name) for name in names]
    more = len(plain) - SHOWN_NAMES
    return ", ".join(plain[:SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def plain_name(name: str) -> str:
    """Return a column's name as it can be printed, and written on one line."""
    text = name.encode(errors="backslashreplace").decode()
    return (text if text.isprintable() and text.strip() else repr(text))[:MAX_NAME_CHARS]


def parse_columns(text: str, is_answered: bool = True) -> Columns:
    """
    Return the columns written as ``instruction=question,output=answer`` or ``messages=turns``.

    Args:
        is_answered: Whether an output must be among them, or must not.

    Raises:
        ConfigError: Another word, a word twice, or neither the pair nor messages.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    given = {field.strip(): name.strip() for field, _, name in pairs}
    known = {*FIELDS, "messages"}
    output = {"output"} if is_answered else set()
    complete = given.keys() in (
        {"messages"},
        {"instruction", *output},
        {"instruction", "input", *output},
    )
    if (
        len(given) != len(pairs)
        or not given.keys() <= known
        or not all(given.values())
        or not complete
    ):
        pair = "instruction=NAME,output=NAME" if is_answered else "instruction=NAME"
        raise ConfigError(f"--columns must be {pair}[,input=NAME] or messages=NAME, got {text!r}")
    return Columns(**given)


def _from_messages(record: dict[str, Any], column: str, is_answered: bool) -> Row:
    """The last answer is the output; everything before it, in the template's words, leads to it."""
    if column not in record:
        raise ValueError(f"column {column} is missing")
    turns = record[column]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"column {column} is a {_json_type(turns)}, expected a list of messages")
    roles = [turn.get("role") for turn in turns]
    texts = [_text(turn, "content") for turn in turns]
    system = texts.pop(0) + "\n\n" if roles[:1] == ["system"] else ""
    by_turns = ["user", "assistant"] * (len(texts) // 2) + ["user"] * (not is_answered)
    if not texts or roles[bool(system) :] != by_turns:
        last = "" if is_answered else ", the last one user's"
        raise ValueError(
            f"column {column} has roles {roles}, expected user and assistant by turns{last} "
            "(after at most one system)"
        )
    if not is_answered:
        texts.append("")
    *history, instruction, output = [text.strip() for text in texts]
    pairs = zip(history[::2], history[1::2], strict=True)
    instruction = with_history(
        [Row(question, "", answer) for question, answer in pairs], instruction
    )
    return Row(system + instruction, "", output)


def _text(record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        if column not in record:
            raise ValueError(f"column {column} is missing")
        raise ValueError(f"column {column} is a {_json_type(value)}, expected text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"column {column} is not valid UTF-8: lone surrogate at {error.start}"
        ) from None
    return value


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number"}
    names |= {float: "number", type(None): "null"}
    return "NaN" if _is_nan(value) else names.get(type(value), type(value).__name__)


def _is_nan(value: Any) -> bool:
    """Return True for what tables write where they have no value."""
    return isinstance(value, float) and math.isnan(value)
