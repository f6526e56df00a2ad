"""
Which columns of a dataset hold the instruction, the input and the output.

    columns = detect_columns(records)          # or parse_columns("instruction=question,output=answer")
    row = columns.to_row(record)               # ValueError says what is wrong with the record
    row = columns.to_question(record)          # the same, of a record that has no output yet

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
            row = Row(
                _text(record, self.instruction),
                "" if context is None or context == "" else _text(record, self.input),
                "",
            )
        if not row.instruction or row.instruction.isspace():
            raise ValueError(f"column {self.instruction or self.messages} is empty")
        return row


ALPACA = Columns(instruction="instruction", input="input", output="output")
DOLLY = Columns(instruction="instruction", input="context", output="response")
CHAT = Columns(messages="messages")
PROMPT = Columns(instruction="prompt", input="input")


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


def detect_questions(records: Sequence[Any]) -> Columns:
    """
    Return the shape of the first record that has a known one; an output is not needed.

    Raises:
        ConfigError: None has; the message names the columns of the first.
    """
    for record in records:
        if isinstance(record, dict):
            for columns in (DOLLY if "context" in record else ALPACA, CHAT, PROMPT):
                if {columns.instruction, columns.messages} - {""} <= record.keys():
                    return columns._replace(output="")
    found = next((", ".join(r) for r in records if isinstance(r, dict)), "none")
    raise ConfigError(
        f"Columns must have instruction, prompt or messages among them, found: {found}. "
        "Name them: --columns instruction=NAME[,input=NAME]"
    )


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
    roles = roles[1:] if system else roles
    by_turns = ["user", "assistant"] * (len(roles) // 2) + ["user"] * (not is_answered)
    if not roles or roles != by_turns:
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
    return names.get(type(value), type(value).__name__)
