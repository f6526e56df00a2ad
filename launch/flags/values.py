"""
From a word of a command line to a value, or a line that says what the flag takes.

    time: Annotated[int | None, optional("TIME", "minutes", int)] = None
    shards: Annotated[str | None, PATH] = None

Whole numbers, numbers and texts need no annotation. "None" stands for a default that is chosen
later: a resume goes back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import tyro
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

LONGEST_NUMBER = 30  # characters
SHOWN = 60  # characters of a word that does not fit
PATH = tyro.conf.arg(metavar="PATH")
TEXT = tyro.conf.arg(metavar="TEXT")


class _Kind(NamedTuple):
    metavar: str
    takes: str
    read: Callable[[str], Any]


def whole(word: str) -> int:
    """Return a whole number; raises ValueError for none, and for more digits than anything can have."""
    if len(word) > LONGEST_NUMBER:
        raise ValueError(word)
    return int(word)


KINDS: dict[Any, _Kind] = {
    int: _Kind("N", "a whole number", whole),
    float: _Kind("X", "a number", float),
    str: _Kind("NAME", "a text", str),
}


def step_word(word: str) -> str | int:
    """Return which step of a run is meant: "newest", "best" or a number; raises ValueError."""
    return word if word in ("newest", "best") else _count(word)


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError(word)
    return int(word)


def plain_words(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Return how a number or a text is read; None leaves other types to tyro. A rule of tyro's."""
    is_union = get_origin(info.type) in (Union, UnionType)
    may_be_none = is_union and NoneType in get_args(info.type)
    kind = KINDS.get(get_args(info.type)[0] if may_be_none else info.type)
    if kind is None:
        return None
    return optional(*kind) if may_be_none else required(*kind)


def required(metavar: str, takes: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """
    Declare how the value of a flag is read.

    Args:
        metavar: What stands for the value in --help.
        takes: What is right, in words that follow "takes".
        read: Turns the word into the value; raises ValueError where it does not fit.
    """

    def value_of(words: list[str]) -> Any:
        try:
            return read(words[0])
        except ValueError:
            shown = words[0] if len(words[0]) <= SHOWN else f"{words[0][:SHOWN]}…"
            raise ValueError(f"takes {takes}, got {shown or 'nothing'}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=value_of,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def optional(metavar: str, takes: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """Declare how the value of a flag is read that can be left out; as `required`."""
    return required(metavar, takes, lambda word: None if word == "None" else read(word))
