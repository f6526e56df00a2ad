"""
Which columns of a dataset hold the instruction, the input and the output, or the chat.

    columns = detect_columns(records)          # or parse_columns("instruction=question,output=answer")
    chat = columns.to_chat(record)             # ValueError says what is wrong with the record
    chat = columns.to_question(record)         # the same, of a record that has no answer yet

Known are a question (instruction, prompt, question or input) with its answer (output, response,
completion or answer) and, beside them, an input or context and a history; lists of messages; and a
system prompt and tools beside either. How each is written, dialects/ knows. Anything else is named by
hand. What else a row has, and nobody reads: see unread.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from instruct_core.data.dialects import history, messages, plain, prompts
from instruct_core.data.dialects.tools import tools_of
from instruct_core.data.turns import Chat, Turn, ordered, with_tools
from instruct_core.data.values import a_type, is_filled
from instruct_core.errors import ConfigError

# Names that are known for each, the first before the others.
QUESTIONS = ("instruction", "prompt", "question", "input")
INPUTS = ("input", "context")
ANSWERS = ("output", "response", "completion", "answer")
CHATS = ("messages", "conversations", "conversation")
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORIES = ("history",)
TOOLS = ("tools", "functions")
SHOWN_NAMES = 20
MAX_NAME_CHARS = 80


class Columns(NamedTuple):
    """Names of a dataset's columns; with ``messages`` set, the first three are not used."""

    instruction: str = ""
    input: str = ""
    output: str = ""
    messages: str = ""
    system: str = ""
    history: str = ""
    tools: str = ""

    def __str__(self) -> str:
        return ",".join(f"{field}={name}" for field, name in self._asdict().items() if name)

    def to_chat(self, record: Any) -> Chat:
        """
        Return what one source record has to learn from.

        Raises:
            ValueError: What is wrong with the record, without its place.
        """
        return self._chat(record, self.output, is_answered=True)

    def to_question(self, record: Any) -> Chat:
        """
        Return what one record asks.

        Raises:
            ValueError: What is wrong with the record, without its place.
        """
        return self._chat(record, "", is_answered=False)

    def _chat(self, record: Any, answer: str, is_answered: bool) -> Chat:
        if not isinstance(record, dict):
            raise ValueError(f"the row is {a_type(record)}, expected an object")
        chat = self._said(record, answer, is_answered)
        if not self.tools:
            return chat
        return with_tools(chat, tools_of(record.get(self.tools), f"column {self.tools}"))

    def _said(self, record: dict[str, Any], answer: str, is_answered: bool) -> Chat:
        system = plain.optional(record, self.system) if self.system else ""
        before = [Turn("system", system)] if system.strip() else []
        if self.messages:
            if self.messages not in record:
                raise ValueError(f"column {self.messages} is missing")
            turns = messages.turns_of(record[self.messages], f"column {self.messages}")
        elif prompts.fits(record, self.instruction, answer):
            prompts.refuse_beside(record, self.instruction, (self.input, self.history))
            turns = prompts.turns_of(record, self.instruction, answer)
        else:
            turns = plain.turns_of(record, self.instruction, self.input, answer)
            if not self.history:
                return Chat((*before, *turns))
            said = record.get(self.history)
            earlier = history.turns_of(said, f"column {self.history}")
            if not earlier:
                return Chat((*before, *turns))
            turns = [*earlier, *turns]
        try:
            return ordered([*before, *turns], is_answered)
        except ValueError as error:
            column = self.messages or self.history or self.instruction
            raise type(error)(f"column {column} {error}") from None


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
    beside = _beside(records)
    for names in _names_by_row(records):
        question, answer = _first(QUESTIONS, names), _first(ANSWERS, names)
        chat = _first(CHATS, names)
        if chat and not (question == "instruction" and answer):
            return Columns(messages=chat, **beside)
        if question and answer:
            context = _input_beside(question, answer, records)
            return Columns(question, context, answer, **beside, history=_filled(HISTORIES, records))
    raise ConfigError(
        "Columns must be those of Alpaca (instruction, input, output), Dolly (instruction, context, "
        "response), chat (messages or conversations), or a question and its answer, found: "
        f"{_found(records)}. Name them: --columns instruction=NAME,output=NAME[,input=NAME]"
    )


def detect_questions(records: Sequence[Any]) -> Columns:
    """
    Return the shape of the first record that has a known one; an output is not needed.

    Raises:
        ConfigError: None has; the message names the columns of the first.
    """
    beside = _beside(records)
    for names in _names_by_row(records):
        question, chat = _first(QUESTIONS, names), _first(CHATS, names)
        if chat and question != "instruction":
            return Columns(messages=chat, **beside)
        if question:
            context = _input_beside(question, "", records)
            return Columns(question, context, **beside, history=_filled(HISTORIES, records))
    raise ConfigError(
        "Columns must have instruction, prompt, question or messages among them, found: "
        f"{_found(records)}. Name them: --columns instruction=NAME[,input=NAME]"
    )


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


def _beside(records: Sequence[Any]) -> dict[str, str]:
    """Return which columns are read beside any shape."""
    return {"system": _filled(SYSTEMS, records), "tools": _filled(TOOLS, records)}


def _filled(known: Sequence[str], records: Sequence[Any]) -> str:
    """Return which of some columns is filled most often; "" where none is."""

    def filled(name: str) -> int:
        return sum(is_filled(record.get(name)) for record in _objects(records))

    best = max(known, key=filled)
    return best if filled(best) else ""


def _found(records: Sequence[Any]) -> str:
    return shown_names(next(_objects(records), {})) or "none"


def shown_names(names: Iterable[str]) -> str:
    """Return names for a message, of columns or of files: some of them, and how many more there are."""
    plain = [plain_name(name) for name in names]
    more = len(plain) - SHOWN_NAMES
    return ", ".join(plain[:SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def plain_name(name: str) -> str:
    """Return a column's name as it can be printed, and written on one line."""
    text = name.encode(errors="backslashreplace").decode()
    is_plain = text.isprintable() and text == text.strip() != ""
    return (text if is_plain else repr(text))[:MAX_NAME_CHARS]


def parse_columns(text: str, is_answered: bool = True) -> Columns:
    """
    Return the columns written as ``instruction=question,output=answer`` or ``messages=turns``, either
    with ``,system=prompt`` and ``,tools=functions``, the first with ``,history=before`` too.

    Args:
        is_answered: Whether an output must be among them, or must not.

    Raises:
        ConfigError: Another word, a word twice, or neither the pair nor messages.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    given = {field.strip(): name.strip() for field, _, name in pairs}
    output = {"output"} if is_answered else set()
    beside = {"system", "tools"} if "messages" in given else {"system", "tools", "history"}
    complete = given.keys() - beside in (
        {"messages"},
        {"instruction", *output},
        {"instruction", "input", *output},
    )
    if len(given) != len(pairs) or not all(given.values()) or not complete:
        pair = "instruction=NAME,output=NAME" if is_answered else "instruction=NAME"
        raise ConfigError(
            f"--columns must be {pair}[,input=NAME][,history=NAME] or messages=NAME, each with "
            f"[,system=NAME][,tools=NAME], got {text!r}"
        )
    names = list(given.values())
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"--columns must name each column once, got {twice[0]} twice in {text!r}."
        )
    return Columns(**given)
