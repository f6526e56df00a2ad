"""
A row as what it is: turns of a chat, each with a role and a text.

    chat = ordered([Turn("user", "Hi."), Turn("assistant", "Hello."), Turn("user", "Bye.")])
    chat.turns, chat.has_open_end           # the first two, True: nobody answers the last

However a source writes its chats, they leave the dialects in this one form, and `ordered` brings them
into the order that templates know: at most one system turn, first; then a user; every answer after a
user or a tool. docs/formats.md has the rules.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

EXCHANGE = ["user", "assistant"]


class EmptyQuestionError(ValueError):
    """The question says nothing; all else may be well."""


class Turn(NamedTuple):
    """What one side says; ``role`` is system, user, assistant or tool."""

    role: str
    text: str
    input: str = ""
    """Of a user's turn: what the question is about, where that is a field of its own."""
    calls: tuple[dict[str, Any], ...] = ()
    """Of an assistant's turn: the tools it calls, each with name and arguments."""
    learnt: bool = True
    """Of an assistant's turn: False for one that is only shown."""
    tools: tuple[dict[str, Any], ...] = ()
    """Of a system turn, which may say nothing else: what the assistant may call, in OpenAI's form."""
    unread: tuple[str, ...] = ()
    """Keys of its message that nobody reads; none in a chat, which counts them."""
    has_text_calls: bool = False
    """Of an assistant's turn: its calls were a text; never in a chat, which notes it."""

    @property
    def spoken(self) -> str:
        """The text, and after it the input or the calls, for templates that know neither."""
        if not self.input and not self.calls:  # as most
            return self.text
        parts = [self.text, self.input] if self.input.strip() else [self.text]
        parts += [
            f"<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in self.calls
        ]
        return "\n\n".join(parts) if self.input else "\n".join(part for part in parts if part)


class Exchange(NamedTuple):
    """A question with its input and its answer, and the system prompt of the talk; each may be empty."""

    instruction: str
    input: str = ""
    output: str = ""
    system: str = ""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The question, and the answer where there is one; without the system prompt."""
        question = Turn("user", self.instruction, self.input)
        return (question, Turn("assistant", self.output)) if self.output else (question,)


class Chat(NamedTuple):
    """The turns of a row, and what was left out of it."""

    turns: tuple[Turn, ...]
    has_open_end: bool = False  # turns after the last answer were left out
    has_open_start: bool = False  # answers before the first question were left out
    unread: tuple[str, ...] = ()  # keys of messages that nobody reads, once for each message
    had_fill: bool = False  # keys of tools or calls were left out that only other rows have
    had_text_calls: bool = False  # calls of tools were read that stand in a text

    @property
    def is_exchange(self) -> bool:
        """Whether it is one question with one answer, as Alpaca's rows are, and a system turn at most."""
        if len(self.turns) == 2:  # as most
            return self.turns[0].role == "user" and self.turns[1].role == "assistant"
        roles = [turn.role for turn in self.turns]
        return [role for role in roles if role != "system"] == EXCHANGE


def with_tools(chat: Chat, tools: tuple[dict[str, Any], ...]) -> Chat:
    """Return a chat whose assistant may call tools."""
    if not tools:
        return chat
    first, *others = chat.turns
    head, body = (first, others) if first.role == "system" else (Turn("system", ""), chat.turns)
    return chat._replace(turns=(head._replace(tools=tools), *body))


def ordered(turns: Sequence[Turn], is_answered: bool = True) -> Chat:
    """
    Return a chat in the order that templates know.

    Args:
        turns: As they were written.
        is_answered: Whether the chat is there to learn from, and so must hold an answer; otherwise it
            must end with what is to be answered.

    Raises:
        EmptyQuestionError: What is to be answered says nothing.
        ValueError: The turns are in no such order, or one of them is empty; said of their column.
    """
    unread = tuple([name for turn in turns for name in turn.unread])
    had_text_calls = True in [turn.has_text_calls for turn in turns]
    if unread or had_text_calls:
        turns = [turn._replace(unread=(), has_text_calls=False) for turn in turns]
    head = [turn for turn in turns[:1] if turn.role == "system"]
    said = list(turns[len(head) :])
    if any(turn.role == "system" for turn in said):
        raise _in_disorder(turns, "at most one system, which is first")
    first = next((n for n, turn in enumerate(said) if turn.role == "user"), len(said))
    body = _joined(said[first:])
    for before, turn in itertools.pairwise(body):
        if turn.role == "tool" and before.role == "user":
            raise _in_disorder(turns, "tool after assistant")
    end = len(body)
    if is_answered:
        end = max((n + 1 for n, turn in enumerate(body) if turn.role == "assistant"), default=0)
    if not end or (not is_answered and body[-1].role == "assistant"):
        raise _in_disorder(
            turns,
            "an assistant after a user" if is_answered else "a user or a tool as the last one",
        )
    body_end = body[:end]
    _check_said(body_end, is_answered)
    system = [turn for turn in head if turn.text.strip()]
    return Chat(
        (*system, *body_end), end < len(body), first > 0, unread, had_text_calls=had_text_calls
    )


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with what one side says in a row as one; results of tools stay apart."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and turn.role == joined[-1].role != "tool":
            last = joined[-1]
            _check_alike(last, turn)
            joined[-1] = last._replace(
                text="\n\n".join(text for text in (last.text, turn.text) if text.strip()),
                calls=(*last.calls, *turn.calls),
            )
        else:
            joined.append(turn)
    return joined


def _check_alike(last: Turn, turn: Turn) -> None:
    """Refuse to join what is in one turn no more what it was in two; raises ValueError."""
    if turn.role == "assistant" and last.learnt != turn.learnt:
        raise ValueError("has two answers in a row, one of weight 0 and one to be learnt")
    if last.input or turn.input:
        raise ValueError("has two questions in a row, and an input that belongs to one of them")


def _check_said(turns: Sequence[Turn], is_answered: bool) -> None:
    answers = [turn for turn in turns if turn.role == "assistant"]
    if any(not turn.text.strip() and not turn.calls for turn in answers):
        raise ValueError("has an answer that is empty: no response to learn")
    if is_answered and not any(turn.learnt for turn in answers):
        raise ValueError("has no answer of weight 1: no response to learn")
    for turn in turns:
        if turn.role == "user" and not turn.text.strip():
            is_last = turn is turns[-1]
            raise (EmptyQuestionError if is_last else ValueError)("has a question that is empty")


def _in_disorder(turns: Sequence[Turn], expected: str) -> ValueError:
    return ValueError(
        f"has roles {[turn.role for turn in turns]}, expected user and assistant by turns "
        f"({expected})"
    )
