"""
The text that a chat becomes, in segments: which of it is a special token, and which is learnt.

    template = Alpaca(end="<|endoftext|>")         # see alpaca.py; others are in jinja_template.py
    template.segments(Exchange("Add the numbers.", "1, 2", "3").turns)
    # [Segment("### Instruction:\\nAdd ..."), Segment("3", is_learnt=True), Segment("<|endoftext|>", ...)]
    template.segments(chat.turns, asks=True)       # up to where the answer begins

Training, chat, generate and evaluate ask the same function, so a prompt is the beginning of what was
learnt, token for token. Every answer is learnt, and the special token behind it that ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from instruct_core.data.turns import Turn

BASE = "base"  # as it is typed: the template among a tokenizer's files
# Said of a row; where it is, and that it can be left out, others add.
NO_TOOLS = (
    "tools are filled, and are not read by this template (take one that writes them, as --template base "
    "of a base that calls tools does, or name the columns without: --columns)"
)


class Segment(NamedTuple):
    """A piece of a rendered chat."""

    text: str
    is_learnt: bool = False
    is_special: bool = False
    """The text is a special token's name; in all others such a name is ordinary text."""


class Template(Protocol):
    """
    How a chat is written.

    Attributes:
        name: Of the template and its version: part of the fingerprint of what is made with it.
        text: Its source, where it is a file; "" where this version of the code has it.
        heading: What begins a turn of the user, where a model that did not learn to end may write it.
    """

    name: str
    text: str
    heading: str

    def segments(self, turns: Sequence[Turn], asks: bool = False) -> list[Segment]:
        """
        Return a chat in pieces; a special token ends each answer.

        Args:
            turns: In the order of turns.py.
            asks: The turns end with what is to be answered: end where the answer begins.

        Raises:
            ValueError: The template cannot write these turns.
        """

    def exchange(self, question: str, context: str, answer: str) -> list[Segment] | None:
        """
        Return one question with its input and its answer in pieces, as `segments` does.

        None where that takes a closer look: it is the short way, for rows as most are. What it writes,
        the version before wrote alike, and nothing of a field is left out of it but blanks.
        """

    def writes_anew(self, turns: Sequence[Turn]) -> bool:
        """Return True if the version before this one wrote these turns in another way."""


def text_of(segments: Sequence[Segment]) -> str:
    """Return what the segments say, without special tokens."""
    return "".join([segment.text for segment in segments if not segment.is_special])
