"""
How launchers talk: one line out, and never a traceback for what a person can fix.

    say("Shards are ready: 3,561 rows")
    say_whole(json.dumps(document))
    sys.exit(guarded(main))

Names, rows, answers and errors are anybody's text: whatever stands in it, it makes no line of its own,
moves no cursor, turns no direction of writing and fills no screen.
"""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct_core.errors import InstructError
from instruct_core.storage.patience import NO_ROOM
from jobs.process import put_back
from launch.console.commands import about_another_copy, as_typed
from launch.console.ctrl_c import EXIT_INTERRUPTED

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_BROKEN_PIPE = 141

LONGEST_LINE = 4000  # characters of a line: who needs a megabyte has the file that it is from

# What a terminal or a page obeys instead of showing it: ASCII's and Latin-1's controls, those that turn
# the direction of writing, what nobody sees, and halves of characters, which nothing can write. In the
# words of JSON, so that a document stays one.
CONTROLS = {
    code: rf"\u{code:04x}"
    for code in (
        *range(9), *range(11, 32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
        *range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xD800, 0xE000),
    )
}  # fmt: skip


def without_controls(text: str) -> str:
    """Return text with its control characters shown as numbers, but for line breaks and tabs."""
    # Most lines and all documents are looked at once, and not rewritten letter by letter.
    return text if text.isprintable() else text.replace("\r\n", "\n").translate(CONTROLS)


def shortened(text: str, at_most: int) -> str:
    """Return text without its middle where it is longer; how much that was stands in its place."""
    if len(text) <= at_most:
        return text
    begin, end = at_most - at_most // 4, at_most // 4
    left_out = counted(len(text) - begin - end, "character")
    return f"{text[:begin]} … {left_out} left out … {text[-end:]}"


def one_line(text: str, at_most: int = LONGEST_LINE) -> str:
    """Return text of any origin as one line."""
    text = shortened(text, at_most)
    return without_controls(" ↵ ".join(text.splitlines()).replace("\t", " "))


def say(text: str) -> None:
    """Print one line for the person, at once, whoever wrote a part of it."""
    print(one_line(text), flush=True)


def say_whole(text: str) -> None:
    """Print a document or some lines, all of it; what moves the cursor or hides text is shown."""
    print(without_controls(text), flush=True)


def counted(number: int, noun: str) -> str:
    """Return how many there are of something: 1 task, 3,561 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def perhaps(name: str, known: Iterable[str], above: str = "") -> str:
    """
    Return a sentence, with a blank before it, that names what may have been meant; "" for nothing.

    Args:
        name: As it was typed.
        known: The names that there are.
        above: What stands before each where it is shown.
    """
    close = [above + each for each in difflib.get_close_matches(name, list(known), n=2)]
    return f" Perhaps you meant {' or '.join(close)}." if close else ""


def note(text: str) -> None:
    """Print one line for the person beside what a program may read; as `say`."""
    print(one_line(text), file=sys.stderr, flush=True)


def note_whole(text: str) -> None:
    """Print some lines beside what a program may read; as `say_whole`."""
    print(without_controls(text), file=sys.stderr, flush=True)


def guarded(main: Callable[[], int]) -> int:
    """Run a launcher and return its exit code; what a person can fix becomes one line, code 2."""
    before = signal.getsignal(signal.SIGINT)
    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _run(main)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        put_back(signal.SIGINT, before)


def _run(main: Callable[[], int]) -> int:
    _prepare_streams()
    try:
        Path.cwd()
    except FileNotFoundError:
        note(
            "error: The folder that you type in is gone: somebody has removed it. Go to another one: cd"
        )
        return EXIT_BAD_INPUT
    try:
        if said := about_another_copy():
            note(said)
        return main()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (InstructError, OSError) as error:
        line = " ".join(_in_words(error).split())
        with suppress(OSError):  # where that goes may be full, or gone: the exit code says it too
            note(f"error: {as_typed(line)}")
        return EXIT_BAD_INPUT


def _prepare_streams() -> None:
    """Have all three there, nothing in those that are closed, and `?` for what a locale cannot write."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us, as `<&-` does
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  to stay
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def term_as_interrupt() -> Iterator[None]:
    """Let TERM do what Ctrl-C does, for as long as there is something that must not be left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        put_back(signal.SIGTERM, before)


@contextmanager
def ctrl_c_waits() -> Iterator[list[int]]:
    """
    Have Ctrl-C and TERM wait until this is over: what is half done in it nobody could undo.

    Yields:
        Which of them have come so far.
    """
    came = list[int]()
    before = {
        signum: signal.signal(signum, lambda number, _: came.append(number))
        for signum in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for signum, handler in before.items():
            put_back(signum, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _in_words(error: InstructError | OSError) -> str:
    if isinstance(error, InstructError) or not error.strerror:
        return str(error)
    if not error.filename and error.errno in NO_ROOM:  # of an open file: as `> FILE` makes it
        return f"What this command prints, or a file without a name, has no room: {error.strerror}."
    if not error.filename:
        return str(error)
    remedy = " Ask who owns it." if isinstance(error, PermissionError) else ""
    return f"{error.filename} cannot be used: {error.strerror}.{remedy}"
