"""
From the words of a command line to the fields of a dataclass, or one line that says what is wrong.

    flags = parse_flags(Preprocess, sys.argv[1:], usage=__doc__)

Flags are the fields of a dataclass; the text below a field is its help. A field annotated with
RARE is read like the others, and shown by --help-all only.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import tyro

from instruct_core.errors import ConfigError
from instruct_core.names import PLAIN_NAME
from instruct_core.recipe import flag_of
from launch.console.lines import say
from launch.flags.help import description, fields_of, is_rare, shown, texts_of
from launch.flags.refusal import refusal, valued_switch

Cluster = Literal["auto", "slurm", "local", "debug"]  # values of --cluster
T = TypeVar("T")
MOST = 10**15  # of anything that is counted
LONGEST_NAME = 200  # letters of a run's name: what is made of it must still be a name to a disk


def parse_flags(
    flags: type[T],
    arguments: Sequence[str],
    default: T | None = None,
    program: str | None = None,
    usage: str | None = None,
) -> T:
    """
    Return the flags a person typed; --help and --help-all print and end the program.

    Args:
        flags: A dataclass.
        arguments: Words of the command line.
        default: Values of what is not typed; None takes the dataclass's own.
        program: What a person types before the flags (default: the launcher named as the dataclass).
        usage: The launcher's docstring, of which --help shows the examples; None under PYTHONOPTIMIZE=2.

    Raises:
        ConfigError: A flag that is not known, or a value that does not fit; one line.
    """
    program = program or f"python launch/{flags.__name__.lower()}.py"
    everything = "--help-all" in arguments
    asks_help = bool({"-h", "--help"} & set(arguments))
    if said := valued_switch(flags, arguments):
        raise ConfigError(f"{said} See {program} --help.")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed = tyro.cli(
                flags,
                prog=program,
                description=description(flags, program, usage),
                args=["--help"] if everything else list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                registry=shown(rare=everything or not asks_help),
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise ConfigError(
                f"{refusal(printed.getvalue(), flags, arguments)} See {program} --help."
            ) from None
        if not everything and any(is_rare(hint) for _, hint in fields_of(flags)):
            say(f"Flags that few need: {program} --help-all")
        raise
    _check_texts(parsed, program)
    return parsed


def _check_texts(flags: Any, program: str) -> None:
    """Refuse a place without a name, and a text that nothing can write; a place may be no UTF-8."""
    for name, is_place, word in texts_of(flags):
        if is_place and word:
            continue
        if is_place:
            raise ConfigError(
                f"{flag_of(name)} must name a place, got nothing: a variable in it may be empty. See "
                f"{program} --help."
            )
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{flag_of(name)} must be UTF-8, got {word!r}. Type it in a terminal of UTF-8; if the "
                "locale has none: export LC_ALL=C.UTF-8"
            ) from None


def check_counts(flags: Any, *names: str) -> None:
    """
    Refuse a count below 1, or beyond all that can be counted; None is a default that is chosen later.

    Raises:
        ConfigError: The first such flag.
    """
    for name in names:
        if (value := getattr(flags, name)) is not None and value < 1:
            raise ConfigError(f"{flag_of(name)} must be at least 1, got {value}.")
        if value is not None and value > MOST:
            raise ConfigError(f"{flag_of(name)} must be at most {MOST:,}, got {value}.")


def is_name(run: str) -> bool:
    """Return True for what `check_name` takes."""
    return bool(PLAIN_NAME.fullmatch(run)) and len(run) <= LONGEST_NAME


def check_name(run: str, typed: str) -> None:
    """
    Refuse a run's name that leaves the folder of the runs, or hides in it.

    Args:
        run: The name.
        typed: As what it was typed: a flag, or RUN for a word alone.

    Raises:
        ConfigError: Says what is wrong with the name, and where it was typed.
    """
    if not PLAIN_NAME.fullmatch(run):
        raise ConfigError(
            f"{typed} must be a plain name of letters, digits, '.', '_' and '-' that begins with a "
            f"letter or a digit, got {run!r}."
        )
    if len(run) > LONGEST_NAME:
        raise ConfigError(f"{typed} must have at most {LONGEST_NAME} letters, got {len(run)}.")
