"""
Which columns of a dataset hold the instruction, the input and the output.

    columns = detect_columns(records)          # or parse_columns("instruction=question,output=answer")
    row = columns.to_row(record)               # ValueError says what is wrong with the record

Three shapes are known: Alpaca's (instruction, input, output), Dolly's (instruction, context,
response) and chat `messages`, a list of {"role", "content"}. Anything else is named by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from instruct_core.data.template import Row, with_history
from instruct_core.errors import ConfigError

FIELDS = ("instruction", "input", "output")


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
        if not isinstance(record, dict):
            raise ValueError(f"the row is a {_json_type(record)}, expected an object")
        if self.messages:
            row = _from_messages(record, self.messages)
        else:
            context = record.get(self.input) if self.input else None
            row = Row(
                _text(record, self.instruction),
                "" if context is None or context == "" else _text(record, self.input),
                _text(record, self.output),
            )
        if not row.instruction or row.instruction.isspace():
            raise ValueError(f"column {self.instruction or self.messages} is empty")
        if not row.output or row.output.isspace():
            column = self.output or self.messages
            raise ValueError(f"column {column} is empty: no response to learn")
        return row


ALPACA = Columns(instruction="instruction", input="input", output="output")
DOLLY = Columns(instruction="instruction", input="context", output="response")
CHAT = Columns(messages="messages")


def detect_columns(records: Sequence[Any]) -> Columns:
    """
    Return the shape of the first record that has a known one.

    Raises:
        ConfigError: None has; the message names the columns of the first.
    """
    for record in records:
        if isinstance(record, dict):
            for columns in (ALPACA, DOLLY, CHAT):
                if {columns.instruction, columns.output, columns.messages} - {""} <= record.keys():
                    return columns
    found = next((", ".join(r) for r in records if isinstance(r, dict)), "none")
    raise ConfigError(
        f"Columns must be those of Alpaca (instruction, input, output), Dolly (instruction, context, "
        f"response) or chat (messages), found: {found}. "
        f"Name them: --columns instruction=NAME,output=NAME[,input=NAME]"
    )


def parse_columns(text: str) -> Columns:
    """
    Return the columns written as ``instruction=question,output=answer`` or ``messages=turns``.

    Raises:
        ConfigError: Another word, a word twice, or neither the pair nor messages.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    given = {field.strip(): name.strip() for field, _, name in pairs}
    known = {*FIELDS, "messages"}
    complete = given.keys() in ({"messages"}, {"instruction", "output"}, set(FIELDS))
    if (
        len(given) != len(pairs)
        or not given.keys() <= known
        or not all(given.values())
        or not complete
    ):
        raise ConfigError(
            f"--columns must be instruction=NAME,output=NAME[,input=NAME] or messages=NAME, got {text!r}"
        )
    return Columns(**given)


def _from_messages(record: dict[str, Any], column: str) -> Row:
    """The last answer is the output; everything before it, in the template's words, leads to it."""
    if column not in record:
        raise ValueError(f"column {column} is missing")
    turns = record[column]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"column {column} is a {_json_type(turns)}, expected a list of messages")
    roles = [turn.get("role") for turn in turns]
    texts = [_text(turn, "content") for turn in turns]
    system = texts.pop(0) + "\n\n" if roles[:1] == ["system"] else ""
    roles = roles[1:] if system else roles
    if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"column {column} has roles {roles}, expected user and assistant by turns "
            "(after at most one system)"
        )
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
    return names.get(type(value), type(value).__name__)
