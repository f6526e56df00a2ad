"""
What a person typed for work that is on its way already, which will not take it.

    differences(typed, known)         # ["--time is 60, got 2"]

``known`` are the flags that the work has; ``typed`` are the same words read with those as defaults,
so that whatever differs was typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from instruct_core.errors import ConfigError
from instruct_core.recipe import flag_of

# Flags of the command that is typed now, not of the work; and what must not be shown.
OF_THE_COMMAND = ("cluster", "follow", "dry_run", "notify")


def differences(typed: Any, known: Any, apart_from: Collection[str] = OF_THE_COMMAND) -> list[str]:
    """
    Return a few words for each flag in which two dataclasses differ, and those inside them.

    Args:
        typed: What a person typed.
        known: What the work has.
        apart_from: Names that may differ.
    """
    found: list[str] = []
    for field in fields(typed):
        now, before = getattr(typed, field.name), getattr(known, field.name)
        if is_dataclass(now):
            found += differences(now, before, apart_from)
        elif field.name not in apart_from and now != before:
            found.append(difference(field.name, before, now))
    return found


def difference(name: str, before: Any, now: Any) -> str:
    """Return how the value of one flag differs, in a few words."""
    return f"{flag_of(name)} is {_in_words(before)}, got {_in_words(now)}"


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        value = shlex.join(value) or None
    return "not given" if value is None else str(value)


def refuse_typed(what: str, differing: Sequence[str], first: str) -> None:
    """
    Refuse flags that work on its way does not take.

    Args:
        what: The work and its state, as the beginning of a sentence.
        differing: From `differences`; nothing is refused where there are none.
        first: What ends the work, so that the same command is taken.

    Raises:
        ConfigError: Names the flags, both values of each, and what to do.
    """
    if differing:
        raise ConfigError(
            f"{what}, with other flags: {'; '.join(differing)}. Not taken: {first} first, then the "
            "same command; or leave them out."
        )
