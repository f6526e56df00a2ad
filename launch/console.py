"""
How launchers talk: flags in, one line out, and never a traceback for what a person can mend.

    flags = parse_flags(Preprocess, sys.argv[1:])
    say("Shards are ready: 3,561 rows")
    sys.exit(guarded(main))

Flags are the fields of a dataclass; the text below a field is its help. A field annotated with
RARE is read like the others and left out of --help.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from instruct_core.errors import ConfigError, InstructError

RARE = "rare"  # Annotated[float, RARE]
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

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


def say(text: str) -> None:
    """Print one line for the person, at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print one line for the person beside what a program may read."""
    print(text, file=sys.stderr, flush=True)


def guarded(main: Callable[[], int]) -> int:
    """Run a launcher and return its exit code; what a person can mend becomes one line, code 2."""
    # Read when torch is loaded, here and by jobs: threads that spin for long while they wait for
    # each other keep the very thread they wait for from a core that others use too. This many turns
    # are some 0.2 ms; the default is 60 times as many. See bench/busy_cores.py; libgomp's manual.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        return main()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (InstructError, OSError) as error:
        line = " ".join(str(error).split())
        note(f"error: {line}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
