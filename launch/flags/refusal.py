"""
What is said of a command line that does not fit: one line, from the box that tyro prints.

    refusal(boxed, Finetune, ["--lr", "3"])
    # There is no flag --lr. Perhaps you meant --learning-rate.

tyro has no exception to catch: it prints a box of title, message, rule and hints, and leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from instruct_core.recipe import flag_of
from launch.flags.help import fields_of
from launch.flags.nearest import nearest

CHOICE = r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)"
SENTENCES = {
    r"Error parsing (\S+): (.*)": r"\1 \2",
    CHOICE: r"\2 takes one of \3, got \1",
    r"Missing value for argument '(-\S+)'.*": r"\1 takes a value, got none",
}


def refusal(boxed: str, flags: type[Any], arguments: Sequence[str]) -> str:
    """
    Return why tyro refuses a command line.

    Args:
        boxed: What it has printed.
        flags: The dataclass.
        arguments: Words of the command line.
    """
    lines = [line.strip("│ \n") for line in boxed.splitlines() if not line.startswith(("╭", "╰"))]
    if "╭" not in boxed:  # drawn without a frame, where the locale has no letters for one
        lines = lines[2:]
    rule = next((at for at, line in enumerate(lines) if re.fullmatch("[─-]{3,}", line)), len(lines))
    text = " ".join(lines[:rule]).rstrip(".")
    if text.startswith("Unrecognized options:"):
        word = text.removeprefix("Unrecognized options:").strip().split(", ")[0]
        return _unknown(word, flags)
    if text.startswith("Missing") and (stranger := _stranger(flags, arguments)):
        return _unknown(stranger, flags)  # what was mistyped may be what is missing
    if text.startswith("Missing from "):
        missing = re.findall(r"(\S+)(?: [A-Z]+)? [A-Z].*?\(required\)", text.partition(": ")[2])
        return f"{' and '.join(missing)} must be given."
    if (found := re.match(r"Missing value for argument '(\w+)'", text)) is not None:
        flag = flag_of(found[1])
        is_typed = any(word.partition("=")[0] == flag for word in arguments)
        alone = f" as a word alone, without {flag}" if is_typed else ""
        return f"{found[1].upper()} must be given{alone}."
    for pattern, sentence in SENTENCES.items():
        if (found := re.fullmatch(pattern, text)) is not None:
            name, _, said = found.expand(sentence).partition(" ")
            said = f"{name if name.startswith('-') else name.upper()} {said}"
            return f"{said}nothing." if said.endswith(" ") else f"{said}."
    return f"{text}."


def valued_switch(flags: type[Any], arguments: Sequence[str]) -> str:
    """Return what is said of a switch with a value, which tyro takes for a word alone; "" for none."""
    switches = {flag_of(name) for name in _flags(flags, only_switches=True)}
    for word in arguments:
        flag, equals, value = word.partition("=")
        if equals and flag.replace("_", "-") in switches:
            return f"{flag} takes no value, got {value or 'an empty one'}."
    return ""


def _unknown(word: str, flags: type[Any]) -> str:
    known = [name for name, _ in fields_of(flags)]
    if not word.startswith("-"):
        is_place = "source" in known and bool(Path(word).suffix or "/" in word)
        hint = " Put a pattern in quotes: --source 'rows-*.jsonl'." if is_place else ""
        return f"No flag takes {f'the word {word}' if word else 'an empty word'}.{hint}"
    typed = word.partition("=")[0]
    meant = nearest(typed, list(_flags(flags)))
    suggestion = f" Perhaps you meant {' or '.join(meant)}." if meant else ""
    return f"There is no flag {typed}.{suggestion}"


def _stranger(flags: type[Any], arguments: Sequence[str]) -> str:
    """Return the first flag among the words that there is not; "" if all are known."""
    known = {flag_of(name) for name in (*_flags(flags), *(name for name, _ in fields_of(flags)))}
    typed = (word.partition("=")[0] for word in arguments if word.startswith("--"))
    return next((flag for flag in typed if flag.replace("_", "-") not in known), "")


def _flags(flags: type[Any], only_switches: bool = False) -> Iterator[str]:
    """Yield the fields that are typed as flags, and what turns them off; or those without a value."""
    for name, hint in fields_of(flags):
        is_switch = hint is bool or getattr(hint, "__origin__", None) is bool
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            continue
        if is_switch or not only_switches:
            yield name
        if is_switch:
            yield f"no_{name}"
