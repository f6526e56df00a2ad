"""
From the words of a command line to the fields of a dataclass, or one line that says what is wrong.

    flags = parse_flags(Preprocess, sys.argv[1:])

Flags are the fields of a dataclass; the text below a field is its help. A field annotated with
RARE is read like the others and left out of --help.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from instruct_core.errors import ConfigError
from instruct_core.names import PLAIN_NAME

RARE = "rare"  # Annotated[float, RARE]
Cluster = Literal["auto", "slurm", "local"]  # values of --cluster
T = TypeVar("T")


def parse_flags(
    flags: type[T], arguments: Sequence[str], default: T | None = None, program: str | None = None
) -> T:
    """
    Return the flags a person typed; --help prints and ends the program.

    Args:
        flags: A dataclass.
        arguments: Words of the command line.
        default: Values of what is not typed; None takes the dataclass's own.
        program: What a person types before the flags (default: the launcher named as the dataclass).

    Raises:
        ConfigError: A flag that is not known, or a value that does not fit; one line.
    """
    if {"-h", "--help"} & set(arguments):
        _hide_rare(flags)
    printed = io.StringIO()
    program = program or f"python launch/{flags.__name__.lower()}.py"
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                flags,
                prog=program,
                args=list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise ConfigError(f"{_first_message(printed.getvalue())} See {program} --help.") from None


def check_counts(flags: Any, *names: str) -> None:
    """
    Refuse a count below 1; None is a default that is chosen later.

    Raises:
        ConfigError: The first such flag.
    """
    for name in names:
        if (value := getattr(flags, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def _hide_rare(flags: type[Any]) -> None:
    for name, hint in get_type_hints(flags, include_extras=True).items():
        if RARE in getattr(hint, "__metadata__", ()):
            flags.__annotations__[name] = Annotated[hint.__origin__, tyro.conf.Suppress]


def _first_message(boxed: str) -> str:
    """Return tyro's message as one line: it prints a box of title, message, rule and hints."""
    lines = [line.strip("│ \n") for line in boxed.splitlines() if not line.startswith(("╭", "╰"))]
    message = []
    for line in lines:
        if line.startswith("──"):
            break
        message.append(line)
    text = " ".join(message).rstrip(".")
    meant = re.search(r"Perhaps you meant:\s+(--[\w-]+)", " ".join(lines))
    return f"{text}. Perhaps you meant {meant[1]}." if meant else f"{text}."


def check_name(run: str) -> None:
    """Refuse a run's name that leaves the folder of the runs, or hides in it; raises ConfigError."""
    if not PLAIN_NAME.fullmatch(run):
        raise ConfigError(
            "--run must be a plain name of letters, digits, '.', '_' and '-' that begins with a letter "
            f"or a digit, got {run!r}."
        )
